"""Estimates of time: they grow with the work, and every type that can be written has one."""

from __future__ import annotations

import pytest

from quant import estimate
from quant.estimate import Work
from quant.recipes import RECIPES


def test_seconds_are_those_of_all_values_over_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    prices = {("BF16", "Q4_K"): 3e-9, ("F32", "Q8_0"): 2e-9}
    monkeypatch.setattr(estimate, "_seconds_a_value", lambda *types: prices[types])
    monkeypatch.setattr(estimate.os, "cpu_count", lambda: 4)
    work = [Work("BF16", "Q4_K", 10**9), Work("F32", "Q8_0", 10**9), Work("BF16", "Q4_K", 10**9)]
    # A copy costs nothing, and more threads than processors do not help.
    work.append(Work("Q8_0", "Q8_0", 10**9))
    found = {jobs: estimate.seconds(work, jobs) for jobs in (1, 2, 8, 0)}
    assert found == pytest.approx({1: 8.0, 2: 4.0, 8: 2.0, 0: 2.0})
    assert estimate.seconds([], 1) == 0


# libggml fills tables for these, which takes seconds.
SLOW = {"IQ1_M", "IQ1_S", "IQ2_S"}


@pytest.mark.parametrize("type", sorted({recipe.default for recipe in RECIPES.values()} - SLOW))
def test_every_type_can_be_tried(type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "_MOST_ROWS", 1)
    assert estimate.seconds([Work("F32" if type == "BF16" else "BF16", type, 1000)], 1) > 0
