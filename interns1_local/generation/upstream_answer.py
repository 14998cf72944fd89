"""An upstream engine's chunks as events: thoughts, words, calls of tools, log-probabilities, the end."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from interns1_local.chat.events import Content, Event, Finish, FinishReason, Reasoning, ToolCallDelta, ToolCallEvent
from interns1_local.chat.events import Usage as Cost
from interns1_local.chat.message import ToolCall
from interns1_local.chat.reasoning_parser import OPEN
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.chat.tool_parsers import GRAMMARS
from interns1_local.errors import Unsupported, UpstreamError
from interns1_local.generation.requests import Echo, GenerationEvent, Logprobs, Part
from interns1_local.runners.model_scheduler import Lease
from interns1_local.runners.protocol import TokenLogprob

Json = dict[str, Any]

# Families whose template opens the thought, so that an answer without a reasoning parser starts in its middle.
_OPENS_THOUGHT = ("interns1",)
# An id that no vocabulary has: an upstream tells texts only.
_NO_ID = -1


@dataclass(frozen=True, slots=True)
class Reading:
    """How an answer is read. `parser` (PARSER in a Modelfile) is for engines that leave marks in their text."""

    started: float
    parser: str = ""
    tools: Sequence[Mapping[str, Any]] = ()
    thinks: bool = True
    max_calls: int | None = None
    plain: bool = False
    echo: str | None = None


@dataclass(slots=True)
class _Call:
    index: int
    name: str
    id: str | None
    arguments: str = ""
    told: bool = False


@dataclass(slots=True)
class _State:
    reason: str | None = None
    stop: str | None = None
    usage: Json = field(default_factory=dict)
    calls: int = 0
    malformed: int = 0
    thought: bool = False


class UpstreamAnswer:
    """One answer of the engine behind `lease`, asked with `body` at `path`."""

    def __init__(self, lease: Lease, path: str, body: Json, reading: Reading) -> None:
        self._lease = lease
        self._path = path
        self._body = body
        self._reading = reading
        self._grammar = _grammar(reading)
        self._parser: ResponseParser | None = None
        self._open: dict[int, _Call] = {}
        self._state = _State()

    async def events(self) -> AsyncGenerator[GenerationEvent]:
        """The last one is Finish. Closing the iterator closes the connection, which ends the work over there."""
        asked, first = time.monotonic(), None
        if self._reading.echo is not None:
            yield Echo(self._reading.echo)
        async with aclosing(self._lease.runner.stream(self._path, self._body)) as chunks:
            async for chunk in chunks:
                first = first or time.monotonic()
                if isinstance(chunk.get("usage"), dict):
                    self._state.usage = chunk["usage"]
                for choice in self._choices(chunk):
                    for event in self._read(choice):
                        yield event
        for event in [*self._flushed(), *self._closed_calls()]:
            yield event
        now = time.monotonic()
        yield self._finish((first or now) - asked, now - (first or now))

    def _choices(self, chunk: Json) -> list[Json]:
        choices = chunk.get("choices") or []
        if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
            raise UpstreamError(f"{self._lease.runner.url} sent choices that cannot be read")
        return choices

    def _read(self, choice: Json) -> list[GenerationEvent]:
        delta = choice.get("delta") or choice.get("message") or {"content": choice.get("text")}
        events: list[GenerationEvent] = []
        thought = _text(delta.get("reasoning_content")) or _text(delta.get("reasoning"))
        words = _text(delta.get("content"))
        events += _logprobs(choice.get("logprobs"), "reasoning" if thought and not words else "content")
        if thought:
            self._state.thought = True
            events.append(Reasoning(thought))
        calling = any(not call.told for call in self._open.values())
        if words and (words.strip() or not calling):
            # What follows a call ends it, but for white space, which some send between its pieces.
            events += [*self._closed_calls(), *self._noted(self._parsed(words))]
        calls = delta.get("tool_calls") or []
        if calls:
            events += self._flushed()
        for call in calls if isinstance(calls, list) else []:
            events += self._called(call)
        if choice.get("finish_reason"):
            self._state.reason = str(choice["finish_reason"])
            found = choice.get("stop_reason") or choice.get("matched_stop")
            self._state.stop = found if isinstance(found, str) else None
        return events

    def _parsed(self, words: str) -> list[Event]:
        if self._reading.plain:
            return [Content(words)]
        if self._parser is None:
            opens = self._reading.parser in _OPENS_THOUGHT and self._reading.thinks and not self._state.thought
            self._parser = ResponseParser(
                reasoning=True,
                starts_in_reasoning=opens and not words.lstrip().startswith(OPEN),
                tool_grammar=self._grammar,
                tools=self._reading.tools,
            )
        return self._parser.decode(words)

    def _flushed(self) -> list[Event]:
        parser, self._parser = self._parser, None
        if parser is None:
            return []
        self._state.thought = True
        return self._noted(parser.flush())

    def _noted(self, events: Sequence[Event]) -> list[Event]:
        """Events of our own parser, of calls no more than there may be."""
        passed: list[Event] = []
        for event in events:
            if isinstance(event, ToolCallDelta | ToolCallEvent) and not self._has_room(event.index):
                continue
            if isinstance(event, ToolCallEvent):
                self._state.calls += 1
            self._state.malformed += isinstance(event, Content) and event.malformed_call
            passed.append(event)
        return passed

    def _has_room(self, index: int) -> bool:
        return self._reading.max_calls is None or index < self._reading.max_calls

    def _called(self, delta: Any) -> list[Event]:
        """A piece of a call: its name comes first, then its arguments."""
        if not isinstance(delta, dict):
            return []
        function = delta.get("function")
        function = function if isinstance(function, dict) else {}
        number, name, piece = delta.get("index"), _text(function.get("name")), function.get("arguments")
        number = number if isinstance(number, int) else len(self._open)
        events: list[Event] = []
        call = self._open.get(number)
        if call is None:
            events += self._closed_calls()
            call = self._open[number] = _Call(self._state.calls, name, _text(delta.get("id")) or None)
            if not name or not self._has_room(call.index):
                call.told = True
                return events
            events.append(ToolCallDelta(call.index, name))
        # Some send the arguments as an object at once.
        piece = json.dumps(piece) if isinstance(piece, dict) else _text(piece)
        if piece and not call.told:
            call.arguments += piece
            events.append(ToolCallDelta(call.index, arguments=piece))
        return events

    def _closed_calls(self) -> list[Event]:
        events: list[Event] = []
        for call in self._open.values():
            if call.told:
                continue
            call.told = True
            if not call.arguments.strip():
                call.arguments = "{}"
                events.append(ToolCallDelta(call.index, arguments="{}"))
            try:
                arguments = json.loads(call.arguments)
            except (ValueError, RecursionError):
                arguments = None
            self._state.calls += 1
            if isinstance(arguments, dict):
                events.append(ToolCallEvent(call.index, ToolCall(call.name, arguments, call.id)))
            else:
                self._state.malformed += 1
                events.append(Content(f"{call.name}({call.arguments})", malformed_call=True))
        return events

    def _finish(self, prompt_seconds: float, decode_seconds: float) -> Finish:
        state, usage = self._state, self._state.usage
        cost = Cost(
            prompt_tokens=_count(usage, "prompt_tokens"),
            cached_tokens=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
            output_tokens=_count(usage, "completion_tokens"),
            reasoning_tokens=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
            load_ns=int(self._lease.load_seconds * 1e9),
            prompt_ns=int(prompt_seconds * 1e9),
            decode_ns=int(decode_seconds * 1e9),
            total_ns=int((time.monotonic() - self._reading.started) * 1e9),
        )
        if self._lease.on_usage is not None:
            self._lease.on_usage(self._lease.spec.name, cost)
        called = state.calls > state.malformed or state.reason in ("tool_calls", "function_call")
        reason: FinishReason = "length" if state.reason == "length" else "tool_calls" if called else "stop"
        return Finish(reason, cost, None, state.stop, state.malformed)


def _grammar(reading: Reading) -> str | None:
    name = reading.parser.replace("-", "_")
    if not name or name in GRAMMARS:
        return name if name and reading.tools else None
    raise Unsupported(f"PARSER {reading.parser} is not known; an upstream's text can be read as {', '.join(GRAMMARS)}")


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(holder: Any, name: str) -> int:
    value = holder.get(name) if isinstance(holder, dict) else None
    return value if isinstance(value, int) and value > 0 else 0


def _logprobs(found: Any, part: Part) -> list[GenerationEvent]:
    """Of a chat's choice, or of a completion's, whose tokens are lists side by side."""
    if not isinstance(found, dict):
        return []
    events: list[GenerationEvent] = []
    for key, kind in (("reasoning", "reasoning"), ("content", part)):
        if isinstance(entries := found.get(key), list) and entries:
            events.append(Logprobs(tuple(_token(entry) for entry in entries if isinstance(entry, dict)), kind))  # type: ignore[arg-type]
    tokens, values = found.get("tokens"), found.get("token_logprobs")
    if isinstance(tokens, list) and isinstance(values, list) and len(tokens) == len(values) and tokens:
        tops = found.get("top_logprobs")
        tops = tops if isinstance(tops, list) and len(tops) == len(tokens) else [None] * len(tokens)
        events.append(Logprobs(tuple(_legacy_token(*entry) for entry in zip(tokens, values, tops, strict=True))))
    return events


def _token(entry: Json) -> TokenLogprob:
    top = entry.get("top_logprobs")
    alternatives = tuple(_token(other) for other in top if isinstance(other, dict)) if isinstance(top, list) else ()
    data = entry.get("bytes")
    try:
        raw = bytes(data) if isinstance(data, list) else _text(entry.get("token")).encode()
    except (ValueError, TypeError):
        raw = _text(entry.get("token")).encode()
    return TokenLogprob(_NO_ID, raw, _number(entry.get("logprob")), alternatives)


def _legacy_token(token: Any, logprob: Any, top: Any) -> TokenLogprob:
    others = top.items() if isinstance(top, dict) else ()
    alternatives = tuple(TokenLogprob(_NO_ID, str(text).encode(), _number(value)) for text, value in others)
    return TokenLogprob(_NO_ID, _text(token).encode(), _number(logprob), alternatives)


def _number(value: Any) -> float:
    return max(float(value), -1e9) if isinstance(value, int | float) and value == value else -1e9
