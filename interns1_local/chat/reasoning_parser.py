"""Splits a model's text into thinking and answer as it arrives. Tags are never shown, nor half a tag."""

from __future__ import annotations

from enum import Enum, auto

from interns1_local.chat.events import Content, Reasoning
from interns1_local.chat.suffix import ambiguous_suffix

OPEN, CLOSE = "<think>", "</think>"


class _State(Enum):
    LOOKING_FOR_OPEN = auto()
    THINKING_STARTS = auto()
    THINKING = auto()
    CONTENT_STARTS = auto()
    CONTENT = auto()


class ReasoningParser:
    """A thought stands only at the beginning. White space after `<think>` and after `</think>` is left out."""

    def __init__(self, *, starts_in_reasoning: bool) -> None:
        self._state = _State.THINKING_STARTS if starts_in_reasoning else _State.LOOKING_FOR_OPEN
        self._held = ""

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text belongs to a thought, as far as is known."""
        return self._state in (_State.THINKING_STARTS, _State.THINKING)

    def decode(self, text: str) -> list[Reasoning | Content]:
        """The events that `text` makes certain."""
        self._held += text
        events: list[Reasoning | Content] = []
        state = None
        while state is not self._state:
            state = self._state
            events.extend(self._advance())
        return events

    def flush(self) -> list[Reasoning | Content]:
        """The text is over: what was held back is what it looks like."""
        held, self._held = self._held, ""
        if not held:
            return []
        return [Reasoning(held) if self.in_reasoning else Content(held)]

    def _advance(self) -> list[Reasoning | Content]:
        if self._state is _State.LOOKING_FOR_OPEN:
            return self._look_for_open()
        if self._state in (_State.THINKING_STARTS, _State.CONTENT_STARTS):
            self._held = self._held.lstrip()
            if self._held:
                self._state = _State.THINKING if self.in_reasoning else _State.CONTENT
            return []
        if self._state is _State.THINKING:
            return self._think()
        held, self._held = self._held, ""
        return [Content(held)] if held else []

    def _look_for_open(self) -> list[Reasoning | Content]:
        start = self._held.lstrip()
        if start.startswith(OPEN):
            self._held = start[len(OPEN) :]
            self._state = _State.THINKING_STARTS
        elif not OPEN.startswith(start):
            self._state = _State.CONTENT
        return []

    def _think(self) -> list[Reasoning | Content]:
        thought, close, rest = self._held.partition(CLOSE)
        if close:
            self._held = rest
            self._state = _State.CONTENT_STARTS
        else:
            keep = len(thought) - ambiguous_suffix(thought, CLOSE)
            thought, self._held = thought[:keep], thought[keep:]
        return [Reasoning(thought)] if thought else []
