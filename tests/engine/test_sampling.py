"""Penalties, bias and log-probabilities on a row of logits."""

from __future__ import annotations

import numpy as np
import pytest

from interns1_local.engine.sampling import (
    SamplingParams,
    apply_bias,
    apply_penalties,
    describe,
    log_probabilities,
)
from interns1_local.errors import BadRequest

ROW = np.array([2.0, -2.0, 4.0, 0.5], np.float32)


@pytest.mark.parametrize(
    ("options", "history", "expected"),
    [
        ({}, [0, 1], [2, -2, 4, 0.5]),
        ({"repeat_penalty": 2.0}, [0, 1, 0], [1, -4, 4, 0.5]),
        ({"frequency_penalty": 0.5}, [0, 0, 2], [1, -2, 3.5, 0.5]),
        ({"presence_penalty": 0.5}, [0, 0, 2], [1.5, -2, 3.5, 0.5]),
        ({"presence_penalty": 1.0, "repeat_last_n": 1}, [0, 2], [2, -2, 3, 0.5]),
        ({"presence_penalty": 1.0, "repeat_last_n": -1}, [0, 2], [1, -2, 3, 0.5]),
        ({"presence_penalty": 1.0, "repeat_last_n": 0}, [0, 2], [2, -2, 4, 0.5]),
        ({"presence_penalty": 1.0}, [-5, 3], [2, -2, 4, -0.5]),
    ],
)
def test_penalties(options: dict[str, float], history: list[int], expected: list[float]) -> None:
    row = ROW.copy()
    apply_penalties(row, SamplingParams(**options), history, n_ctx=64)
    assert row.tolist() == expected


def test_bias_and_ignored_ends() -> None:
    row = ROW.copy()
    apply_bias(row, SamplingParams(logit_bias={1: 10.0, 99: 1.0}, ignore_eos=True), np.array([2]))
    assert row.tolist() == [2, 8, -np.inf, 0.5]


def test_logprobs_are_of_the_whole_distribution_best_first() -> None:
    logprobs = log_probabilities(ROW)
    assert np.exp(logprobs).sum() == pytest.approx(1)
    sampled = describe(logprobs, 0, 3)
    assert sampled.chosen.id == 0
    assert [entry.id for entry in sampled.top] == [2, 0, 3]
    assert describe(logprobs, 0, 0).top == ()
    assert len(describe(logprobs, 0, 10).top) == 4


def test_parameters_survive_json() -> None:
    params = SamplingParams(seed=7, logit_bias={3: -1.5}, logprobs=2)
    assert SamplingParams.from_json(params.to_json()) == params


@pytest.mark.parametrize(
    "options", [{"temperature": float("nan")}, {"repeat_penalty": 0.0}, {"logprobs": 21}, {"top_p": float("inf")}]
)
def test_senseless_parameters_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(BadRequest):
        SamplingParams(**options)
