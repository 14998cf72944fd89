"""What one engine has read, another need not compute: the same answers, from files that are checked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from interns1_local.engine.engine import Engine, EngineRequest, StepOutput
from interns1_local.engine.sampling import SamplingParams
from tests.engine.conftest import run

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
LONG = np.random.default_rng(1).integers(0, 250, 300).tolist()
MakeEngine = Callable[..., Engine]


def answer(engine: Engine, prompt: list[Any], max_tokens: int = 8) -> tuple[list[int], StepOutput]:
    outputs = run(engine, [EngineRequest(1, prompt, GREEDY, max_tokens)])[1]
    assert outputs[-1].usage is not None
    return [token for output in outputs for token in output.token_ids], outputs[-1]


def cached(output: StepOutput) -> int:
    assert output.usage is not None
    return output.usage.cached_tokens


def test_a_reload_computes_the_tail_only(make_engine: MakeEngine, tmp_path: Path) -> None:
    first = make_engine(prefix_folder=tmp_path)
    ids, _ = answer(first, LONG)
    first.store_prefixes(10.0)
    second = make_engine(prefix_folder=tmp_path)
    again, output = answer(second, [*LONG, *ids, 5, 6])
    assert cached(output) == 300 + 8 - 1
    fresh, _ = answer(make_engine(), [*LONG, *ids, 5, 6])
    assert again == fresh
    # A part of what is in the file serves as well.
    assert cached(answer(make_engine(prefix_folder=tmp_path), [*LONG[:200], 1])[1]) == 200


def test_what_must_leave_the_cache_comes_back_when_it_is_asked_for(make_engine: MakeEngine, tmp_path: Path) -> None:
    engine = make_engine(n_cells=512, prefix_folder=tmp_path)
    ids, _ = answer(engine, LONG)
    for seed in (2, 3):
        answer(engine, np.random.default_rng(seed).integers(0, 250, 450).tolist())
    assert engine._stored is not None
    engine._stored._queue.join()
    again, output = answer(engine, LONG)
    assert again == ids and cached(output) == 299


def test_pictures_come_back_too(make_engine: MakeEngine, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    prompts = []
    for name in ("first", "second"):
        engine = make_engine(vision=True, prefix_folder=tmp_path)
        prompts.append(answer(engine, [*LONG[:100], engine.tile(pixels, 4), 7, 8]))
        engine.store_prefixes(10.0)
        assert name == "first" or prompts[-1][1].usage.tiles_computed == 0
    (first, _), (second, output) = prompts
    assert first == second and cached(output) == 105
    # Without its vision file a model is another one.
    assert cached(answer(make_engine(prefix_folder=tmp_path), LONG[:101])[1]) == 0


@pytest.mark.parametrize("options", [{"kv_type": "q8_0"}, {"rope_freq_base": 5000.0}], ids=["kv type", "rope base"])
def test_other_options_are_another_model(make_engine: MakeEngine, tmp_path: Path, options: dict[str, Any]) -> None:
    first = make_engine(prefix_folder=tmp_path)
    answer(first, LONG)
    first.store_prefixes(10.0)
    assert cached(answer(make_engine(prefix_folder=tmp_path, **options), LONG)[1]) == 0


def test_bytes_that_llama_cpp_refuses_cost_nothing(make_engine: MakeEngine, tmp_path: Path) -> None:
    folder = tmp_path / "prefixes"
    first = make_engine(prefix_folder=folder)
    ids, _ = answer(first, LONG)
    assert first._stored is not None
    files = first._stored._files
    for size in (0, 7, 100_000):
        files.write(np.array(LONG, np.int64), np.full(size, 255, np.uint8))
        again, output = answer(make_engine(prefix_folder=folder), LONG)
        assert (again, cached(output)) == (ids, 0)
        assert list(folder.iterdir()) == []


def test_a_running_answer_is_stored_as_far_as_it_is_computed(make_engine: MakeEngine, tmp_path: Path) -> None:
    first = make_engine(prefix_folder=tmp_path)
    first.add_request(EngineRequest(1, LONG, GREEDY, 50))
    for _ in range(6):
        first.step()
    first.context.abort()
    first.step()
    first.store_prefixes(10.0)
    assert cached(answer(make_engine(prefix_folder=tmp_path), LONG)[1]) == 299
