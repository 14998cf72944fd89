"""The frames of films that were decoded a short while ago."""

from __future__ import annotations

import threading
from collections import OrderedDict

from interns1_local.media.video import Film, Frames


class FrameCache:
    """Films by their content and by which frames were wanted; the least recently used go. Any thread may ask."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._films: OrderedDict[bytes, Frames] = OrderedDict()
        self._lock = threading.Lock()

    def frames(self, film: Film) -> Frames:
        """uint8 [frames, size, size, 3], not to be written to. Raises MediaError."""
        key = film.digest()
        with self._lock:
            if key in self._films:
                self._films.move_to_end(key)
                return self._films[key]
        frames = film.frames()
        frames.flags.writeable = False
        with self._lock:
            self._films[key] = frames
            while sum(kept.nbytes for kept in self._films.values()) > self._most_bytes:
                self._films.popitem(last=False)
        return frames
