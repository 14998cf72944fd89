"""The radix tree against a plain table of what each slot holds."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.engine.prefix_cache import PrefixCache, common_prefix

KEYS = st.lists(st.integers(0, 2), min_size=1, max_size=12)
STEPS = st.lists(
    st.tuples(st.sampled_from(["hold", "grow", "finish", "shorten", "drop"]), st.integers(0, 5), KEYS), max_size=40
)


def common(left: list[int], right: list[int]) -> int:
    return common_prefix(np.array(left, np.int64), np.array(right, np.int64))


class Table:
    """What the tree should say, found by looking at everything."""

    def __init__(self) -> None:
        self.held: dict[int, list[int]] = {}
        self.finished: set[int] = set()

    def covered(self, slot: int) -> bool:
        keys = self.held[slot]
        return any(self.held[other][: len(keys)] == keys for other in self.finished - {slot})

    def drop(self, slot: int) -> None:
        self.held.pop(slot, None)
        self.finished.discard(slot)


def take_step(tree: PrefixCache, table: Table, what: str, slot: int, keys: list[int]) -> None:
    at_work = slot in table.held and slot not in table.finished
    if what == "hold" and slot not in table.held:
        table.held[slot] = keys
        tree.hold(slot, np.array(keys, np.int64))
    elif what == "grow" and at_work:
        table.held[slot] = table.held[slot] + keys
        tree.hold(slot, np.array(table.held[slot], np.int64))
    elif what == "finish" and at_work:
        table.finished.add(slot)
        keys = table.held[slot]
        gone = {s for s in table.finished if s != slot and table.held[s] == keys[: len(table.held[s])]}
        for other in gone:
            table.drop(other)
        if table.covered(slot):
            gone.add(slot)
            table.drop(slot)
        assert {entry.slot for entry in tree.finish(slot, np.arange(len(keys)))} == gone
    elif what == "shorten" and slot in table.finished:
        table.held[slot] = table.held[slot][: len(keys)]
        tree.shorten(slot, len(table.held[slot]))
    elif what == "drop":
        table.drop(slot)
        tree.drop(slot)


@settings(max_examples=200, deadline=None)
@given(STEPS, st.lists(KEYS, min_size=1, max_size=4))
def test_the_tree_says_what_a_table_says(steps: list[tuple[str, int, list[int]]], prompts: list[list[int]]) -> None:
    tree, table = PrefixCache(), Table()
    for what, slot, keys in steps:
        take_step(tree, table, what, slot, keys)
        assert len(tree) == len(table.finished)
        for held_slot, held in table.held.items():
            entry = tree.get(held_slot)
            assert entry is not None
            assert (entry.keys().tolist(), entry.length) == (held, len(held))
            assert entry.finished == (held_slot in table.finished)
            assert tree.is_covered(entry) == table.covered(held_slot)
    for prompt in prompts:
        length, slots = tree.longest(np.array(prompt, np.int64))
        shared = {slot: common(held, prompt) for slot, held in table.held.items()}
        assert length == max(shared.values(), default=0)
        assert set(slots) == ({slot for slot, count in shared.items() if count == length} if length else set())


def test_the_least_recently_used_leaf_is_the_oldest_and_what_leads_to_others_is_not() -> None:
    tree = PrefixCache()
    for slot, keys in enumerate(([1, 2, 3, 4], [1, 2, 5, 6], [7, 8])):
        tree.hold(slot, np.array(keys, np.int64))
        tree.finish(slot, np.arange(len(keys)))
    # A new prompt uses the beginning of the first one only: its end stays the oldest.
    tree.hold(3, np.array([1, 2, 3], np.int64))
    assert [entry.slot for entry in tree.by_age()] == [0, 1, 2]
    tree.shorten(0, 3)
    assert [entry.slot for entry in tree.by_age()] == [1, 2, 0]
