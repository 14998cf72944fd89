"""Tokens that llama.cpp's graph chooses: the same as without it, beside requests that need their logits, on the CPU."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from interns1_local.engine import backend_sampling
from interns1_local.engine.engine import Engine, EngineRequest
from interns1_local.engine.guide import Guide, Marks, ThoughtRules
from interns1_local.engine.llama import Batch
from interns1_local.engine.native import llama_cpp
from interns1_local.engine.options import EngineOptions
from interns1_local.engine.sampler_chain import SamplerChain
from interns1_local.engine.sampling import MANY, SamplingParams
from interns1_local.engine.speculative import Speculation
from tests.engine.conftest import ids, run

MakeEngine = Callable[..., Engine]
SAMPLED = SamplingParams(temperature=1.5, seed=7)
GREEDY = SamplingParams(temperature=0)
PLAIN = {
    "greedy": GREEDY,
    "as Ollama samples": SAMPLED,
    "min_p": SamplingParams(temperature=2.0, top_p=0.99, min_p=0.1, seed=11),
    "typical_p, which graphs cannot": SamplingParams(temperature=2.0, typical_p=0.5, seed=5),
}
# Of these the logits are needed.
OTHERS = {
    "penalties": replace(SAMPLED, repeat_penalty=1.3),
    "a bias": replace(SAMPLED, logit_bias={9: 2.0}),
    "log-probabilities": replace(SAMPLED, logprobs=2),
    "no ends": replace(SAMPLED, ignore_eos=True),
    "an end not yet": replace(GREEDY, min_tokens=9),
    "all candidates": replace(SAMPLED, top_k=0),
    # The graph's order of the candidates is another.
    "a seed and no top_p": replace(SAMPLED, top_p=1.0),
}


@pytest.fixture
def attached(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sequence numbers that got a sampler, in order."""
    found: list[int] = []
    attach = llama_cpp.llama_set_sampler

    def note(context: object, slot: int, chain: object) -> bool:
        if chain:
            found.append(slot)
        return bool(attach(context, slot, chain))

    monkeypatch.setattr(llama_cpp, "llama_set_sampler", note)
    return found


def prompt(length: int = 20, seed: int = 0) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(0, 250, length)]


def requests(sampling: dict[str, SamplingParams]) -> list[EngineRequest]:
    return [
        EngineRequest(i, prompt(20 + i, i), params, 24, speculation=Speculation("off"))
        for i, params in enumerate(sampling.values())
    ]


def answers(engine: Engine, wanted: list[EngineRequest]) -> dict[int, list[int]]:
    return {id: ids(outputs) for id, outputs in run(engine, wanted).items()}


@pytest.mark.parametrize("name", PLAIN)
def test_the_graph_chooses_what_is_chosen_outside(name: str, make_engine: MakeEngine, attached: list[int]) -> None:
    wanted = requests({name: PLAIN[name]})
    without = answers(make_engine(), wanted)
    assert not attached
    engine = make_engine(backend_sampling="on")
    assert answers(engine, wanted) == without and len(attached) == 1
    # Again from the cache, with a new sampler.
    assert answers(engine, wanted) == without and len(attached) == 2
    assert without[0]


def test_requests_of_all_kinds_share_a_batch(make_engine: MakeEngine, attached: list[int]) -> None:
    wanted = requests(PLAIN | OTHERS)
    without = answers(make_engine(n_seq_max=16, n_cells=4096), wanted)
    assert answers(make_engine(n_seq_max=16, n_cells=4096, backend_sampling="on"), wanted) == without
    assert len(attached) == len(PLAIN)


def test_guides_and_prompt_scores_are_left_alone(make_engine: MakeEngine, attached: list[int]) -> None:
    def wanted() -> list[EngineRequest]:
        scored = EngineRequest(1, prompt(), SAMPLED, 8, prompt_logprobs=True)
        guide = Guide(ThoughtRules(), Marks.of([b"x"] * 1000, []))
        return [EngineRequest(0, prompt(), SAMPLED, 8, guide=guide), scored]

    without = run(make_engine(), wanted())
    again = run(make_engine(backend_sampling="on"), wanted())
    assert {id: ids(outputs) for id, outputs in again.items()} == {id: ids(o) for id, o in without.items()}
    assert again[1][0].prompt_logprobs == without[1][0].prompt_logprobs
    assert not attached


@pytest.mark.usefixtures("steps_cost_nothing")
def test_guesses_are_made_only_where_they_are_asked_for(make_engine: MakeEngine, attached: list[int]) -> None:
    wanted = EngineRequest(0, prompt(6) * 8, GREEDY, 60)
    for mode, in_graph in (("auto", True), ("off", True), ("lookup", False)):
        attached.clear()
        last = run(make_engine(backend_sampling="on"), [replace(wanted, speculation=Speculation(mode))])[0][-1]
        assert last.usage is not None
        assert (bool(attached), bool(last.usage.drafted_tokens)) == (in_graph, not in_graph)


def test_a_sampler_follows_its_request_to_another_place(make_engine: MakeEngine, attached: list[int]) -> None:
    """Requests that make room for others come back elsewhere, where others had samplers."""
    wanted = [EngineRequest(i, prompt(40, i), replace(SAMPLED, seed=i), 60) for i in range(6)]
    roomy = answers(make_engine(n_cells=2048), wanted)
    assert answers(make_engine(n_ctx=200, n_cells=256, backend_sampling="on"), wanted) == roomy
    assert len(attached) > len(wanted)


def test_cancelling_leaves_nothing_behind(make_engine: MakeEngine) -> None:
    engine = make_engine(backend_sampling="on")
    engine.add_request(EngineRequest(0, prompt(), SAMPLED, 400))
    engine.add_request(EngineRequest(1, prompt(30), SAMPLED, 12))
    for _ in range(4):
        engine.step()
    engine.abort(0)
    others = [output for output in iter_outputs(engine) if output[0] == 1]
    assert others[-1][1] == "length"
    assert answers(engine, [EngineRequest(2, prompt(), GREEDY, 5)])[2]


def iter_outputs(engine: Engine) -> list[tuple[int, str | None]]:
    found = []
    while engine.has_work:
        found += [(output.request_id, output.finish) for output in engine.step()]
    return found


def test_gpus_choose_for_many_only(
    make_engine: MakeEngine, attached: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend_sampling, "has_local_gpu", lambda: True)
    engine = make_engine(backend_sampling="auto")
    answers(engine, requests({"one": SAMPLED}))
    assert not attached
    answers(engine, requests({str(i): SAMPLED for i in range(MANY + 1)}))
    assert len(attached) == 2


@pytest.mark.parametrize(
    ("changes", "chooses"),
    [({}, False), ({"backend_sampling": "auto"}, False), ({"backend_sampling": "on"}, True)],
)
def test_processors_choose_only_when_told(changes: dict[str, str], chooses: bool, make_engine: MakeEngine) -> None:
    found = backend_sampling.backend_sampling(make_engine().context, replace(EngineOptions(), **changes))
    assert (found is not None) == chooses


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED])
def test_an_output_that_is_no_number_is_an_error(
    sampling: SamplingParams, tiny_model: tuple[Path, Path], tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.gguf"
    shutil.copy(tiny_model[0], damaged)
    tensors = gguf.GGUFReader(damaged, "r+").tensors
    next(tensor for tensor in tensors if tensor.name == "output_norm.weight").data[:] = np.nan
    engine = Engine(damaged, None, EngineOptions(n_ctx=128, n_batch=64, backend_sampling="on"))
    try:
        last = run(engine, requests({"one": sampling}))[0][-1]
    finally:
        engine.close()
    assert "not a number" in str(last.error)


def test_unsorted_candidates_are_chosen_as_often_as_they_should_be(make_engine: MakeEngine) -> None:
    """Without top_p the graph draws from the same distribution, if not the same token for a seed."""
    context = make_engine().context
    sampling = SamplingParams(temperature=1.5, top_k=4, top_p=1.0)
    batch = Batch(8)
    row = batch.add(prompt(5), 0, 0, 1)
    context.decode(batch)
    logits = context.logits(row).astype(np.float64) / sampling.temperature
    likely = np.argsort(logits)[-4:]
    expected = np.exp(logits[likely]) / np.exp(logits[likely]).sum()
    graph, chain = backend_sampling.BackendSampling(context, 1), SamplerChain(sampling, 1)
    graph.place(0, chain)
    counts = dict.fromkeys(likely.tolist(), 0)
    for _ in range(600):
        context.remove(0)
        context.decode(batch)
        counts[context.sample(chain, row)] += 1
    graph.take_back(chain)
    chain.close()
    assert np.abs(np.array(list(counts.values())) / 600 - expected).max() < 0.05
