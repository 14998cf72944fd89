"""Who gets which tokens, with no model: the books are kept by hand here as llama.cpp would keep them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.scheduler import Limits, Pace, Plan, Remove, Scheduler, Share
from interns1_local.engine.sequence import Sequence, Tile

GREEDY = SamplingParams(temperature=0)


def sequence(id: int, prompt: list[int | Tile], max_tokens: int = 4) -> Sequence:
    return Sequence.start(id, prompt, GREEDY, max_tokens)


def scheduler(n_cells: int = 256, n_slots: int = 8, max_running: int = 4, n_batch: int = 32) -> Scheduler:
    return Scheduler(Limits(n_cells, n_slots, max_running, n_batch))


class FakeCache:
    """What each slot holds, as the engine's operations would leave it. Every span must follow on what is there."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.slots: dict[int, list[tuple[int, int]]] = {}
        self._cell = 0

    def run(self, plan: Plan) -> None:
        for operation in plan.operations:
            if isinstance(operation, Remove):
                self.slots.pop(operation.slot, None)
            else:
                assert isinstance(operation, Share) and not self.slots.get(operation.target)
                self.slots[operation.target] = self.slots[operation.source][: operation.length]
        for span in [*plan.spans, *([plan.image] if plan.image else [])]:
            held = self.slots.setdefault(span.sequence.slot, [])
            assert len(held) == span.start
            assert [key for key, _ in held] == span.sequence.keys[: span.start]
            for key in span.sequence.keys[span.start : span.stop]:
                self._cell += 1
                held.append((key, self._cell))
        assert len({cell for held in self.slots.values() for _, cell in held}) <= self.n_cells


def run_to_end(subject: Scheduler, cache: FakeCache, budget: int = 8, steps: int = 5000) -> list[Plan]:
    """Take steps as the engine would; every sampled token is the number of the step."""
    plans = []
    for step in range(steps):
        if not subject.has_work:
            return plans
        plan = subject.schedule(budget)
        plans.append(plan)
        cache.run(plan)
        assert plan.spans or plan.image
        assert sum(span.stop - span.start for span in plan.spans) <= subject.limits.n_batch
        for span in [*plan.spans, *([plan.image] if plan.image else [])]:
            subject.complete(span)
            if span.samples:
                span.sequence.keys.append(10_000 + step)
                if span.sequence.n_output >= span.sequence.max_tokens:
                    subject.finish(span.sequence)
    raise AssertionError("the scheduler does not come to an end")


def test_decodes_go_before_prompts_and_prompts_keep_to_the_budget() -> None:
    subject = scheduler()
    subject.add(sequence(1, list(range(10)), max_tokens=50))
    plan = subject.schedule(8)
    assert [(s.start, s.stop, s.samples) for s in plan.spans] == [(0, 10, True)]
    subject.complete(plan.spans[0])
    plan.spans[0].sequence.keys.append(99)
    subject.add(sequence(2, list(range(100, 140))))
    plan = subject.schedule(8)
    assert [(s.sequence.id, s.start, s.stop, s.samples) for s in plan.spans] == [(1, 10, 11, True), (2, 0, 8, False)]


def test_a_prompt_alone_fills_the_batch() -> None:
    subject = scheduler()
    subject.add(sequence(1, list(range(100))))
    assert [(s.start, s.stop) for s in subject.schedule(8).spans] == [(0, 32)]


def test_a_tile_is_a_call_of_its_own() -> None:
    tile = Tile.of(np.zeros((8, 8, 3), np.uint8), 5)
    subject, cache = scheduler(), FakeCache(256)
    subject.add(sequence(1, [1, 2, tile, tile, 3], max_tokens=1))
    plans = run_to_end(subject, cache)
    spans = [(s.start, s.stop) for plan in plans for s in plan.spans]
    images = [(plan.image.start, plan.image.stop) for plan in plans if plan.image]
    assert spans == [(0, 2), (12, 13)]
    assert images == [(2, 7), (7, 12)]


def test_a_second_prompt_shares_the_beginning_of_the_first() -> None:
    subject, cache = scheduler(), FakeCache(256)
    subject.add(sequence(1, list(range(50))))
    run_to_end(subject, cache)
    second = sequence(2, [*range(40), 77, 78])
    subject.add(second)
    plan = subject.schedule(8)
    assert second.cached_tokens == 40
    assert [(s.start, s.stop) for s in plan.spans] == [(40, 42)]


def test_the_same_prompt_again_computes_its_last_token_only() -> None:
    subject, cache = scheduler(), FakeCache(256)
    for id in (1, 2):
        subject.add(sequence(id, list(range(20))))
        last = run_to_end(subject, cache)
    assert [(s.start, s.stop) for s in last[0].spans] == [(19, 20)]


def test_prompts_with_a_long_common_beginning_wait_for_the_first_of_them() -> None:
    subject, cache = scheduler(n_cells=1024), FakeCache(1024)
    common = list(range(200))
    sequences = [sequence(id, [*common, 300 + id]) for id in range(4)]
    for entry in sequences:
        subject.add(entry)
    run_to_end(subject, cache)
    assert [entry.cached_tokens >= 100 for entry in sequences] == [False, True, True, True]


def test_pictures_are_compared_by_content() -> None:
    black, white = (Tile.of(np.full((8, 8, 3), shade, np.uint8), 5) for shade in (0, 255))
    again = Tile.of(np.zeros((8, 8, 3), np.uint8), 5)
    subject, cache = scheduler(), FakeCache(256)
    for id, tile in enumerate((black, again, white)):
        entry = sequence(id, [1, 2, 3, 4, tile, 5, 6])
        subject.add(entry)
        run_to_end(subject, cache)
        assert entry.cached_tokens == (0, 10, 4)[id]


def test_when_the_cache_is_full_the_latest_arrival_starts_over() -> None:
    subject, cache = scheduler(n_cells=64), FakeCache(64)
    first, second = sequence(1, list(range(20)), 40), sequence(2, list(range(50, 58)), 40)
    subject.add(first)
    subject.add(second)
    run_to_end(subject, cache)
    assert first.n_output == second.n_output == 40


def test_cancelling_a_waiting_and_a_running_sequence() -> None:
    subject = scheduler(max_running=1)
    entries = [sequence(id, list(range(id * 20, id * 20 + 20))) for id in range(2)]
    for entry in entries:
        subject.add(entry)
    plan = subject.schedule(8)
    subject.roll_back(plan.spans[0])
    subject.finish(entries[1])
    subject.finish(entries[0])
    assert not subject.has_work
    assert subject.pool.n_free == subject.limits.n_cells


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=12),
    st.integers(64, 200),
    st.integers(1, 32),
)
def test_everybody_is_served_whatever_the_sizes(
    requests: list[tuple[int, int, int]], n_cells: int, budget: int
) -> None:
    cells = max(n_cells, max(length + more for length, more, _ in requests))
    subject, cache = scheduler(n_cells=cells), FakeCache(cells)
    entries = [
        sequence(id, [kind * 1000 + place for place in range(length)], max_tokens)
        for id, (length, max_tokens, kind) in enumerate(requests)
    ]
    for entry in entries:
        subject.add(entry)
    run_to_end(subject, cache, budget)
    assert [entry.n_output for entry in entries] == [max_tokens for _, max_tokens, _ in requests]
    while (entry := subject.cache.evict()) is not None:
        subject.pool.release(entry.cells)
    assert subject.pool.n_free == cells


def test_pace_keeps_steps_short() -> None:
    pace = Pace(n_batch=512, target_seconds=0.2)
    assert pace.prefill_budget == 128
    pace.observe(100, 0.2)
    assert pace.prefill_budget == 64
    pace.observe(1, 5.0)
    assert pace.prefill_budget == 64
    for _ in range(20):
        pace.observe(512, 0.01)
    assert pace.prefill_budget == 512
