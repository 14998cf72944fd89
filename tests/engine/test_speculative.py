"""Guessing ahead changes no answer: with and without it, greedy or sampled, held to rules, alone or among others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine.engine import Engine, EngineOptions, EngineRequest, StepOutput
from interns1_local.engine.grammar import GrammarCompiler
from interns1_local.engine.guide import Guide, Marks, ThoughtRules
from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.sequence import Sequence, Tile
from interns1_local.engine.speculative import NgramIndex, Speculation, Speculator, StepCosts, best_lengths
from interns1_local.errors import BadRequest, LoadError
from tests.engine import conftest

GREEDY = SamplingParams(temperature=0)
ENDLESS = replace(GREEDY, ignore_eos=True)
OFF = Speculation("off")
QUESTIONS = (
    "What is 27 + 15?",
    "What is the SMILES of aspirin?",
    "Which molecule is CN1C=NC2=C1C(=O)N(C(=O)N2C)C?",
    "What is the sequence of oxytocin?",
    "Who are you?",
)


@pytest.fixture(scope="module")
def nano(nano_gguf: Callable[..., tuple[Path, Path]]) -> Path:
    return nano_gguf("F32")[0]


@pytest.fixture(scope="module")
def draft(nano_gguf: Callable[..., tuple[Path, Path]]) -> Path:
    return nano_gguf("Q8_0")[0]


@pytest.fixture(scope="module")
def engine(nano: Path) -> Engine:
    engine = Engine(nano, None, EngineOptions(n_ctx=1024, n_cells=8192, n_batch=256, kv_type="f32"))
    yield engine
    engine.close()


def run(engine: Engine, requests: list[EngineRequest], each: Callable[[], None] = lambda: None) -> list[Answer]:
    return [Answer(outputs) for outputs in conftest.run(engine, requests, each).values()]


class Answer:
    def __init__(self, outputs: list[StepOutput]) -> None:
        self.ids = conftest.ids(outputs)
        self.logprobs = [entry for output in outputs for entry in output.logprobs]
        self.finish = outputs[-1].finish
        self.error = outputs[-1].error
        self.usage = outputs[-1].usage

    @property
    def accepted(self) -> int:
        return self.usage.accepted_tokens


def question(engine: Engine, text: str, times: int = 1) -> list[int]:
    """The question in the nano's own words, after itself and its like as often as wanted."""
    turn = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>"
    return engine.model.vocab.encode(turn * times, parse_special=True)


def pieces_of(engine: Engine) -> list[bytes]:
    """What each token stands for, as far as these tests need it."""
    return [text.replace("Ġ", " ").replace("Ċ", "\n").encode() for text in engine.model.vocab.tokens]


def both(engine: Engine, requests: list[EngineRequest]) -> tuple[list[Answer], list[Answer]]:
    without = run(engine, [replace(request, speculation=OFF) for request in requests])
    return without, run(engine, requests)


SAMPLINGS = {
    "greedy": GREEDY,
    "sampled": SamplingParams(temperature=1.0, seed=11),
    "penalties": SamplingParams(temperature=0, repeat_penalty=1.3, presence_penalty=0.2, repeat_last_n=20),
    "sampled with penalties and a bias": SamplingParams(
        temperature=0.7, seed=3, frequency_penalty=0.4, logit_bias={70: 2.0}, min_tokens=20
    ),
}


@pytest.mark.parametrize("sampling", SAMPLINGS.values(), ids=SAMPLINGS)
def test_answers_are_the_same_alone_and_together(
    engine: Engine, sampling: SamplingParams, steps_cost_nothing: None
) -> None:
    prompts = [question(engine, text, times) for text in QUESTIONS for times in (1, 3)]
    requests = [EngineRequest(i, prompt, replace(sampling, logprobs=2), 40) for i, prompt in enumerate(prompts)]
    for group in ([[request] for request in requests], [requests[:4], requests[4:]]):
        pairs = [both(engine, some) for some in group]
        without, guessed = [a for some, _ in pairs for a in some], [a for _, some in pairs for a in some]
        assert [a.ids for a in guessed] == [a.ids for a in without]
        assert [a.finish for a in guessed] == [a.finish for a in without]
        assert sum(a.accepted for a in guessed) > 0
        assert all(a.usage.drafted_tokens >= a.accepted for a in guessed)
        for ours, theirs in zip(guessed, without, strict=True):
            assert len(ours.logprobs) == len(ours.ids)
            assert theirs.usage.drafted_tokens == 0
            np.testing.assert_allclose(
                [entry.chosen.logprob for entry in ours.logprobs],
                [entry.chosen.logprob for entry in theirs.logprobs],
                atol=1e-3,
            )


def repeating(engine: Engine) -> list[int]:
    """A prompt whose greedy answer, never ending, repeats itself."""
    return question(engine, "Who are you?")


def test_a_repetition_takes_few_steps_and_gives_each_token_its_own_output(
    engine: Engine, steps_cost_nothing: None
) -> None:
    engine.add_request(EngineRequest(1, repeating(engine), replace(ENDLESS, logit_bias={70: 100.0}), 100))
    outputs, steps = [], 0
    while engine.has_work:
        outputs += engine.step()
        steps += 1
    assert steps < 30
    assert [len(output.token_ids) for output in outputs] == [1] * 100


@pytest.mark.parametrize("limit", range(1, 30, 4))
def test_ends_inside_of_a_guess_at_max_tokens(engine: Engine, limit: int, steps_cost_nothing: None) -> None:
    request = EngineRequest(1, repeating(engine), replace(ENDLESS, logit_bias={70: 100.0}), limit)
    (without,), (guessed,) = both(engine, [request])
    assert guessed.ids == without.ids
    assert (guessed.finish, guessed.usage.output_tokens) == ("length", limit)


def test_ends_at_an_end_token_inside_of_a_guess_and_what_is_kept_serves_later(
    engine: Engine, steps_cost_nothing: None
) -> None:
    prompt = question(engine, QUESTIONS[1])
    (plain,) = run(engine, [EngineRequest(1, prompt, GREEDY, speculation=OFF)])
    assert plain.finish == "stop"
    # The prompt holds the answer and goes on after it: what is guessed there runs over the answer's end.
    told = [*prompt, *plain.ids, *question(engine, QUESTIONS[4])[:6], *prompt]
    request = EngineRequest(2, told, GREEDY, 80)
    (without,), (guessed,) = both(engine, [request])
    assert (guessed.ids, guessed.finish) == (without.ids, without.finish) == (plain.ids, "stop")
    assert guessed.accepted > len(plain.ids) // 2
    after = [*told, *plain.ids, *question(engine, QUESTIONS[0])]
    (without,), (guessed,) = both(engine, [EngineRequest(3, after, GREEDY, 60)])
    assert guessed.ids == without.ids
    assert without.usage.cached_tokens >= len(told)


def test_ends_at_the_end_of_the_context(nano: Path, steps_cost_nothing: None) -> None:
    engine = Engine(nano, None, EngineOptions(n_ctx=96, n_batch=64, n_seq_max=2, kv_type="f32"))
    request = EngineRequest(1, repeating(engine), replace(ENDLESS, logit_bias={70: 100.0}))
    (without,), (guessed,) = both(engine, [request])
    engine.close()
    assert guessed.ids == without.ids
    assert guessed.finish == "length" and len(request.prompt) + len(guessed.ids) == 96


def test_a_full_cache_changes_no_answer(nano: Path, steps_cost_nothing: None) -> None:
    engine = Engine(nano, None, EngineOptions(n_ctx=200, n_cells=256, n_batch=64, n_seq_max=4, kv_type="f32"))
    requests = [EngineRequest(i, question(engine, text), ENDLESS, 80) for i, text in enumerate(QUESTIONS)]
    without, guessed = both(engine, requests)
    engine.close()
    assert [len(a.ids) for a in guessed] == [80] * len(requests)
    assert [a.ids[:20] for a in guessed] == [a.ids[:20] for a in without]


def test_a_cancelled_request_leaves_the_others(engine: Engine, steps_cost_nothing: None) -> None:
    requests = [EngineRequest(i, question(engine, text, 2), GREEDY, 40) for i, text in enumerate(QUESTIONS[:3])]
    expected = run(engine, [replace(request, speculation=OFF) for request in requests])
    n_steps = 0

    def cancel() -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == 4:
            engine.abort(9)

    bias = replace(ENDLESS, logit_bias={70: 100.0})
    *guessed, cancelled = run(engine, [*requests, EngineRequest(9, repeating(engine), bias, 900)], cancel)
    assert cancelled.finish == "cancelled" and len(cancelled.ids) < 200
    assert [a.ids for a in guessed] == [a.ids for a in expected]


def test_a_guide_is_followed_inside_of_guesses(engine: Engine, steps_cost_nothing: None) -> None:
    """A thought is cut short where its budget ends, also in the middle of a guess, and the answer is limited."""
    vocab = engine.model.vocab
    marks = Marks.of(pieces_of(engine), vocab.encode("\n</think>\n\n", parse_special=True))
    rules = ThoughtRules(starts_inside=True, budget=9, max_answer_tokens=5)
    prompt = question(engine, QUESTIONS[0], 3)
    without, guessed = (
        run(engine, [EngineRequest(1, prompt, ENDLESS, 60, Guide(rules, marks), speculation=speculation)])[0]
        for speculation in (OFF, Speculation())
    )
    assert guessed.ids == without.ids
    assert guessed.usage.thought_tokens == without.usage.thought_tokens > 0
    assert guessed.finish == "length" and len(guessed.ids) < 30


def test_what_a_grammar_forces_is_guessed(engine: Engine, steps_cost_nothing: None) -> None:
    vocab, pieces = engine.model.vocab, pieces_of(engine)
    marks = Marks.of(pieces, [0], lambda data: vocab.encode(data.decode()))
    grammar = GrammarCompiler(pieces, [], vocab.eog_ids)
    prompt = question(engine, QUESTIONS[0])
    answers = []
    for speculation in (OFF, Speculation("draft")):
        matcher = grammar.matcher('start: "the quick brown fox " ("jumps" | "sleeps") " over the lazy dog"')
        guide = Guide(ThoughtRules(), marks, matcher)
        answers += run(engine, [EngineRequest(1, prompt, GREEDY, 90, guide, speculation=speculation)])
    without, guessed = answers
    assert guessed.ids == without.ids and guessed.finish == without.finish == "stop"
    text = b"".join(pieces[token] for token in guessed.ids)
    assert text.startswith(b"the quick brown fox ") and text.endswith(b" over the lazy dog")
    assert guessed.accepted > 3


def test_pictures_are_never_guessed(make_engine: Callable[..., Engine], steps_cost_nothing: None) -> None:
    engine = make_engine(vision=True)
    tile = engine.tile(np.zeros((56, 56, 3), np.uint8), 4)
    prompt: list[int | Tile] = [7, 8, tile, 9, 7, 8, tile, 9, 7, 8]
    without, guessed = both(engine, [EngineRequest(1, prompt, ENDLESS, 40)])
    assert guessed[0].error is None
    assert guessed[0].ids == without[0].ids


def with_draft(model: Path, draft: Path) -> Engine:
    return Engine(model, None, EngineOptions(n_ctx=512, n_cells=2048, n_batch=128, kv_type="f32", draft_path=draft))


@pytest.mark.parametrize("mode", ["draft", "auto"])
def test_a_draft_model_changes_no_answer_and_is_mostly_right(
    nano: Path, draft: Path, engine: Engine, mode: str, steps_cost_nothing: None
) -> None:
    drafting = with_draft(nano, draft)
    for sampling in (GREEDY, SAMPLINGS["sampled with penalties and a bias"]):
        requests = [EngineRequest(i, question(engine, text, 2), sampling, 40) for i, text in enumerate(QUESTIONS)]
        expected = run(engine, [replace(request, speculation=OFF) for request in requests])
        guessing = [replace(request, speculation=Speculation(mode)) for request in requests]
        for answers in ([run(drafting, [request])[0] for request in guessing], run(drafting, guessing)):
            assert [a.ids for a in answers] == [a.ids for a in expected]
            drafted, accepted = sum(a.usage.drafted_tokens for a in answers), sum(a.accepted for a in answers)
            assert accepted > 20
            assert sampling is not GREEDY or accepted > 0.6 * drafted
    drafting.close()


def spoiled(model: Path, path: Path) -> Path:
    """The model with its output turned round: what was the least likely is the most likely."""
    from quant.gguf_file import read_metadata

    data = bytearray(model.read_bytes())
    found = next(tensor for tensor in read_metadata(model).tensors if tensor.name == "output_norm.weight")
    start = found.offset
    values = np.frombuffer(data, np.float32, found.shape[0], start)
    data[start : start + values.nbytes] = (-values).tobytes()
    path.write_bytes(data)
    return path


def test_a_bad_draft_model_changes_no_answer(
    nano: Path, engine: Engine, tmp_path: Path, steps_cost_nothing: None
) -> None:
    drafting = with_draft(nano, spoiled(nano, tmp_path / "bad.gguf"))
    requests = [
        EngineRequest(i, question(engine, text), ENDLESS, 40, speculation=Speculation("draft"))
        for i, text in enumerate(QUESTIONS)
    ]
    expected = run(engine, [replace(request, speculation=OFF) for request in requests])
    answers = run(drafting, requests)
    drafting.close()
    assert [a.ids for a in answers] == [a.ids for a in expected]
    drafted, accepted = sum(a.usage.drafted_tokens for a in answers), sum(a.accepted for a in answers)
    assert accepted < 0.3 * drafted


def test_more_sequences_than_a_full_cache_has_room_for_share_a_draft_model(
    nano: Path, draft: Path, engine: Engine, steps_cost_nothing: None
) -> None:
    options = EngineOptions(n_ctx=200, n_cells=256, n_batch=64, n_seq_max=2, kv_type="f32", draft_path=draft)
    drafting = Engine(nano, None, options)
    requests = [EngineRequest(i, question(engine, text, 2), ENDLESS, 50) for i, text in enumerate(QUESTIONS)]
    answers = run(drafting, requests)
    drafting.close()
    assert [len(a.ids) for a in answers] == [50] * len(requests)
    assert sum(a.accepted for a in answers) > 0


def test_a_draft_model_of_another_vocabulary_is_refused(nano: Path, tiny_model: tuple[Path, Path]) -> None:
    with pytest.raises(LoadError, match="give a smaller model of the same family"):
        with_draft(nano, tiny_model[0])


def sequence_of(keys: list[int], sequence_id: int = 1) -> Sequence:
    return Sequence(sequence_id, keys, [], len(keys), GREEDY, 1000)


@pytest.mark.parametrize(
    ("keys", "most", "expected"),
    [
        ([1, 2, 3, 4, 1, 2], 3, (2, [3, 4, 1])),
        ([1, 2, 3, 9, 1, 2, 5, 7, 9, 1, 2], 2, (3, [5, 7])),
        ([5, 6, 5, 6], 6, (2, [5, 6, 5, 6, 5, 6])),
        ([1, 2, 3, 4], 3, (0, [])),
        ([1], 3, (0, [])),
        ([-7, -8, 3, -7, -8], 3, (0, [])),
        ([1, 2, -7, -8, 1, 2], 3, (2, [-7, -8, 1])),
    ],
)  # fmt: skip
def test_what_followed_the_longest_match(keys: list[int], most: int, expected: tuple[int, list[int]]) -> None:
    assert NgramIndex().find(keys, most) == expected


def test_an_index_that_grows_finds_what_a_new_one_finds() -> None:
    keys = np.random.default_rng(0).integers(0, 6, 400).tolist()
    index = NgramIndex()
    for length in range(1, len(keys)):
        assert index.find(keys[:length], 8) == NgramIndex().find(keys[:length], 8)


def costs(**seconds: float) -> StepCosts:
    known = StepCosts()
    for width, value in seconds.items():
        known.observe(int(width.removeprefix("w")), value)
    return known


@pytest.mark.parametrize(
    ("chances", "room", "known", "expected"),
    [
        ([(0.9, 0.9, 0.9)], 20, costs(w1=1, w4=1), [3]),
        ([(0.9, 0.9, 0.9)], 2, costs(w1=1, w4=1), [2]),
        ([(0.9, 0.9, 0.9)], 20, costs(w1=1, w2=2, w4=4), [0]),
        ([(0.01, 0.9, 0.9)], 20, costs(w1=1, w4=1.2), [0]),
        ([(0.9,) * 9, ()], 20, costs(w2=1, w11=1.5), [9, 0]),
        ([(0.9,) * 9], 20, costs(w2=1), [0]),
        ([(0.2, 0.2), (0.9, 0.9)], 2, costs(w2=1, w8=1.2), [0, 2]),
        ([(0.9,)] * 8, 20, costs(w8=8, w16=16), [0] * 8),
    ],
)
def test_as_many_guesses_as_pay(
    chances: list[tuple[float, ...]], room: int, known: StepCosts, expected: list[int]
) -> None:
    assert best_lengths(chances, room, known) == expected


def test_guesses_that_never_come_true_are_given_up_without_computing_them() -> None:
    """Whatever is guessed is compared with what comes, computed or not."""
    speculator = Speculator(frozenset(), 4096, 24)
    sequence = sequence_of([1, 1, 2, 2, 3, 3, 1, 3, 2, 1] * 3)
    speculator.start(sequence, Speculation())
    for width, seconds in ((1, 1.0), (2, 1.3), (24, 2.0)):
        speculator.observe(width, seconds)
    drafted = []
    for _ in range(40):
        speculator.draft([sequence])
        drafted.append(len(sequence.draft))
        _, (wanted,) = NgramIndex().find(sequence.keys, 1)
        sequence.keys += [wanted % 3 + 1]
        speculator.observe(1, 1.0)
    assert drafted[0] > 0
    assert drafted[-10:] == [0] * 10


def test_an_unknown_kind_of_guessing_is_refused() -> None:
    with pytest.raises(BadRequest, match="auto, lookup, draft, off"):
        Speculation("always")
