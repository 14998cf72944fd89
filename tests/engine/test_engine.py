"""The engine on a tiny model: batching, prefixes, pictures, limits, and the calls that would abort the process in C."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine.engine import Engine, EngineRequest, StepOutput
from interns1_local.engine.llama import Batch, EngineError, Model
from interns1_local.engine.sampler_chain import SamplerChain
from interns1_local.engine.sampling import SamplingParams
from interns1_local.errors import BadRequest, ContextOverflow, LoadError, Unsupported
from tests.engine.conftest import ids, run

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
MakeEngine = Callable[..., Engine]


def prompts(count: int, low: int = 5, high: int = 200, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 250, size=int(n)).tolist() for n in random.integers(low, high, size=count)]


def test_eight_at_once_give_what_each_gives_alone(make_engine: MakeEngine) -> None:
    requests = [EngineRequest(i, prompt, GREEDY, 32) for i, prompt in enumerate(prompts(8))]
    alone = {request.id: ids(run(make_engine(), [request])[request.id]) for request in requests}
    engine = make_engine(n_cells=4096)
    together = {id: ids(outputs) for id, outputs in run(engine, requests).items()}
    assert together == alone
    again = run(engine, requests)
    assert {id: ids(outputs) for id, outputs in again.items()} == alone
    assert all(outputs[-1].usage.cached_tokens > 0 for outputs in again.values())


def test_a_full_cache_changes_no_answer(make_engine: MakeEngine) -> None:
    requests = [EngineRequest(i, prompt, GREEDY, 60) for i, prompt in enumerate(prompts(6, 20, 60, seed=1))]
    roomy = {id: ids(outputs) for id, outputs in run(make_engine(n_cells=2048), requests).items()}
    tight = make_engine(n_ctx=200, n_cells=256)
    assert {id: ids(outputs) for id, outputs in run(tight, requests).items()} == roomy


def test_a_seed_gives_the_same_answer_and_another_seed_another(make_engine: MakeEngine) -> None:
    engine = make_engine()
    prompt = prompts(1)[0]

    def answer(seed: int) -> list[int]:
        sampling = SamplingParams(temperature=1.5, top_k=0, top_p=1.0, seed=seed, ignore_eos=True)
        return ids(run(engine, [EngineRequest(1, prompt, sampling, 24)])[1])

    first = answer(1)
    assert answer(1) == first
    assert answer(2) != first


def test_ends_at_max_tokens_and_at_the_end_of_the_context(make_engine: MakeEngine) -> None:
    engine = make_engine(n_ctx=64)
    outputs = run(engine, [EngineRequest(1, [1, 2, 3], GREEDY, 5), EngineRequest(2, [1] * 60, GREEDY)])
    assert (outputs[1][-1].finish, len(ids(outputs[1]))) == ("length", 5)
    assert (outputs[2][-1].finish, len(ids(outputs[2]))) == ("length", 4)
    usage = outputs[1][-1].usage
    assert (usage.prompt_tokens, usage.output_tokens) == (3, 5)


def test_stops_at_an_end_token(make_engine: MakeEngine) -> None:
    engine = make_engine()
    end = min(engine.model.vocab.eog_ids)
    sampling = SamplingParams(temperature=0, logit_bias={end: 1e4})
    outputs = run(engine, [EngineRequest(1, [1, 2], sampling, 9)])
    assert (outputs[1][-1].finish, ids(outputs[1])) == ("stop", [])


def test_logprobs_of_a_greedy_answer(make_engine: MakeEngine) -> None:
    sampling = SamplingParams(temperature=0, logprobs=3, ignore_eos=True)
    outputs = run(make_engine(), [EngineRequest(1, [1, 2], sampling, 4)])[1]
    for output in outputs:
        (sampled,) = output.logprobs
        assert sampled.chosen == sampled.top[0]
        assert sampled.chosen.id == output.token_ids[0]
        assert len(sampled.top) == 3 and sampled.chosen.logprob <= 0


def test_a_prompt_that_does_not_fit_names_both_numbers(make_engine: MakeEngine) -> None:
    engine = make_engine(n_ctx=64)
    with pytest.raises(ContextOverflow, match=r"64 tokens.*64 tokens"):
        engine.add_request(EngineRequest(1, [1] * 64, GREEDY))
    assert not engine.has_work


@pytest.mark.parametrize("prompt", [[], [-1], [10**6], [2**40]])
def test_bad_prompts_are_refused_and_others_go_on(make_engine: MakeEngine, prompt: list[int]) -> None:
    engine = make_engine()
    with pytest.raises(BadRequest):
        engine.add_request(EngineRequest(1, prompt, GREEDY))
    assert len(ids(run(engine, [EngineRequest(2, [1, 2], GREEDY, 3)])[2])) == 3


def test_cancelling_stops_one_and_leaves_the_other(make_engine: MakeEngine) -> None:
    engine = make_engine()
    expected = ids(run(engine, [EngineRequest(1, [5, 6, 7], GREEDY, 40)])[1])
    engine.add_request(EngineRequest(2, [5, 6, 7], GREEDY, 40))
    engine.add_request(EngineRequest(3, [9, 8, 7], GREEDY, 400))
    outputs: dict[int, list[StepOutput]] = {2: [], 3: []}
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        if len(outputs[3]) == 4:
            engine.abort(3)
    assert outputs[3][-1].finish == "cancelled"
    assert len(ids(outputs[3])) <= 6
    assert ids(outputs[2]) == expected


def test_an_aborted_computation_is_repeated_for_those_who_stay(make_engine: MakeEngine) -> None:
    engine = make_engine(n_ctx=2048, n_batch=512)
    stays, leaves = prompts(1, 300, 301)[0], prompts(1, 1500, 1501, seed=3)[0]
    expected = ids(run(make_engine(n_ctx=2048, n_batch=512), [EngineRequest(1, stays, GREEDY, 8)])[1])
    engine.add_request(EngineRequest(1, stays, GREEDY, 8))
    engine.add_request(EngineRequest(2, leaves, GREEDY, 8))
    decode, aborted = engine.context.decode, []

    def decode_while_another_cancels(batch: Batch, embeddings: np.ndarray | None = None) -> None:
        if not aborted:
            aborted.append(True)
            thread = threading.Thread(target=engine.abort, args=(2,))
            thread.start()
            thread.join()
        decode(batch, embeddings)

    engine.context.decode = decode_while_another_cancels  # type: ignore[method-assign]
    outputs: dict[int, list[StepOutput]] = {1: [], 2: []}
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
    assert ids(outputs[1]) == expected
    assert [output.finish for output in outputs[2]] == ["cancelled"]


def test_pictures_take_part_and_are_remembered(make_engine: MakeEngine) -> None:
    engine = make_engine(vision=True)
    random = np.random.default_rng(0)
    pictures = [random.integers(0, 256, (56, 56, 3), np.uint8) for _ in range(2)]
    tiles = [engine.tile(picture, 4) for picture in pictures]
    sampling = SamplingParams(temperature=0, logprobs=5, ignore_eos=True)

    def answer(prompt: list[object]) -> list[StepOutput]:
        return run(engine, [EngineRequest(1, prompt, sampling, 6)])[1]

    first = answer([1, 2, 3, *tiles, 4])
    assert first[-1].usage.prompt_tokens == 12
    assert answer([1, 2, 3, tiles[1], tiles[0], 4])[0].logprobs != first[0].logprobs
    encode, calls = engine.vision._compute, []
    engine.vision._compute = lambda tile: calls.append(tile) or encode(tile)
    again = answer([1, 2, 3, *(engine.tile(picture, 4) for picture in pictures), 4])
    assert ids(again) == ids(first)
    assert again[-1].usage.cached_tokens == 11
    assert calls == []


def test_a_model_without_a_vision_file_refuses_pictures(make_engine: MakeEngine) -> None:
    with pytest.raises(Unsupported, match="mmproj"):
        make_engine().tile(np.zeros((56, 56, 3), np.uint8), 4)


def test_a_tile_of_another_size_ends_its_request_only(make_engine: MakeEngine) -> None:
    engine = make_engine(vision=True)
    wrong = engine.tile(np.zeros((56, 56, 3), np.uint8), 7)
    outputs = run(engine, [EngineRequest(1, [1, wrong, 2], GREEDY, 3), EngineRequest(2, [1, 2], GREEDY, 3)])
    assert isinstance(outputs[1][-1].error, EngineError)
    assert len(ids(outputs[2])) == 3


def test_calls_that_abort_in_c_are_errors_here(make_engine: MakeEngine) -> None:
    engine = make_engine()
    context, vocab = engine.context, engine.model.vocab
    batch = Batch(context.n_batch + 1)
    with pytest.raises(EngineError):
        context.decode(batch)
    batch.add([1] * (context.n_batch + 1), 0, 0, 1)
    with pytest.raises(EngineError):
        context.decode(batch)
    with pytest.raises(EngineError):
        batch.add([1], 0, 0, 1)
    for call in (
        lambda: context.remove(context.n_seq_max),
        lambda: context.share(0, -1, 4),
        lambda: context.logits(0),
        lambda: context.sample(SamplerChain(SamplingParams(), 1), 3),
    ):
        with pytest.raises(EngineError):
            call()
    for token in (-1, vocab.n_tokens):
        with pytest.raises(BadRequest):
            vocab.text(token)


@pytest.mark.parametrize("content", [b"", b"GGUF", b"not a model" * 100, b"GGUF\x03\x00\x00\x00" + b"\xff" * 64])
def test_a_file_that_is_no_model_is_a_load_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(LoadError, match=r"broken\.gguf"):
        Model(path)


def test_text_to_ids_and_back(make_engine: MakeEngine) -> None:
    vocab = make_engine().model.vocab
    tokens = vocab.encode("hello world\0 <think>")
    assert vocab.text(tokens[0]) == "hello"
    assert len(vocab.tokens) == vocab.n_tokens
    assert len(vocab.encode("<|im_start|>", parse_special=True)) == 1 < len(vocab.encode("<|im_start|>"))
