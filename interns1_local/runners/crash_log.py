"""Requests that were being answered when a worker died: one that saw it twice is not tried a third time."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable

from interns1_local.errors import BadRequest
from interns1_local.runners.protocol import GenerateRequest, frame_buffers, request_frame

MOST_CRASHES = 2
REMEMBERED = 256
FORGOTTEN_AFTER = 600.0


class CrashLog:
    """Counts crashes by request. What was answered to its end, or long ago, is forgotten."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._crashes: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def check(self, model: str, request: GenerateRequest) -> None:
        """BadRequest when `model`'s worker died twice while it answered this very request."""
        if not self._crashes:
            return
        count, when = self._crashes.get(_digest(model, request), (0, 0.0))
        if count >= MOST_CRASHES and self._clock() - when < FORGOTTEN_AFTER:
            raise BadRequest(
                f"the model runner stopped {count} times while it answered this request, so it is refused for "
                f"{FORGOTTEN_AFTER / 60:.0f} minutes; change the request, or look at the server's log for the reason"
            )

    def note_crash(self, model: str, request: GenerateRequest) -> None:
        """The worker of `model` died while it answered `request`."""
        digest = _digest(model, request)
        count, when = self._crashes.pop(digest, (0, 0.0))
        now = self._clock()
        self._crashes[digest] = (count + 1 if now - when < FORGOTTEN_AFTER else 1), now
        while len(self._crashes) > REMEMBERED:
            self._crashes.popitem(last=False)

    def note_end(self, model: str, request: GenerateRequest) -> None:
        """The request was answered to its end."""
        if self._crashes:
            self._crashes.pop(_digest(model, request), None)


def _digest(model: str, request: GenerateRequest) -> bytes:
    digest = hashlib.sha256(model.encode())
    for buffer in frame_buffers(request_frame(0, request)):
        digest.update(buffer)
    return digest.digest()
