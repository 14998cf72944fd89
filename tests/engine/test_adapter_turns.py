"""Sequences with different adapters take turns, and nothing that one computed serves another: no model is needed."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.engine.adapter_turns import TURN_STEPS, AdapterTurns
from interns1_local.engine.plan import Limits, Plan
from interns1_local.engine.scheduler import Scheduler
from interns1_local.engine.sequence import Sequence, Tile
from tests.engine.test_scheduler import FakeCache, run_to_end, scheduler, sequence, take_step

A, B, C = b"a", b"b", b"c"
PLAIN = b""


def adapted(id: int, prompt: list[int | Tile], root: bytes, max_tokens: int = 4) -> Sequence:
    made = sequence(id, prompt, max_tokens)
    made.root = root
    return made


def with_turns(n_cells: int = 1024, n_batch: int = 32, n_slots: int = 12, ready: bool = True) -> Scheduler:
    limits = Limits(n_cells, n_slots, 6, n_batch)
    return Scheduler(limits, is_ready=lambda tile: ready, turns=AdapterTurns())


def decoding(*roots: bytes) -> tuple[Scheduler, FakeCache]:
    """Sequences that have read their prompts and say a lot."""
    subject, cache = with_turns(), FakeCache(1024)
    for id, root in enumerate(roots):
        subject.add(adapted(id, [100 * id + 1], root, 200))
    while any(entry.n_output == 0 for entry in subject.running) or not subject.running:
        take_step(subject, cache)
    return subject, cache


def turns_taken(subject: Scheduler, cache: FakeCache, steps: int) -> list[bytes]:
    """The root of each turn among so many steps; a turn has the same number of steps for all."""
    roots = [take_step(subject, cache).root for _ in range(steps)]
    while roots and roots[:TURN_STEPS] != [roots[0]] * TURN_STEPS:
        roots.pop(0)
    whole = len(roots) // TURN_STEPS * TURN_STEPS
    turns = [roots[start : start + TURN_STEPS] for start in range(0, whole, TURN_STEPS)]
    assert all(len(set(turn)) == 1 for turn in turns)
    return [turn[0] for turn in turns]


def test_they_take_turns_and_all_with_one_adapter_share_its_steps() -> None:
    subject, cache = decoding(A, PLAIN, A, B)
    taken = turns_taken(subject, cache, 10 * TURN_STEPS)
    assert set(taken) == {A, PLAIN, B}
    assert all(len(set(taken[at : at + 3])) == 3 for at in range(len(taken) - 2))
    counts = {entry.id: entry.n_output for entry in subject.running}
    assert counts[0] == counts[2]


def test_a_newcomer_is_next() -> None:
    subject, cache = decoding(A, B)
    turns_taken(subject, cache, 4 * TURN_STEPS)
    newcomer = adapted(9, [900], C, 100)
    subject.add(newcomer)
    waited = 0
    while newcomer.n_output == 0:
        take_step(subject, cache)
        waited += 1
    assert waited <= TURN_STEPS + 1


def test_alone_they_are_planned_as_without_turns() -> None:
    prompts = [list(range(300 * id, 300 * id + 20 * id + 1)) for id in range(5)]
    plans = []
    for subject in (with_turns(), scheduler(1024, 12, 6)):
        for id, prompt in enumerate(prompts):
            subject.add(adapted(id, prompt, A, 9))
        taken = run_to_end(subject, FakeCache(1024))
        plans.append([[(s.sequence.id, s.start, s.stop) for s in plan.spans] for plan in taken])
    assert plans[0] == plans[1]


def test_a_prompt_keeps_to_the_budget_while_others_decode_and_ends_its_turn() -> None:
    subject, cache = decoding(A)
    late = adapted(5, list(range(500, 600)), B)
    subject.add(late)
    reads = []
    while late.n_output == 0:
        plan = take_step(subject, cache, budget=16)
        reads.append(plan.root == B)
        if plan.root == B:
            assert sum(span.stop - span.start for span in plan.spans) <= 16
    assert sum(reads) == 7
    between = "".join("B" if read else "a" for read in reads).strip("a").split("B")
    assert [len(run) for run in between if run] == [TURN_STEPS] * 6


def test_who_waits_for_a_tile_lets_others_go_on() -> None:
    subject, cache = with_turns(ready=False), FakeCache(1024)
    tile = Tile.of(np.zeros((8, 8, 3), np.uint8), 5)
    subject.add(adapted(1, [tile, 1], A))
    subject.add(adapted(2, [1, 2, 3], B, 30))
    for _ in range(20):
        assert take_step(subject, cache).root == B
    subject.finish(subject.running[1])
    plan = subject.schedule(8)
    assert plan.awaits_tile and not plan.computes and len(subject.running) == 1


def test_what_may_be_guessed_ahead_is_of_those_whose_turn_it_is() -> None:
    subject, cache = decoding(A, B)
    for _ in range(3 * TURN_STEPS):
        (guessed,) = subject.decoding
        guessed.draft = (7, 8)
        plan = subject.schedule(8)
        assert [(span.sequence, span.drafted) for span in plan.spans] == [(guessed, (7, 8))]
        for span in plan.spans:
            subject.complete(span, span.stop - 2)
            span.sequence.keys.append(5)
        cache.run(Plan(operations=plan.operations))


def test_a_beginning_serves_its_own_adapter_only() -> None:
    subject, cache = with_turns(), FakeCache(1024)
    prompt: list[int | Tile] = [*range(200)]
    found = []
    for root in (A, PLAIN, B, A, PLAIN):
        entry = adapted(len(found), prompt, root)
        subject.add(entry)
        run_to_end(subject, cache)
        found.append(entry.cached_tokens)
    assert found == [0, 0, 0, 199, 199]
    # Nor does one wait for what another is computing.
    entries = [adapted(10 + id, [*range(300, 500), id], root) for id, root in enumerate((A, B, A))]
    for entry in entries:
        subject.add(entry)
    take_step(subject, cache)
    assert [entry.slot >= 0 for entry in entries] == [True, True, False]
    run_to_end(subject, cache)
    assert [entry.cached_tokens for entry in entries[:2]] == [0, 0] and entries[2].cached_tokens > 100


def test_a_picture_first_is_told_apart_too() -> None:
    tile = Tile.of(np.zeros((8, 8, 3), np.uint8), 5)
    keys = [adapted(1, [tile, 1, 2], root).key_array() for root in (PLAIN, A, B)]
    assert len({int(array[0]) for array in keys}) == 3
    assert all(array[1:].tolist() == keys[0][1:].tolist() for array in keys)
    assert all(int(array[0]) >= 2**62 for array in keys[1:])


@settings(max_examples=80, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 20), st.integers(0, 2), st.sampled_from([PLAIN, A, B])),
        min_size=1,
        max_size=12,
    ),
    st.integers(64, 200),
    st.integers(1, 32),
)
def test_everybody_is_served_whatever_the_sizes(
    requests: list[tuple[int, int, int, bytes]], n_cells: int, budget: int
) -> None:
    cells = max(n_cells, max(length + more for length, more, *_ in requests))
    subject, cache = with_turns(cells, n_slots=6), FakeCache(cells)
    entries = []
    for id, (length, max_tokens, kind, root) in enumerate(requests):
        prompt: list[int | Tile] = [kind * 1000 + place for place in range(length)]
        if kind == 2 and length > 8:
            prompt[3:8] = [Tile.of(np.zeros((8, 8, 3), np.uint8), 5)]
        entries.append(adapted(id, prompt, root, max_tokens))
        subject.add(entries[-1])
    run_to_end(subject, cache, budget)
    assert all(entry.n_output == entry.max_tokens for entry in entries)
    assert subject.pool.n_busy == 0
