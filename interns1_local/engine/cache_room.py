"""The slots and cells of the cache: who has them, and how finished sequences make room for others. Pure."""

from __future__ import annotations

from interns1_local.engine.cell_pool import CellPool, Cells
from interns1_local.engine.plan import Limits, Operation, Remove, Store
from interns1_local.engine.prefix_cache import SHORTEST_SHARED, CachedPrefix, PrefixCache

# A finished sequence is shortened by at least so many cells: each time, all cells are looked through.
EVICTED_AT_ONCE = 64


class CacheRoom:
    """Keeps the books; `operations` are what the cache has to do so that it agrees with them."""

    def __init__(self, limits: Limits) -> None:
        self.pool = CellPool(limits.n_cells)
        self.cache = PrefixCache()
        self.operations: list[Operation] = []
        self._stored_from = limits.stored_from
        self._free_slots = list(range(limits.n_slots - 1, -1, -1))

    def take_operations(self) -> list[Operation]:
        operations, self.operations = self.operations, []
        return operations

    def take_slot(self, spare: int = -1) -> int | None:
        """A free slot; a finished sequence other than `spare` makes place if there is none."""
        if not self._free_slots:
            entry = next((entry for entry in self.cache.by_age() if entry.slot != spare), None)
            if entry is None:
                return None
            self.store(entry)
            self.evict(entry)
        return self._free_slots.pop()

    def free(self, slot: int) -> None:
        """Nobody has `slot` any more."""
        self._free_slots.insert(0, slot)
        self.operations.append(Remove(slot))

    def make_room(self, count: int) -> bool:
        """Whether `count` cells are free, after finished sequences have left or been shortened as needed."""
        while self.pool.n_free < count:
            entry = next((e for e in self.cache.by_age() if e.cells is not None and self.pool.n_own(e.cells)), None)
            if entry is None:
                return False
            self._shorten(entry, count - self.pool.n_free)
        return True

    def give_up(self, cells: Cells) -> None:
        """Cells of a sequence at work that it needs no more."""
        if len(cells):
            self.pool.rest(cells)
            self.pool.release(cells)

    def store(self, entry: CachedPrefix) -> None:
        """Let a finished sequence be written to a file, where that is wanted and was not done."""
        if not entry.stored and 0 < self._stored_from <= entry.length:
            self.operations.append(Store(entry.slot, entry.keys()))
        entry.stored = True

    def evict(self, entry: CachedPrefix) -> None:
        """Take a finished sequence out."""
        self.cache.drop(entry.slot)
        self.forget(entry)

    def forget(self, entry: CachedPrefix) -> None:
        """Give the slot and cells of a finished sequence that is out of the tree back."""
        if entry.cells is not None:
            self.pool.release(entry.cells)
        self.free(entry.slot)

    def _shorten(self, entry: CachedPrefix, wanted: int) -> None:
        """Take at least one and about `wanted` cells from the end of a finished sequence, but not more than its last
        run in the tree, before which another may be older."""
        assert entry.cells is not None
        count = min(max(wanted, EVICTED_AT_ONCE), self.pool.n_own(entry.cells), len(entry.node.keys))
        length = entry.length - count
        self.store(entry)
        if length < SHORTEST_SHARED:
            self.evict(entry)
            return
        freed = entry.cells[length:]
        self.cache.shorten(entry.slot, length)
        self.pool.release(freed)
        if self.cache.is_covered(entry):
            self.evict(entry)
        else:
            self.operations.append(Remove(entry.slot, length))
