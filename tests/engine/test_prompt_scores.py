"""Log-probabilities of a prompt's own tokens: the same in one batch or many, alone or among others, in a full cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine.engine import Engine, EngineRequest, StepOutput
from interns1_local.engine.llama import Model
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sampling import SamplingParams, log_probabilities
from interns1_local.engine.scoring import Scorer
from interns1_local.errors import BadRequest
from tests.engine.test_engine import ids, prompts, run

MakeEngine = Callable[..., Engine]
REPORTING = SamplingParams(temperature=0, ignore_eos=True, logprobs=3)
# The order of sums in a batch, and keys and values of 16 bits.
CLOSE = 5e-3


@pytest.fixture(scope="module")
def expected(tiny_model: tuple[Path, Path]) -> Callable[[list[int]], list[float]]:
    """The log-probability of each token but the first, from a context of its own."""
    model = Model(tiny_model[0], ON_CPU)
    scorer = Scorer(model, 512, 1)

    def get(tokens: list[int]) -> list[float]:
        rows = scorer.logits([tokens], range(len(tokens) - 1))
        return [float(log_probabilities(row)[token]) for row, token in zip(rows, tokens[1:], strict=True)]

    yield get
    scorer.close()
    model.close()


def scores(outputs: list[StepOutput]) -> list[float]:
    """Those of the one output that carries them, which is the first."""
    assert all(not output.prompt_logprobs for output in outputs[1:])
    return [entry.chosen.logprob for entry in outputs[0].prompt_logprobs]


@pytest.mark.parametrize("n_cells", [4096, 256])
def test_scores_of_prompts(n_cells: int, make_engine: MakeEngine, expected: Callable[[list[int]], list[float]]) -> None:
    texts = prompts(5, 2, 120, seed=3)
    engine = make_engine(n_ctx=200, n_cells=n_cells)
    requests = [EngineRequest(i, text, REPORTING, 40, prompt_logprobs=i % 2 == 0) for i, text in enumerate(texts)]
    outputs = run(engine, requests)
    for request, text in zip(requests, texts, strict=True):
        if not request.prompt_logprobs:
            assert scores(outputs[request.id]) == []
            continue
        found = scores(outputs[request.id])
        assert found[0] == 0.0
        assert np.allclose(found[1:], expected(text), atol=CLOSE)
        entries = outputs[request.id][0].prompt_logprobs
        assert [entry.chosen.id for entry in entries] == text
        assert [len(entry.top) for entry in entries] == [0] + [3] * (len(text) - 1)
    # The answers are what they are without scores.
    plain = run(make_engine(n_cells=4096), [EngineRequest(i, text, REPORTING, 40) for i, text in enumerate(texts)])
    assert {id: ids(found) for id, found in outputs.items()} == {id: ids(found) for id, found in plain.items()}


def test_scores_again_from_a_cache_that_knows_the_prompt(
    make_engine: MakeEngine, expected: Callable[[list[int]], list[float]]
) -> None:
    """What is cached has no logits: it is computed anew, and serves the next prompt that needs none."""
    (text,) = prompts(1, 90, 100, seed=4)
    engine = make_engine()
    for number in range(2):
        (output,) = run(engine, [EngineRequest(number, text, REPORTING, 0, prompt_logprobs=True)])[number]
        assert output.finish == "length"
        assert output.usage is not None
        assert output.usage.cached_tokens == 0
        assert np.allclose(scores([output])[1:], expected(text), atol=CLOSE)
    last = run(engine, [EngineRequest(2, text, REPORTING, 1)])[2][-1]
    assert last.usage is not None
    assert last.usage.cached_tokens == len(text) - 1


def test_one_token(make_engine: MakeEngine) -> None:
    (output,) = run(make_engine(), [EngineRequest(0, [5], REPORTING, 1, prompt_logprobs=True)])[0]
    assert scores([output]) == [0.0]


def test_pictures_have_no_scores(make_engine: MakeEngine) -> None:
    engine = make_engine(vision=True)
    tile = engine.tile(np.zeros((56, 56, 3), np.uint8), 4)
    with pytest.raises(BadRequest, match="pictures"):
        engine.add_request(EngineRequest(0, [1, tile, 2], REPORTING, 1, prompt_logprobs=True))


@pytest.mark.parametrize("bias", [{9999: 1.0}, {-1: 1.0}])
def test_a_bias_names_tokens_of_the_vocabulary(make_engine: MakeEngine, bias: dict[int, float]) -> None:
    with pytest.raises(BadRequest, match="logit_bias names token"):
        make_engine().add_request(EngineRequest(0, [1], SamplingParams(logit_bias=bias)))


def test_at_least_so_many_tokens(make_engine: MakeEngine) -> None:
    engine = make_engine()
    end = min(engine.model.vocab.eog_ids)
    for least in (0, 1, 7):
        sampling = SamplingParams(temperature=0, logit_bias={end: 100.0}, min_tokens=least)
        outputs = run(engine, [EngineRequest(0, [1, 2, 3], sampling, 20)])[0]
        assert (len(ids(outputs)), outputs[-1].finish) == (least, "stop")


def test_the_lowest_bias_forbids(make_engine: MakeEngine) -> None:
    engine = make_engine()
    best = ids(run(engine, [EngineRequest(0, [1, 2, 3], REPORTING, 1)])[0])[0]
    for seed in range(5):
        sampling = SamplingParams(temperature=5.0, top_k=0, seed=seed, logit_bias={best: -100.0}, ignore_eos=True)
        assert best not in ids(run(engine, [EngineRequest(seed, [1, 2, 3], sampling, 30)])[seed])
