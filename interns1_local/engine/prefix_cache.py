"""Which cache cells are whose, and which finished sequences are kept because a later prompt may begin the same way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interns1_local.engine.sequence import Cells, Keys

# A shorter common beginning is not worth an operation on the cache.
SHORTEST_SHARED = 4


class CellPool:
    """Counts the owners of every cell, as llama.cpp's unified cache does; a cell with no owner is free."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        self._owners = np.zeros(n_cells, np.int32)
        self._free = np.arange(n_cells - 1, -1, -1, dtype=np.int64)
        self.n_free = n_cells

    def take(self, count: int) -> Cells:
        """`count` free cells, now with one owner."""
        if count > self.n_free:
            raise ValueError(f"{count} cells wanted, {self.n_free} free")
        cells = self._free[self.n_free - count : self.n_free].copy()
        self.n_free -= count
        self._owners[cells] = 1
        return cells

    def share(self, cells: Cells) -> None:
        """One more owner for each."""
        self._owners[cells] += 1

    def release(self, cells: Cells) -> None:
        """One owner less for each."""
        self._owners[cells] -= 1
        freed = cells[self._owners[cells] == 0]
        self._free[self.n_free : self.n_free + len(freed)] = freed
        self.n_free += len(freed)


@dataclass(eq=False, slots=True)
class CachedPrefix:
    """A sequence that is over, still in the cache under its slot."""

    slot: int
    keys: Keys
    cells: Cells
    used: int


class PrefixCache:
    """Finished sequences by slot, the least recently used first to go."""

    def __init__(self) -> None:
        self._entries: dict[int, CachedPrefix] = {}
        self._tick = 0

    def __len__(self) -> int:
        return len(self._entries)

    def insert(self, slot: int, keys: Keys, cells: Cells) -> list[CachedPrefix]:
        """Keep a finished sequence. Returns the entries that it makes superfluous, already taken out."""
        covered = [e for e in self._entries.values() if common_prefix(e.keys, keys) == len(e.keys)]
        for entry in covered:
            del self._entries[entry.slot]
        self._entries[slot] = CachedPrefix(slot, keys, cells, self._now())
        return covered

    def longest(self, keys: Keys) -> tuple[CachedPrefix | None, int]:
        """The entry with the longest common beginning, and its length."""
        best, length = None, 0
        for entry in self._entries.values():
            common = common_prefix(entry.keys, keys)
            if common > length:
                best, length = entry, common
        if best is not None:
            best.used = self._now()
        return best, length

    def evict(self, spare: int = -1) -> CachedPrefix | None:
        """Take out the least recently used entry, but not the one in the slot `spare`."""
        others = (entry for entry in self._entries.values() if entry.slot != spare)
        entry = min(others, key=lambda e: e.used, default=None)
        if entry is not None:
            del self._entries[entry.slot]
        return entry

    def _now(self) -> int:
        self._tick += 1
        return self._tick


def common_prefix(left: Keys, right: Keys) -> int:
    """How many ids two sequences have in common from their start."""
    length = min(len(left), len(right))
    different = np.flatnonzero(left[:length] != right[:length])
    return int(different[0]) if len(different) else length
