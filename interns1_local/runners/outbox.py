"""What a worker has to say until it is sent: tokens that come faster than anybody reads go in one message."""

from __future__ import annotations

import threading
import time

from interns1_local.engine.requests import StepOutput
from interns1_local.runners.protocol import MAX_BLOBS, Frame

MAX_WAITING = MAX_BLOBS // 4


class Outbox:
    """Frames and the tokens of steps, in their order. One thread takes; any may put.

    Everything goes at once, except that an answer's further tokens wait until `interval` seconds after the last one.
    On a CPU, whatever a message costs the two processes is taken from the threads that compute.
    """

    def __init__(self) -> None:
        self.interval = 0.0
        self._items: list[Frame | StepOutput] = []
        self._sent = 0.0
        self._urgent = False
        self._begun: set[int] = set()
        self._changed = threading.Condition()

    def put(self, *items: Frame | StepOutput) -> None:
        """Send `items` soon, or with what comes next."""
        with self._changed:
            first = not self._items
            self._items += items
            self._urgent |= any([self._cannot_wait(item) for item in items]) or len(self._items) >= MAX_WAITING
            if first or self._urgent:
                self._changed.notify()

    def take(self) -> list[Frame | StepOutput]:
        """Wait for something to be sent, and for the time to send it."""
        with self._changed:
            while not self._items:
                self._changed.wait()
            while not self._urgent and (left := self._sent + self.interval - time.monotonic()) > 0:
                self._changed.wait(left)
            items, self._items, self._urgent = self._items, [], False
            self._sent = time.monotonic()
            return items

    def _cannot_wait(self, item: Frame | StepOutput) -> bool:
        """Answers, errors and progress, and the first and the last tokens of a request."""
        if isinstance(item, Frame):
            return True
        ends = item.finish is not None or item.error is not None
        begins = item.request_id not in self._begun
        (self._begun.discard if ends else self._begun.add)(item.request_id)
        return begins or ends
