"""One answer: the runner's chunks through stop strings and parsers to events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from interns1_local.chat.events import Content, Event, Finish, FinishReason, ToolCallEvent, Truncation, Usage, joined
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.errors import ContextOverflow
from interns1_local.generation.attribution import Attribution
from interns1_local.generation.requests import ContextIds, Echo, GenerationEvent
from interns1_local.generation.stop_strings import StopStrings
from interns1_local.runners.model_scheduler import Lease
from interns1_local.runners.protocol import Chunk, GenerateRequest
from interns1_local.runners.protocol import Finish as RunnerFinish
from interns1_local.tokenizer.detokenizer import IncrementalText


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """How one answer is read. `started` is when its request came; after `max_calls` calls of tools it is over.

    `echo` is the prompt, where it is given back.
    """

    stops: Sequence[str]
    started: float
    return_context: bool = False
    max_calls: int | None = None
    truncation: Truncation | None = None
    echo: str | None = None


class Answer:
    """The runner's chunks as events, for one request on one lease."""

    def __init__(self, lease: Lease, request: GenerateRequest, parser: ResponseParser, plan: AnswerPlan) -> None:
        self._lease = lease
        self._request = request
        self._parser = parser
        self._plan = plan
        self._stops = StopStrings(plan.stops)
        self._asked = time.monotonic()
        self._first: float | None = None
        self._ids: list[int] = []
        self._tokens = Attribution()
        self._prompt = (0, 0)
        self._drafts = (0, 0)
        self._reasoning_tokens = 0
        self._calls = 0
        self._malformed_calls = 0

    async def events(self) -> AsyncGenerator[GenerationEvent]:
        text, stopped, end = IncrementalText(), False, None
        async with aclosing(_with_advice(self._lease.runner.generate(self._request))) as batches:
            async for chunks in batches:
                events: list[GenerationEvent] = []
                for chunk in chunks:
                    if self._first is None and self._plan.echo is not None:
                        events.append(Echo(self._plan.echo, tuple(chunk.prompt_logprobs or ())))
                    self._note(chunk)
                    passed, stopped = self._stops.decode(text.decode(chunk.data))
                    events += self._attributed(chunk, passed)
                    end = chunk.finish
                    stopped = stopped or self._has_all_calls
                    if stopped or end is not None:
                        break
                # Every message to the client has its price: what came together goes together.
                for event in joined(events):
                    yield event
                if stopped or end is not None:
                    break
        if not stopped:
            passed, stopped = self._stops.decode(text.flush())
            rest = passed if stopped else passed + self._stops.flush()
            for event in self._tokens.place(self._counted(self._parser.decode(rest))):
                yield event
        if not self._has_all_calls:
            for event in self._tokens.place(self._counted(self._parser.flush())):
                yield event
        for event in self._tokens.rest():
            yield event
        if self._plan.return_context:
            yield ContextIds([*await self._prompt_ids(), *self._ids])
        yield self._finish(None if stopped else end)

    @property
    def _has_all_calls(self) -> bool:
        return self._plan.max_calls is not None and self._calls >= self._plan.max_calls

    def _attributed(self, chunk: Chunk, text: str) -> Sequence[GenerationEvent]:
        """What `text` makes certain, and of which tokens it is if their log-probabilities are reported."""
        if chunk.logprobs is None:
            return self._counted(self._parser.decode(text))
        # A chunk is a token; if there were more, what is hidden of them could not be told.
        alone = len(chunk.logprobs) == 1
        for token in chunk.logprobs:
            self._tokens.add(token, chunk.data if alone else token.data)
        before = self._parser.in_reasoning
        events = self._counted(self._parser.decode(text))
        after = self._parser.in_reasoning
        return self._tokens.place(events, begins=after and not before, ends=before and not after)

    def _note(self, chunk: Chunk) -> None:
        if self._first is None:
            self._first = time.monotonic()
        self._ids += chunk.ids
        if any(chunk.prompt):
            self._prompt = chunk.prompt
        elif chunk.finish is not None:
            self._prompt = chunk.finish.prompt_tokens, chunk.finish.cached_tokens
        if any(chunk.drafts):
            self._drafts = chunk.drafts
        if self._parser.in_reasoning:
            self._reasoning_tokens += len(chunk.ids)

    def _counted(self, events: Sequence[Event]) -> Sequence[Event]:
        """The events, of calls no more than there may be."""
        passed: list[Event] = []
        for event in events:
            if self._has_all_calls:
                break
            self._calls += isinstance(event, ToolCallEvent)
            self._malformed_calls += isinstance(event, Content) and event.malformed_call
            passed.append(event)
        return passed

    def _finish(self, end: RunnerFinish | None) -> Finish:
        """The runner's own figures; after a stop string, which ends the runner's stream, what was seen from here."""
        if end is None:
            now, first = time.monotonic(), self._first or time.monotonic()
            figures = *self._prompt, len(self._ids), first - self._asked, now - first
            drafted, accepted = self._drafts
            end = RunnerFinish("stop", *figures, drafted_tokens=drafted, accepted_tokens=accepted)
        reason: FinishReason = "length" if end.reason == "length" else "stop"
        if end.reason == "cancelled":
            reason = "cancelled"
        usage = Usage(
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.cached_tokens,
            output_tokens=end.output_tokens,
            reasoning_tokens=self._reasoning_tokens,
            load_ns=int(self._lease.load_seconds * 1e9),
            prompt_ns=int(end.prompt_seconds * 1e9),
            decode_ns=int(end.decode_seconds * 1e9),
            total_ns=int((time.monotonic() - self._plan.started) * 1e9),
            tiles=_count_tiles(self._request),
            tiles_computed=end.tiles_computed,
            drafted_tokens=end.drafted_tokens,
            accepted_tokens=end.accepted_tokens,
        )
        if self._lease.on_usage is not None:
            self._lease.on_usage(self._lease.spec.name, usage)
        reason = "tool_calls" if self._calls and reason == "stop" else reason
        return Finish(reason, usage, self._plan.truncation, self._stops.found, self._malformed_calls)

    async def _prompt_ids(self) -> list[int]:
        prompt = self._request.prompt
        texts = [prompt] if isinstance(prompt, str) else [part for part in prompt if isinstance(part, str)]
        return [int(token["id"]) for text in texts for token in await self._lease.runner.tokenize(text)]


async def _with_advice(batches: AsyncGenerator[list[Chunk]]) -> AsyncGenerator[list[Chunk]]:
    async with aclosing(batches):
        try:
            async for chunks in batches:
                yield chunks
        except ContextOverflow as error:
            raise ContextOverflow(f"{error.message} (option num_ctx), or shorten the prompt") from error


def _count_tiles(request: GenerateRequest) -> int:
    parts = () if isinstance(request.prompt, str) else request.prompt
    return sum(len(part) for part in parts if not isinstance(part, str | int))
