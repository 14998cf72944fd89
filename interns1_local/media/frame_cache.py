"""The frames of films that were decoded a short while ago."""

from __future__ import annotations

from interns1_local.media.recently_used import RecentlyUsed
from interns1_local.media.video import Film, Frames


class FrameCache:
    """Films by their content and by which frames were wanted; the least recently used go. Any thread may ask."""

    def __init__(self, most_bytes: int) -> None:
        self._films: RecentlyUsed[bytes, Frames] = RecentlyUsed(most_bytes, lambda frames: frames.nbytes)

    def frames(self, film: Film) -> Frames:
        """uint8 [frames, size, size, 3], not to be written to. Raises MediaError."""
        key = film.digest()
        if (kept := self._films.get(key)) is not None:
            return kept
        frames = film.frames()
        frames.flags.writeable = False
        self._films.put(key, frames)
        return frames
