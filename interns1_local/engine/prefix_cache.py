"""What the slots of the cache hold, as a radix tree over token ids (and the ids below zero that stand for pictures).

Sequences at work are in it as far as they are computed, finished ones until their cells are wanted. Each slot has a
path from the root; where two paths agree they are one, so the longest beginning that a new prompt shares with any of
them is found in one walk. Finished sequences leave leaf by leaf, the least recently used first, each from its end.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from interns1_local.engine.sequence import Keys

# A shorter common beginning is not worth an operation on the cache.
SHORTEST_SHARED = 4


class _Node:
    """A run of ids after those of `parent`; `ends` are the slots whose path ends with it."""

    __slots__ = ("children", "ends", "keys", "parent", "used")

    def __init__(self, keys: Keys, parent: _Node | None, used: int) -> None:
        self.keys = keys
        self.parent = parent
        self.children: dict[int, _Node] = {}
        self.ends: set[int] = set()
        self.used = used


class CachedPrefix:
    """The first `length` ids that `slot` holds. `cells` are known once its sequence is finished."""

    __slots__ = ("cells", "length", "node", "slot", "stored")

    def __init__(self, slot: int, root: _Node) -> None:
        self.slot = slot
        self.length = 0
        self.node = root
        self.cells: npt.NDArray[np.int64] | None = None
        # Whether a file holds it, or nobody wants it there.
        self.stored = False

    @property
    def finished(self) -> bool:
        return self.cells is not None

    def keys(self) -> Keys:
        parts, node = [], self.node
        while node.parent is not None:
            parts.append(node.keys)
            node = node.parent
        return np.concatenate(parts[::-1]) if parts else np.empty(0, np.int64)


class PrefixCache:
    """The tree, and the slots that have a path in it."""

    def __init__(self) -> None:
        self._root = _Node(np.empty(0, np.int64), None, 0)
        self._entries: dict[int, CachedPrefix] = {}
        self._tick = 0

    def __len__(self) -> int:
        """How many finished sequences there are."""
        return sum(entry.finished for entry in self._entries.values())

    def get(self, slot: int) -> CachedPrefix | None:
        return self._entries.get(slot)

    def by_age(self) -> list[CachedPrefix]:
        """The finished sequences, the least recently used first."""
        return sorted((e for e in self._entries.values() if e.finished), key=lambda entry: entry.node.used)

    def hold(self, slot: int, keys: Keys) -> None:
        """`slot`, of a sequence at work, holds `keys`, which begin with what it held before."""
        entry = self._entries.get(slot)
        if entry is None:
            entry = self._entries[slot] = CachedPrefix(slot, self._root)
        node, rest = entry.node, keys[entry.length :]
        if len(rest):
            node.ends.discard(slot)
            if node.parent is not None and not node.children and not node.ends:
                node.keys = np.concatenate((node.keys, rest))
            else:
                node = self._descend(node, rest)
            node.ends.add(slot)
            entry.node, entry.length = node, len(keys)
        self._touch(node)

    def finish(self, slot: int, cells: npt.ArrayLike) -> list[CachedPrefix]:
        """The sequence of `slot` is over; `cells` are those of what it holds. Returns the finished sequences that
        have become superfluous, as others hold the same and more, already taken out."""
        entry = self._entries[slot]
        entry.cells = np.asarray(cells, np.int64)
        self._touch(entry.node)
        covered = []
        node: _Node | None = entry.node
        while node is not None:
            covered += [e for end in node.ends if end != slot and (e := self._entries[end]).finished]
            node = node.parent
        for other in covered:
            self.drop(other.slot)
        if self.is_covered(entry):
            self.drop(slot)
            covered.append(entry)
        return covered

    def is_covered(self, entry: CachedPrefix) -> bool:
        """Whether another finished sequence holds what `entry` does."""
        return any(slot != entry.slot and self._entries[slot].finished for slot in _slots_below(entry.node))

    def longest(self, keys: Keys) -> tuple[int, list[int]]:
        """The length of the longest beginning of `keys` in the tree, and all slots that hold it."""
        node, length = self._root, 0
        while length < len(keys) and (child := node.children.get(int(keys[length]))) is not None:
            common = common_prefix(child.keys, keys[length:])
            node, length = child, length + common
            if common < len(child.keys):
                break
        return length, list(_slots_below(node)) if length else []

    def shorten(self, slot: int, length: int) -> None:
        """`slot` holds `length` ids only, at least one."""
        entry = self._entries[slot]
        old = node = entry.node
        start = entry.length - len(node.keys)
        node.ends.discard(slot)
        while length <= start and node.parent is not None:
            node = node.parent
            start -= len(node.keys)
        if length < start + len(node.keys):
            node = self._split(node, length - start)
        node.ends.add(slot)
        entry.node, entry.length = node, length
        if entry.cells is not None:
            entry.cells = entry.cells[:length]
        self._prune(old)

    def drop(self, slot: int) -> None:
        """`slot` holds nothing any more."""
        entry = self._entries.pop(slot, None)
        if entry is not None:
            entry.node.ends.discard(slot)
            self._prune(entry.node)

    def _descend(self, node: _Node, rest: Keys) -> _Node:
        """The node at the end of the path `rest` below `node`, made as far as it is missing."""
        while len(rest):
            child = node.children.get(int(rest[0]))
            if child is None:
                child = node.children[int(rest[0])] = _Node(rest.copy(), node, self._tick)
                return child
            common = common_prefix(child.keys, rest)
            node = child if common == len(child.keys) else self._split(child, common)
            rest = rest[common:]
        return node

    def _split(self, node: _Node, place: int) -> _Node:
        """Cut a node's run in two; returns the upper one."""
        assert node.parent is not None and 0 < place < len(node.keys)
        upper = _Node(node.keys[:place].copy(), node.parent, node.used)
        node.parent.children[int(upper.keys[0])] = upper
        node.keys, node.parent = node.keys[place:].copy(), upper
        upper.children[int(node.keys[0])] = node
        return upper

    def _prune(self, node: _Node) -> None:
        """Take out nodes that nobody's path needs, and make one of two where no path branches or ends."""
        while node.parent is not None and not node.ends and not node.children:
            del node.parent.children[int(node.keys[0])]
            node = node.parent
        if node.parent is not None and not node.ends and len(node.children) == 1:
            (child,) = node.children.values()
            child.keys = np.concatenate((node.keys, child.keys))
            child.parent = node.parent
            node.parent.children[int(child.keys[0])] = child

    def _touch(self, node: _Node) -> None:
        self._tick += 1
        above: _Node | None = node
        while above is not None:
            above.used = self._tick
            above = above.parent


def common_prefix(left: Keys, right: Keys) -> int:
    """How many ids two sequences have in common from their start."""
    length = min(len(left), len(right))
    different = left[:length] != right[:length]
    place = int(different.argmax()) if length else 0
    return place if length and different[place] else length


def _slots_below(node: _Node) -> Iterator[int]:
    """The slots whose path goes through `node` or ends there, these first."""
    yield from node.ends
    for child in node.children.values():
        yield from _slots_below(child)
