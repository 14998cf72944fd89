"""The cores of a machine, taken by turns: a step of the engine, then a while of the vision tower."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A cancelled request waits for no more of the tower than this.
LONGEST_TURN = 0.1


class Turns:
    """For two threads that compute on all cores. At the same time, each would wait for threads that do not run: steps
    and tiles then take several times as long.

    The tower has as long as the step before took, and all the time in which there is no step.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._stepping = self._step_waits = False
        self._encoding = self._tile_waits = False
        self._tower_until = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step of the engine is computed inside; it waits for the end of the tower's turn."""
        with self._changed:
            self._step_waits = True
            self._changed.wait_for(lambda: not self._encoding)
            self._step_waits, self._stepping = False, True
        began = self._clock()
        try:
            yield
        finally:
            with self._changed:
                self._stepping = False
                if self._tile_waits:
                    now = self._clock()
                    self._tile_waits, self._encoding = False, True
                    self._tower_until = now + min(now - began, LONGEST_TURN)
                    self._changed.notify_all()

    @contextmanager
    def tile(self) -> Iterator[None]:
        """A tile goes through the tower inside, which calls `offer` often."""
        with self._changed:
            self._enter()
        try:
            yield
        finally:
            with self._changed:
                self._encoding = False
                self._changed.notify_all()

    def offer(self) -> None:
        """Let a step that waits be computed, when the tower has had its turn."""
        if self._step_waits and self._clock() >= self._tower_until:
            with self._changed:
                self._encoding = False
                self._changed.notify_all()
                self._enter()

    def _enter(self) -> None:
        if not (self._stepping or self._step_waits):
            self._encoding = True
            return
        self._tile_waits = True
        self._changed.wait_for(lambda: self._encoding)
