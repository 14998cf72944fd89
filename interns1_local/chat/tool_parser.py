"""Takes tool calls out of a model's answer as it arrives, whatever the grammar of their blocks."""

from __future__ import annotations

from interns1_local.chat.events import Content, ToolCallEvent
from interns1_local.chat.suffix import ambiguous_suffix
from interns1_local.chat.tool_parsers import GRAMMARS


class ToolParser:
    """Text outside of blocks passes; a block becomes a call, or, if it holds none, passes as the text it is.

    White space between calls, and after the last one, belongs to the grammar and is left out.
    """

    def __init__(self, grammar: str) -> None:
        self._grammar = GRAMMARS[grammar]
        self._held = ""
        self._in_block = False
        self._search_from = 0
        self._after_call = False
        self._calls = 0

    def decode(self, text: str) -> list[Content | ToolCallEvent]:
        """The events that `text` makes certain."""
        self._held += text
        events: list[Content | ToolCallEvent] = []
        while self._read_block(events) if self._in_block else self._read_text(events):
            pass
        return events

    def flush(self) -> list[Content | ToolCallEvent]:
        """The text is over. A block that lacks only its closing mark, which may have ended the answer, still counts."""
        held, self._held = self._held, ""
        events: list[Content | ToolCallEvent] = []
        if self._in_block:
            self._in_block = False
            body = held[: len(held) - ambiguous_suffix(held, self._grammar.CLOSE)]
            self._emit_block(body, self._grammar.OPEN + held, events)
        elif not self._after_call or held.strip():
            self._emit_text(held, events)
        return events

    def _read_text(self, events: list[Content | ToolCallEvent]) -> bool:
        """Pass on the text before the next block; True if a block has begun."""
        before, mark, after = self._held.partition(self._grammar.OPEN)
        if not mark:
            keep = len(before) - ambiguous_suffix(before, self._grammar.OPEN)
            if self._after_call and not before[:keep].strip():
                return False
            before, after = before[:keep], before[keep:]
        self._held = after
        if not (self._after_call and not before.strip()):
            self._emit_text(before, events)
        self._in_block = bool(mark)
        self._search_from = 0
        return self._in_block

    def _read_block(self, events: list[Content | ToolCallEvent]) -> bool:
        """Close the block if its end has come; True if it has."""
        close = self._grammar.CLOSE
        end = self._held.find(close, self._search_from)
        if end < 0:
            # A long body arrives in many pieces: what was searched once is not searched again.
            self._search_from = max(0, len(self._held) - len(close) + 1)
            return False
        body, self._held = self._held[:end], self._held[end + len(close) :]
        self._in_block = False
        self._emit_block(body, self._grammar.OPEN + body + close, events)
        return True

    def _emit_block(self, body: str, whole: str, events: list[Content | ToolCallEvent]) -> None:
        call = self._grammar.parse_call(body)
        if call is None:
            self._emit_text(whole, events)
            return
        events.append(ToolCallEvent(self._calls, call))
        self._calls += 1
        self._after_call = True

    def _emit_text(self, text: str, events: list[Content | ToolCallEvent]) -> None:
        if text:
            events.append(Content(text))
            self._after_call = False
