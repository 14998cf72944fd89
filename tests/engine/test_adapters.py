"""Several adapters on one loaded model: each answer is that of an engine which has its adapter alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine.adaptation import FIRST, WITHOUT, Adaptation
from interns1_local.engine.engine import Engine, EngineRequest, StepOutput
from interns1_local.engine.pooling import Pooler
from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.sequence import Prompt
from interns1_local.engine.speculative import Speculation
from interns1_local.errors import BadRequest
from tests.engine.conftest import ids, run
from tests.engine.test_prefix_sharing import answers, conversations
from tests.lora_files import random_pairs, write_lora

MakeEngine = Callable[..., Engine]
GREEDY = SamplingParams(temperature=0, ignore_eos=True, logprobs=2)
PARTS = ("attn_q", "attn_v", "ffn_gate_inp", "ffn_up_exps", "ffn_down_exps")
SECOND, WEAK = Adaptation(1), Adaptation(1, 0.25)
CHOICES = (FIRST, SECOND, WITHOUT, WEAK)
COMMON = np.random.default_rng(3).integers(0, 250, 150).tolist()
CLOSE = 1e-3


@pytest.fixture(scope="module")
def loras(tiny_model: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("loras")
    names = [f"blk.{layer}.{part}.weight" for layer in (0, 1) for part in PARTS]
    first = random_pairs(tiny_model[0], names, strength=0.2)
    second = {name: (a, -b) for name, (a, b) in random_pairs(tiny_model[0], names[::2], strength=0.3).items()}
    return write_lora(folder / "first.gguf", first), write_lora(folder / "second.gguf", second)


@pytest.fixture
def both(make_engine: MakeEngine, loras: tuple[Path, Path]) -> Engine:
    return make_engine(adapter_paths=loras, n_cells=2048, kv_type="f32")


def prompt(id: int) -> list[int]:
    return [*COMMON, 5 + id, 6]


def request(id: int, choice: Adaptation, of: Prompt = (), length: int = 12) -> EngineRequest:
    return EngineRequest(id, of or prompt(id), GREEDY, length, adaptation=choice)


def figures(outputs: list[StepOutput]) -> np.ndarray:
    return np.array([token.chosen.logprob for output in outputs for token in output.logprobs])


def alone(make_engine: MakeEngine, loras: tuple[Path, Path], requests: list[EngineRequest]) -> list[list[StepOutput]]:
    """What engines say that have the adapter of each request alone, with nothing remembered."""
    plain, first, second = (
        make_engine(adapter_paths=paths, share_prefixes=False, kv_type="f32") for paths in ((), loras[:1], loras[1:])
    )
    found = []
    for one in requests:
        engine = {-1: plain, 0: first, 1: second}[one.adaptation.index]
        found.append(run(engine, [replace(one, adaptation=Adaptation(0, one.adaptation.scale))])[one.id])
    return found


def test_each_choice_is_answered_as_by_its_own_engine(
    make_engine: MakeEngine, both: Engine, loras: tuple[Path, Path]
) -> None:
    requests = [request(id, CHOICES[id % 4]) for id in range(8)]
    expected = alone(make_engine, loras, requests)
    # All at once, in turns; then one by one with what the others read in the cache.
    together = run(both, requests)
    later = [run(both, [one])[one.id] for one in reversed(requests)][::-1]
    for at, one in enumerate(requests):
        for outputs in (together[one.id], later[at]):
            assert ids(outputs) == ids(expected[at])
            assert np.abs(figures(outputs) - figures(expected[at])).max() < CLOSE
    differing = {tuple(np.round(figures(expected[at]), 2)) for at in range(4)}
    assert len(differing) == 4, "the adapters are too weak for this test"
    usages = [outputs[-1].usage for outputs in later]
    assert all(usage is not None and usage.cached_tokens >= len(COMMON) for usage in usages)


def test_what_one_choice_read_serves_no_other(both: Engine) -> None:
    cached = []
    for id, choice in enumerate((FIRST, SECOND, WITHOUT, WEAK, FIRST, WEAK, Adaptation(1, 0.5), Adaptation(0, 0.0))):
        usage = run(both, [request(id, choice)])[id][-1].usage
        assert usage is not None
        cached.append(usage.cached_tokens)
    # A scale of nothing is the model without adapters.
    assert cached == [0, 0, 0, 0, 150, 150, 0, 150]


def test_answers_are_the_same_in_a_cache_too_small_for_all(make_engine: MakeEngine, loras: tuple[Path, Path]) -> None:
    """Shared beginnings, sequences that start over, newcomers, and adapters: all at once."""
    requests = [replace(one, adaptation=CHOICES[one.id % 4]) for one in conversations(20)]
    roomy = make_engine(adapter_paths=loras, n_cells=4096, share_prefixes=False)
    expected = answers(roomy, requests, 1)
    tight = make_engine(adapter_paths=loras, n_ctx=256, n_cells=512)
    assert answers(tight, requests, 8) == expected
    assert answers(tight, requests[::-1], 5) == expected


def test_full_contexts_shift_in_turns(make_engine: MakeEngine, loras: tuple[Path, Path]) -> None:
    prompts = [EngineRequest(id, COMMON[:30], GREEDY, 120, keep=(0, 4, -1, 0)[id]) for id in range(4)]
    requests = [replace(one, adaptation=CHOICES[one.id]) for one in prompts]
    alone = [ids(run(make_engine(adapter_paths=loras, n_ctx=64, kv_type="f32"), [one])[one.id]) for one in requests]
    together = run(make_engine(adapter_paths=loras, n_ctx=64, n_cells=512, kv_type="f32"), requests)
    assert [ids(outputs) for outputs in together.values()] == alone
    assert all(len(said) == 120 for said in alone)


def test_guesses_change_no_answer(
    make_engine: MakeEngine,
    tiny_model: tuple[Path, Path],
    loras: tuple[Path, Path],
    steps_cost_nothing: None,
) -> None:
    """Not those of the text, nor those of a draft model, which has no adapter."""
    requests = [request(id, CHOICES[id % 4], length=60) for id in range(6)]
    expected = run(
        make_engine(adapter_paths=loras, n_cells=2048, kv_type="f32"),
        [replace(one, speculation=Speculation("off")) for one in requests],
    )
    guessing = make_engine(adapter_paths=loras, n_cells=2048, kv_type="f32", draft_path=tiny_model[0])
    found = run(guessing, requests)
    assert {id: ids(outputs) for id, outputs in found.items()} == {id: ids(said) for id, said in expected.items()}
    usages = [outputs[-1].usage for outputs in found.values()]
    assert sum(usage.drafted_tokens for usage in usages if usage is not None) > 0


def test_pictures_belong_to_their_adapter(
    make_engine: MakeEngine, tiny_model: tuple[Path, Path], loras: tuple[Path, Path]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    engine = make_engine(vision=True, adapter_paths=loras, kv_type="f32")
    seen: Prompt = [1, 2, engine.tile(pixels, 4), 3, *COMMON[:20]]
    said = run(engine, [request(id, choice, seen) for id, choice in enumerate((FIRST, SECOND, WITHOUT))])
    for id, paths in enumerate((loras[:1], loras[1:], ())):
        single = make_engine(vision=True, adapter_paths=paths, kv_type="f32")
        assert ids(run(single, [request(0, FIRST, seen)])[0]) == ids(said[id])


def test_files_of_what_was_read_go_by_the_adapters_content(
    make_engine: MakeEngine, loras: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "prefixes"
    first = make_engine(adapter_paths=loras, prefix_folder=folder)
    spoken = [ids(run(first, [request(id, choice)])[id]) for id, choice in enumerate((FIRST, WITHOUT))]
    first.store_prefixes(10.0)
    renamed = tmp_path / "renamed.gguf"
    shutil.copy(loras[0], renamed)
    # The same adapter is another one's first; what the model alone has read serves where there are no adapters.
    cases = (
        ((loras[1], renamed), SECOND, spoken[0], 151),
        ((), FIRST, spoken[1], 151),
        ((loras[1],), FIRST, None, 0),
    )
    for paths, choice, answer, cached in cases:
        id = 0 if paths else 1
        outputs = run(make_engine(adapter_paths=paths, prefix_folder=folder), [request(id, choice)])[id]
        assert answer is None or ids(outputs) == answer
        assert outputs[-1].usage is not None and outputs[-1].usage.cached_tokens == cached


def test_vectors_have_the_adapter_that_is_set(both: Engine, make_engine: MakeEngine, loras: tuple[Path, Path]) -> None:
    def vector(engine: Engine, choice: Adaptation) -> np.ndarray:
        pooler = Pooler(engine.model, 64, 1, "f32")
        try:
            first = pooler.states([COMMON[:20]])
            pooler.adapt(engine.model.adapters.root(choice))
            return np.stack([first[0], pooler.states([COMMON[:20]])[0]])
        finally:
            pooler.close()

    second, plain = make_engine(adapter_paths=loras[1:]), make_engine()
    assert np.abs(vector(both, SECOND)[1] - vector(second, FIRST)[1]).max() < CLOSE
    assert np.abs(vector(both, WITHOUT)[1] - vector(plain, FIRST)[1]).max() < CLOSE
    assert np.abs(np.diff(vector(both, SECOND), axis=0)).max() > 10 * CLOSE


def test_an_adapter_that_is_not_there(make_engine: MakeEngine, both: Engine) -> None:
    for engine, choice in ((both, Adaptation(2)), (make_engine(), Adaptation(1)), (make_engine(), Adaptation(0, 0.5))):
        with pytest.raises(BadRequest, match="there is no adapter"):
            engine.add_request(request(1, choice))
    assert not both.has_work


def test_adapters_are_changed_once_a_turn(both: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    applied: list[bytes] = []
    apply = both.model.adapters.apply
    monkeypatch.setattr(
        both.model.adapters, "apply", lambda context, root: (applied.append(root), apply(context, root))
    )
    run(both, [request(id, FIRST, length=20) for id in range(3)])
    assert applied == []
    run(both, [request(id, (FIRST, SECOND)[id % 2], [7, 8, id], length=40) for id in range(4)])
    assert 8 <= len(applied) <= 26
    assert all(one != next for one, next in pairwise(applied))
