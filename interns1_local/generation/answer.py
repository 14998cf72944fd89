"""One answer: the runner's chunks through stop strings and parsers to events."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from interns1_local.chat.events import Event, Finish, FinishReason, ToolCallEvent, Usage
from interns1_local.chat.response_parser import ResponseParser
from interns1_local.errors import ContextOverflow
from interns1_local.generation.requests import ContextIds, GenerationEvent, Logprobs
from interns1_local.generation.stop_strings import StopStrings
from interns1_local.runners.model_scheduler import Lease
from interns1_local.runners.protocol import Chunk, GenerateRequest
from interns1_local.runners.protocol import Finish as RunnerFinish
from interns1_local.tokenizer.detokenizer import IncrementalText


class Answer:
    """The runner's chunks as events, for one request on one lease."""

    def __init__(
        self,
        lease: Lease,
        request: GenerateRequest,
        parser: ResponseParser,
        stops: Sequence[str],
        started: float,
        return_context: bool,
    ) -> None:
        self._lease = lease
        self._request = request
        self._parser = parser
        self._stops = StopStrings(stops)
        self._started = started
        self._return_context = return_context
        self._asked = time.monotonic()
        self._first: float | None = None
        self._ids: list[int] = []
        self._calls = 0

    async def events(self) -> AsyncGenerator[GenerationEvent]:
        text, stopped, end = IncrementalText(), False, None
        async with aclosing(_with_advice(self._lease.runner.generate(self._request))) as chunks:
            async for chunk in chunks:
                self._note(chunk)
                if chunk.logprobs:
                    yield Logprobs(tuple(chunk.logprobs))
                passed, stopped = self._stops.decode(text.decode(chunk.data))
                for event in self._counted(self._parser.decode(passed)):
                    yield event
                end = chunk.finish
                if stopped or end is not None:
                    break
        if not stopped:
            passed, stopped = self._stops.decode(text.flush())
            rest = passed if stopped else passed + self._stops.flush()
            for event in self._counted(self._parser.decode(rest)):
                yield event
        for event in self._counted(self._parser.flush()):
            yield event
        if self._return_context:
            yield ContextIds([*await self._prompt_ids(), *self._ids])
        yield await self._finish(None if stopped else end)

    def _note(self, chunk: Chunk) -> None:
        if self._first is None:
            self._first = time.monotonic()
        self._ids += chunk.ids

    def _counted(self, events: Sequence[Event]) -> Sequence[Event]:
        self._calls += sum(isinstance(event, ToolCallEvent) for event in events)
        return events

    async def _finish(self, end: RunnerFinish | None) -> Finish:
        """The runner's own figures; after a stop string, which ends the runner's stream, what was seen from here."""
        if end is None:
            now, first = time.monotonic(), self._first or time.monotonic()
            prompt_tokens = len(await self._prompt_ids()) + self._picture_tokens()
            end = RunnerFinish("stop", prompt_tokens, 0, len(self._ids), first - self._asked, now - first)
        reason: FinishReason = "length" if end.reason == "length" else "stop"
        if end.reason == "cancelled":
            reason = "cancelled"
        usage = Usage(
            prompt_tokens=end.prompt_tokens,
            cached_tokens=end.cached_tokens,
            output_tokens=end.output_tokens,
            load_ns=int(self._lease.load_seconds * 1e9),
            prompt_ns=int(end.prompt_seconds * 1e9),
            decode_ns=int(end.decode_seconds * 1e9),
            total_ns=int((time.monotonic() - self._started) * 1e9),
        )
        return Finish("tool_calls" if self._calls and reason == "stop" else reason, usage)

    async def _prompt_ids(self) -> list[int]:
        prompt = self._request.prompt
        texts = [prompt] if isinstance(prompt, str) else [part for part in prompt if isinstance(part, str)]
        return [int(token["id"]) for text in texts for token in await self._lease.runner.tokenize(text)]

    def _picture_tokens(self) -> int:
        vision = self._lease.facts.vision
        prompt = self._request.prompt
        if vision is None or isinstance(prompt, str):
            return 0
        tiles = [part for part in prompt if not isinstance(part, str | int)]
        return sum(len(part) * vision.tokens_per_tile + 2 for part in tiles)


async def _with_advice(chunks: AsyncGenerator[Chunk]) -> AsyncGenerator[Chunk]:
    async with aclosing(chunks):
        try:
            async for chunk in chunks:
                yield chunk
        except ContextOverflow as error:
            raise ContextOverflow(f"{error.message} (option num_ctx), or shorten the prompt") from error
