"""Stop strings in a text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence

from interns1_local.chat.suffix import ambiguous_suffix


class StopStrings:
    """Passes text until a stop string has come; holds back no more than what may still become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.found: str | None = None

    def decode(self, text: str) -> tuple[str, bool]:
        """The text that is safe to pass on, and whether a stop string ended it."""
        self._held += text
        places = [(place, stop) for stop in self._stops if (place := self._held.find(stop)) >= 0]
        if places:
            place, self.found = min(places, key=lambda found: found[0])
            passed, self._held = self._held[:place], ""
            return passed, True
        keep = max((ambiguous_suffix(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        passed, self._held = self._held[:cut], self._held[cut:]
        return passed, False

    def flush(self) -> str:
        rest, self._held = self._held, ""
        return rest
