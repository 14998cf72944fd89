"""A full context whose older part goes, when a request asks for that, and only then."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from interns1_local.engine.context_shift import cut_range
from interns1_local.engine.engine import Engine, EngineRequest
from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.sequence import Sequence, Tile
from tests.engine.conftest import ids, run

GREEDY = SamplingParams(temperature=0, ignore_eos=True)
PROMPT = np.random.default_rng(3).integers(0, 250, 40).tolist()
MakeEngine = Callable[..., Engine]


def answer(engine: Engine, prompt: list[Any], max_tokens: int | None, keep: int | None = None) -> list[int]:
    return ids(run(engine, [EngineRequest(1, prompt, GREEDY, max_tokens, keep=keep)])[1])


@pytest.mark.parametrize(
    ("keep", "expected"),
    [(None, None), (4, (4, 25)), (0, (0, 20)), (-1, (30, 35)), (39, None), (100, None), (12, (15, 27)), (10, (10, 25))],
)
def test_what_goes_is_half_of_what_follows_the_kept_beginning_and_no_part_of_a_tile(
    keep: int | None, expected: tuple[int, int] | None
) -> None:
    tile = Tile.of(np.zeros((8, 8, 3), np.uint8), 5)
    sequence = Sequence.start(1, [*range(10), tile, *range(5), tile, *range(5)], GREEDY, 99)
    sequence.keys += range(10)
    sequence.keep = keep
    # Tiles stand at 10 to 15 and at 20 to 25.
    assert cut_range(sequence) == expected
    if expected is not None:
        n_output, start, stop = sequence.n_output, *expected
        sequence.cut(start, stop, moved=True)
        assert sequence.n_output == n_output and len(sequence.keys) == 40 - (stop - start)
        for place in sequence.tiles:
            assert sequence.keys[place.start : place.stop] == tile.keys().tolist()


def test_an_answer_goes_on_when_asked_and_ends_otherwise(make_engine: MakeEngine) -> None:
    engine = make_engine(n_ctx=64)
    ended = answer(engine, PROMPT, 200)
    assert len(ended) == 24
    outputs = run(engine, [EngineRequest(1, PROMPT, GREEDY, 200, keep=4)])[1]
    last = outputs[-1]
    assert ids(outputs)[:24] == ended and len(ids(outputs)) == 200
    assert last.usage is not None
    assert (last.finish, last.usage.prompt_tokens, last.usage.output_tokens) == ("length", 40, 200)
    assert len(answer(engine, PROMPT, None, keep=-1)) == 640
    assert engine._scheduler.pool.n_busy == 0


def test_where_positions_cannot_change_the_rest_is_computed_anew(make_engine: MakeEngine) -> None:
    engine = make_engine(n_ctx=64)
    scheduler = engine._scheduler
    object.__setattr__(scheduler.limits, "can_shift", False)
    found = answer(engine, PROMPT, 40, keep=4)
    context = [*PROMPT, *found[:24]]
    # At 64 places, 4 to 34 go.
    assert found[24:] == answer(make_engine(n_ctx=64), context[:4] + context[34:], 16)


def test_a_shift_changes_no_other_answer(make_engine: MakeEngine) -> None:
    alone = answer(make_engine(n_ctx=64, n_cells=512), PROMPT, 20)
    shifted = answer(make_engine(n_ctx=64, n_cells=512), PROMPT, 100, keep=4)
    engine = make_engine(n_ctx=64, n_cells=512)
    requests = [EngineRequest(id, PROMPT, GREEDY, 20 if id % 2 else 100, keep=None if id % 2 else 4) for id in range(6)]
    found = run(engine, requests)
    assert [ids(found[id]) for id in (1, 3, 5)] == [alone] * 3
    assert all(len(ids(found[id])) == 100 for id in (0, 2, 4))
    # What is left in the cache is what it says.
    assert answer(engine, PROMPT, 20) == alone
    assert answer(engine, PROMPT, 100, keep=4) == shifted
    assert answer(engine, [*PROMPT, *alone], 4) == answer(make_engine(n_ctx=64), [*PROMPT, *alone], 4)


def test_pictures_go_as_a_whole(make_engine: MakeEngine) -> None:
    engine = make_engine(vision=True, n_ctx=64)
    pixels = np.random.default_rng(0).integers(0, 256, (6, 56, 56, 3), np.uint8)
    tiles = [engine.tile(picture, 4) for picture in pixels]
    prompt = [1, 2, tiles[0], 3, *tiles[1:5], 4, 5, tiles[5], 6]
    for keep in (0, 3, 4, 8, -1):
        assert len(answer(engine, prompt, 150, keep=keep)) == 150
    assert engine._scheduler.pool.n_busy == 0
