"""Which cells of the cache are whose, counted as llama.cpp's unified cache counts them."""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import numpy.typing as npt

Cells = Items[int] | npt.NDArray[np.int64]


class CellPool:
    """Counts the owners of every cell, and those at work among them; a cell with no owner is free."""

    def __init__(self, n_cells: int) -> None:
        self.n_cells = n_cells
        # Cells of sequences at work, each counted once.
        self.n_busy = 0
        self._owners = np.zeros(n_cells, np.int32)
        self._workers = np.zeros(n_cells, np.int32)
        self._free = list(range(n_cells - 1, -1, -1))

    @property
    def n_free(self) -> int:
        return len(self._free)

    def take_one(self) -> int:
        """A free cell, now of one sequence at work. IndexError when there is none."""
        cell = self._free.pop()
        self._owners[cell] = self._workers[cell] = 1
        self.n_busy += 1
        return cell

    def take(self, count: int) -> list[int]:
        """`count` free cells, now of one sequence at work."""
        start = len(self._free) - count
        if start < 0:
            raise ValueError(f"{count} cells wanted, {len(self._free)} free")
        cells = self._free[start:]
        del self._free[start:]
        self._owners[cells] = self._workers[cells] = 1
        self.n_busy += count
        return cells

    def share(self, cells: Cells) -> None:
        """One more owner for each, at work."""
        indices = np.asarray(cells, np.int64)
        self.n_busy += self.n_idle(indices)
        self._owners[indices] += 1
        self._workers[indices] += 1

    def rest(self, cells: Cells) -> None:
        """One of the owners of each is no longer at work."""
        indices = np.asarray(cells, np.int64)
        self._workers[indices] -= 1
        self.n_busy -= self.n_idle(indices)

    def release(self, cells: Cells) -> None:
        """One owner less for each, of those that are not at work."""
        indices = np.asarray(cells, np.int64)
        self._owners[indices] -= 1
        self._free += indices[self._owners[indices] == 0].tolist()

    def n_idle(self, cells: Cells) -> int:
        """How many of `cells` belong to no sequence at work."""
        return int(np.count_nonzero(self._workers[np.asarray(cells, np.int64)] == 0))

    def n_own(self, cells: Cells) -> int:
        """How many of a sequence's cells are its alone. They are its last ones, as beginnings are what is shared."""
        return int(np.count_nonzero(self._owners[np.asarray(cells, np.int64)] == 1))
