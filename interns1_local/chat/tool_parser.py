"""Takes tool calls out of a model's answer as it arrives, whatever the grammar of their blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interns1_local.chat.events import Content, ToolCallDelta, ToolCallEvent
from interns1_local.chat.suffix import ambiguous_suffix
from interns1_local.chat.tool_parsers import GRAMMARS, Block, PartialCall, parameter_schemas
from interns1_local.chat.tool_parsers.json_text import write_json

Events = list[Content | ToolCallDelta | ToolCallEvent]


class ToolParser:
    """Text outside of blocks passes; a block becomes a call, or, if it holds none, passes as the text it is, marked.

    A call is told of piece by piece as soon as its name and the beginning of its arguments are certain, then whole.
    White space between calls, and after the last one, belongs to the grammar and is left out.
    """

    def __init__(self, grammar: str, tools: Sequence[Mapping[str, Any]] = ()) -> None:
        self._kinds = GRAMMARS[grammar]
        self._schemas = parameter_schemas(tools)
        self._held = ""
        self._block: _OpenBlock | None = None
        self._after_call = False
        self._calls = 0

    def decode(self, text: str) -> Events:
        """The events that `text` makes certain."""
        self._held += text
        events: Events = []
        while self._read_block(events) if self._block else self._read_text(events):
            pass
        return events

    def flush(self) -> Events:
        """The text is over. A block that lacks only its closing mark, which may have ended the answer, still counts."""
        held, self._held = self._held, ""
        events: Events = []
        block, self._block = self._block, None
        if block:
            body = held[: len(held) - ambiguous_suffix(held, block.kind.CLOSE)]
            self._close(block, body, block.kind.OPEN + held, events)
        elif not self._after_call or held.strip():
            self._emit_text(held, events)
        return events

    def _read_text(self, events: Events) -> bool:
        """Pass on the text before the next block; True if a block has begun."""
        places = [(place, kind) for kind in self._kinds if (place := self._held.find(kind.OPEN)) >= 0]
        if places:
            place, kind = min(places, key=lambda found: found[0])
            before, after = self._held[:place], self._held[place + len(kind.OPEN) :]
            self._block = _OpenBlock(kind, kind.partial_call(self._schemas))
        else:
            keep = len(self._held) - max(ambiguous_suffix(self._held, kind.OPEN) for kind in self._kinds)
            before, after = self._held[:keep], self._held[keep:]
            if self._after_call and not before.strip():
                return False
        self._held = after
        if not (self._after_call and not before.strip()):
            self._emit_text(before, events)
        return self._block is not None

    def _read_block(self, events: Events) -> bool:
        """Read on in the block; True if its end has come."""
        block = self._block
        assert block is not None
        close = block.kind.CLOSE
        # A long body arrives in many pieces: what was searched once is not searched again.
        end = self._held.find(close, max(0, block.read - len(close)))
        if end < 0:
            self._stream(block, self._held[: len(self._held) - ambiguous_suffix(self._held, close)], events)
            return False
        body, rest = self._held[:end], self._held[end + len(close) :]
        self._block, self._held = None, rest
        self._close(block, body, block.kind.OPEN + body + close, events)
        return True

    def _stream(self, block: _OpenBlock, body: str, events: Events) -> None:
        """Tell of what is certain in the body so far."""
        piece = block.call.decode(body[block.read :])
        block.read = len(body)
        if block.index is None and block.call.name is not None:
            block.index = self._calls
            self._calls += 1
            events.append(ToolCallDelta(block.index, block.call.name))
        if block.index is not None and piece:
            block.sent += piece
            events.append(ToolCallDelta(block.index, arguments=piece))

    def _close(self, block: _OpenBlock, body: str, whole: str, events: Events) -> None:
        self._stream(block, body, events)
        call = block.kind.parse_call(body, self._schemas)
        if call is None:
            events.append(Content(whole, malformed_call=True))
            self._after_call = False
            return
        if block.index is None:
            block.index = self._calls
            self._calls += 1
            events.append(ToolCallDelta(block.index, call.name))
        if rest := write_json(call.arguments)[len(block.sent) :]:
            events.append(ToolCallDelta(block.index, arguments=rest))
        events.append(ToolCallEvent(block.index, call))
        self._after_call = True

    def _emit_text(self, text: str, events: Events) -> None:
        if text:
            events.append(Content(text))
            self._after_call = False


@dataclass(slots=True)
class _OpenBlock:
    """A block whose end has not come: how much of its body was read, and the arguments that were told."""

    kind: Block
    call: PartialCall
    read: int = 0
    sent: str = ""
    index: int | None = None
