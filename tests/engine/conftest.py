"""Tiny models with random weights, made once, and a way to run an engine to its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from interns1_local.engine.engine import Engine, EngineOptions, EngineRequest, StepOutput
from interns1_local.engine.speculative import StepCosts
from tests.tiny import tiny_gguf


def run(
    engine: Engine, requests: list[EngineRequest], each: Callable[[], None] = lambda: None
) -> dict[int, list[StepOutput]]:
    """What the engine says to each of `requests`, by its id, when all have ended. `each` happens after each step."""
    outputs: dict[int, list[StepOutput]] = {request.id: [] for request in requests}
    for request in requests:
        engine.add_request(request)
    while engine.has_work:
        for output in engine.step():
            outputs[output.request_id].append(output)
        each()
    return outputs


def ids(outputs: list[StepOutput]) -> list[int]:
    """The tokens of all outputs."""
    return [token for output in outputs for token in output.token_ids]


@pytest.fixture
def steps_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All guesses are then worth computing, however slow the machine."""
    monkeypatch.setattr(StepCosts, "knows", lambda self, width: True)
    monkeypatch.setattr(StepCosts, "curve", lambda self, first, last: [1.0] * (last - first + 1))


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(model, mmproj) of a Mixture-of-Experts model with a vision tower; 56-pixel tiles of 4 tokens."""
    return tiny_gguf(tmp_path_factory.mktemp("tiny_engine"))


@pytest.fixture
def make_engine(tiny_model: tuple[Path, Path]) -> Iterator[Callable[..., Engine]]:
    engines: list[Engine] = []

    def make(vision: bool = False, **options: object) -> Engine:
        chosen = {"n_ctx": 512, "n_batch": 128, "n_seq_max": 8} | options
        engines.append(Engine(tiny_model[0], tiny_model[1] if vision else None, EngineOptions(**chosen)))
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()
