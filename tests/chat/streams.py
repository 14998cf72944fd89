"""Streams of events for comparison: neighbouring texts joined, and the pieces of calls held against the whole ones."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from interns1_local.chat.events import Content, Event, Reasoning, ToolCallDelta, ToolCallEvent
from interns1_local.chat.response_parser import ResponseParser


def stream(
    pieces: Sequence[str], starts_in_reasoning: bool, grammar: str | None, tools: Sequence[dict[str, Any]] = ()
) -> Iterator[Event]:
    parser = ResponseParser(reasoning=True, starts_in_reasoning=starts_in_reasoning, tool_grammar=grammar, tools=tools)
    for piece in pieces:
        yield from parser.decode(piece)
    yield from parser.flush()


def whole_events(events: Iterable[Event]) -> list[Event]:
    """The events without the pieces of calls, which must be exactly the calls that end them."""
    whole: list[Event] = []
    pending: ToolCallDelta | None = None
    for event in events:
        last = whole[-1] if whole else None
        match event:
            case ToolCallDelta(index, str(), ""):
                assert pending is None
                pending = event
                continue
            case ToolCallDelta(index, None, arguments):
                assert pending is not None and pending.index == index and arguments
                pending = ToolCallDelta(index, pending.name, pending.arguments + arguments)
                continue
            case ToolCallEvent(index, call):
                assert pending == ToolCallDelta(index, call.name, json.dumps(call.arguments, ensure_ascii=False))
            case Content(_, malformed_call=True):
                pass
            case Content(text) | Reasoning(text):
                assert text and pending is None
        pending = None
        match last, event:
            case Content(first, malformed_call=False), Content(second, malformed_call=False):
                whole[-1] = Content(first + second)
            case Reasoning(first), Reasoning(second):
                whole[-1] = Reasoning(first + second)
            case _:
                whole.append(event)
    assert pending is None
    return whole


def cut(text: str, places: Iterable[int]) -> list[str]:
    """`text` in pieces, cut at `places`."""
    ends = [*sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]
