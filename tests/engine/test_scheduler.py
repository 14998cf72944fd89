"""Who gets which tokens, with no model: the books are kept by hand here as llama.cpp would keep them."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.engine.pace import Pace
from interns1_local.engine.plan import Limits, Plan, Remove, Share, Store
from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.scheduler import Scheduler
from interns1_local.engine.sequence import Sequence, Tile

GREEDY = SamplingParams(temperature=0)


def sequence(id: int, prompt: list[int | Tile], max_tokens: int = 4) -> Sequence:
    return Sequence.start(id, prompt, GREEDY, max_tokens)


def scheduler(n_cells: int = 256, n_slots: int = 8, max_running: int = 4, n_batch: int = 32) -> Scheduler:
    return Scheduler(Limits(n_cells, n_slots, max_running, n_batch))


class FakeCache:
    """What each slot holds, as the engine's operations would leave it. Every span must follow on what is there, and on
    what its own adapter computed."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self.slots: dict[int, list[tuple[int, int, bytes]]] = {}
        self._cell = 0

    def run(self, plan: Plan) -> None:
        for operation in plan.operations:
            if isinstance(operation, Remove):
                self.slots[operation.slot] = self.slots.get(operation.slot, [])[: operation.start]
            elif isinstance(operation, Store):
                assert [key for key, *_ in self.slots[operation.slot]][1:] == operation.keys.tolist()[1:]
            else:
                assert isinstance(operation, Share) and not self.slots.get(operation.target)
                self.slots[operation.target] = self.slots[operation.source][: operation.length]
        for span in [*plan.spans, *([plan.image] if plan.image else [])]:
            held = self.slots.setdefault(span.sequence.slot, [])
            assert len(held) == span.start
            assert [key for key, *_ in held] == span.sequence.keys[: span.start]
            assert {root for *_, root in held} <= {span.sequence.root} == {plan.root}
            for key in span.sequence.keys[span.start : span.stop]:
                self._cell += 1
                held.append((key, self._cell, span.sequence.root))
        assert self.n_used <= self.n_cells

    @property
    def n_used(self) -> int:
        return len({cell for held in self.slots.values() for _, cell, _ in held})


def take_step(subject: Scheduler, cache: FakeCache, budget: int = 8, token: int = 10_000) -> Plan:
    """Take a step as the engine would, in which every sequence that is due gets `token`."""
    plan = subject.schedule(budget)
    cache.run(plan)
    spans = [*plan.spans, *([plan.image] if plan.image else [])]
    assert spans
    assert sum(span.stop - span.start for span in plan.spans) <= subject.limits.n_batch
    for span in spans:
        subject.complete(span)
        if span.samples:
            span.sequence.keys.append(token)
            if span.sequence.n_output >= span.sequence.max_tokens:
                subject.finish(span.sequence)
    cache.run(Plan(operations=subject.take_operations()))
    assert subject.pool.n_free == cache.n_cells - cache.n_used
    return plan


def run_to_end(subject: Scheduler, cache: FakeCache, budget: int = 8, steps: int = 5000) -> list[Plan]:
    """Take steps until all is done; every sampled token is the number of the step."""
    plans = []
    for step in range(steps):
        if not subject.has_work:
            return plans
        plans.append(take_step(subject, cache, budget, 10_000 + step))
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


def test_decodes_and_a_long_prompt_take_turns_where_they_had_better_not_share_a_call() -> None:
    subject, cache = Scheduler(Limits(1024, 8, 4, 128, tile_rows=64)), FakeCache(1024)
    for id in range(3):
        subject.add(sequence(id, [id], max_tokens=100))
    take_step(subject, cache)
    subject.add(sequence(3, list(range(100, 300)), max_tokens=100))
    calls = [[(s.sequence.id, s.stop - s.start) for s in take_step(subject, cache, budget=64).spans] for _ in range(8)]
    decodes = [(0, 1), (1, 1), (2, 1)]
    # The last few tokens of the prompt are no reason for a call of their own.
    last = [*decodes, (3, 8)], [*decodes, (3, 1)]
    assert calls == [[(3, 64)], decodes, [(3, 64)], decodes, [(3, 64)], *last, last[-1]]


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


def test_who_waits_for_a_beginning_starts_when_it_is_there_and_holds_up_nobody() -> None:
    subject, cache = scheduler(n_cells=2048, max_running=3, n_batch=32), FakeCache(2048)
    common = list(range(200))
    first, second = sequence(1, [*common, *range(300, 500)]), sequence(2, [*common, 999])
    other, last = sequence(3, list(range(600, 640))), sequence(4, [1])
    for entry in (first, second, other, last):
        subject.add(entry)
    steps = 0
    while second.slot < 0:
        take_step(subject, cache, budget=32)
        steps += 1
        # There are three places: the one of the second in line is not given to the last.
        assert last.slot < 0 <= other.slot
    # After five steps of 32, too little is left of the 200 to be worth more waiting.
    assert (steps, second.cached_tokens) == (6, 160)
    run_to_end(subject, cache)
    assert all(entry.n_output == 4 for entry in (first, second, other, last))


def test_pictures_are_compared_by_content() -> None:
    black, white = (Tile.of(np.full((8, 8, 3), shade, np.uint8), 5) for shade in (0, 255))
    again = Tile.of(np.zeros((8, 8, 3), np.uint8), 5)
    subject, cache = scheduler(), FakeCache(256)
    for id, tile in enumerate((black, again, white)):
        entry = sequence(id, [1, 2, 3, 4, tile, 5, 6])
        subject.add(entry)
        run_to_end(subject, cache)
        assert entry.cached_tokens == (0, 10, 4)[id]


def test_a_long_prompt_and_pictures_never_hold_decodes_up_by_more_than_the_budget() -> None:
    tiles = [Tile.of(np.full((8, 8, 3), shade, np.uint8), 100) for shade in range(3)]
    subject, cache = scheduler(n_cells=16384, n_slots=16, max_running=12, n_batch=512), FakeCache(16384)
    streams = [sequence(id, [id], max_tokens=400) for id in range(8)]
    for entry in streams:
        subject.add(entry)
    take_step(subject, cache, budget=64)
    late = [
        sequence(10, list(range(1000, 5000))),
        sequence(11, [1, *tiles, 2, 3]),
        sequence(12, list(range(6000, 6500))),
        sequence(13, [1, 2, 3]),
    ]
    for entry in late:
        subject.add(entry)
    first_tokens = []
    while any(entry.n_output == 0 for entry in late):
        before = [entry.n_output for entry in streams]
        plan = take_step(subject, cache, budget=64)
        assert [entry.n_output for entry in streams] == [count + 1 for count in before]
        image = plan.image.stop - plan.image.start if plan.image else 0
        prompts = sum(
            span.stop - span.start
            for span in plan.spans
            if span.sequence.n_output <= 1 and span.start < span.sequence.n_prompt
        )
        assert image + prompts <= 64
        first_tokens += [entry.id for entry in late if entry.n_output and entry.id not in first_tokens]
    assert first_tokens == [10, 11, 12, 13]


def test_when_the_cache_is_full_the_latest_arrival_starts_over() -> None:
    subject, cache = scheduler(n_cells=64), FakeCache(64)
    first, second = sequence(1, list(range(20)), 40), sequence(2, list(range(50, 58)), 40)
    subject.add(first)
    subject.add(second)
    run_to_end(subject, cache)
    assert first.n_output == second.n_output == 40


def test_who_made_room_comes_back_before_later_arrivals() -> None:
    subject, cache = scheduler(n_cells=96, max_running=3), FakeCache(96)
    entries = [sequence(id, list(range(100 * id, 100 * id + 12)), 60) for id in range(4)]
    for entry in entries:
        subject.add(entry)
    ends: list[int] = []
    while subject.has_work:
        take_step(subject, cache)
        assert [entry.arrival for entry in subject.running] == sorted(entry.arrival for entry in subject.running)
        ends += [entry.id for entry in entries if entry.n_output == 60 and entry.id not in ends]
    assert ends == [0, 1, 2, 3]


def test_a_finished_sequence_loses_its_end_only_as_far_as_cells_are_wanted() -> None:
    subject, cache = scheduler(n_cells=512, n_batch=512), FakeCache(512)
    old = list(range(400))
    for prompt in (old, list(range(1000, 1000 + 200))):
        subject.add(sequence(prompt[0], prompt, max_tokens=1))
        run_to_end(subject, cache)
    again = sequence(3, [*old, 1], max_tokens=1)
    subject.add(again)
    take_step(subject, cache)
    assert again.cached_tokens == 512 - 200


def test_what_leaves_the_cache_is_stored_first_and_once() -> None:
    subject, cache = Scheduler(Limits(512, 8, 4, 512, stored_from=100)), FakeCache(512)
    stored = []
    for start, length in ((0, 400), (1000, 90), (2000, 300), (3000, 400), (4000, 200)):
        subject.add(sequence(start, list(range(start, start + length)), max_tokens=1))
        plans = run_to_end(subject, cache)
        stored += [(op.keys[0], len(op.keys)) for plan in plans for op in plan.operations if isinstance(op, Store)]
    assert stored == [(0, 400), (2000, 300), (3000, 400)]


def test_as_many_slots_as_sequences_are_enough() -> None:
    subject, cache = scheduler(n_cells=512, n_slots=2, max_running=2), FakeCache(512)
    for id in range(6):
        subject.add(sequence(id, [*range(40 + id), 1000 + id]))
    run_to_end(subject, cache)
    assert not subject.has_work


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


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=14
    ),
    st.integers(64, 200),
    st.integers(1, 32),
    st.lists(st.tuples(st.integers(0, 13), st.integers(0, 30)), max_size=4),
    st.sampled_from((0, 1, 10)),
)
def test_everybody_is_served_whatever_the_sizes(
    requests: list[tuple[int, int, int, int]],
    n_cells: int,
    budget: int,
    cancelled: list[tuple[int, int]],
    tile_rows: int,
) -> None:
    cells = max(n_cells, max(length + more for length, more, *_ in requests))
    subject, cache = Scheduler(Limits(cells, 6, 4, 32, tile_rows=tile_rows)), FakeCache(cells)
    entries = []
    for id, (length, max_tokens, kind, tiles) in enumerate(requests):
        prompt: list[int | Tile] = [kind * 1000 + place for place in range(length)]
        for place in range(min(tiles, length // 5)):
            prompt[place * 5 : place * 5 + 5] = [Tile.of(np.full((8, 8, 3), place, np.uint8), 5)]
        entries.append(sequence(id, prompt, max_tokens))
        subject.add(entries[-1])
    leave = {entries[index].id: step for index, step in cancelled if index < len(entries)}
    for step in range(5000):
        if not subject.has_work:
            break
        for entry in entries:
            if leave.get(entry.id) == step:
                subject.finish(entry, keep=entry.id % 2 == 0)
                cache.run(Plan(operations=subject.take_operations()))
        if subject.has_work:
            take_step(subject, cache, budget, 10_000 + step)
    assert all(entry.n_output == entry.max_tokens for entry in entries if entry.id not in leave)
    assert not subject.has_work and subject.pool.n_busy == 0


def test_an_aborted_step_leaves_the_books_as_they_were() -> None:
    subject, cache = scheduler(), FakeCache(256)
    tile = Tile.of(np.zeros((8, 8, 3), np.uint8), 5)
    for id, prompt in enumerate(([1, 2, 3], [4, 5, 6, 7, 8], [tile, 1])):
        subject.add(sequence(id, prompt))
    take_step(subject, cache)
    free = subject.pool.n_free
    plan = subject.schedule(8)
    for span in [*plan.spans, *([plan.image] if plan.image else [])]:
        subject.roll_back(span)
    assert subject.pool.n_free == free
    run_to_end(subject, cache)


def test_pace_starts_with_care_where_decodes_are_slow() -> None:
    pace = Pace(n_batch=512, target_seconds=0.2)
    pace.observe_decode(0.05)
    assert pace.prefill_budget == 32
    pace.observe_prompt(32, 0.096)
    assert pace.prefill_budget == 64


def test_pace_keeps_steps_short() -> None:
    pace = Pace(n_batch=512, target_seconds=0.2)
    assert pace.prefill_budget == 128
    pace.observe_prompt(90, 0.2)
    assert pace.prefill_budget == 64
    pace.observe_decode(5.0)
    pace.observe_prompt(1, 5.0)
    assert pace.prefill_budget == 64
    for _ in range(20):
        pace.observe_prompt(512, 0.01)
    assert pace.prefill_budget == 512
