"""Streams: NDJSON and SSE, errors before and after the first chunk, and the client that leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from interns1_local.errors import Cancelled, InternS1Error
from interns1_local.server.errors import as_ours, ollama_error, openai_error, to_json

T = TypeVar("T")
Json = dict[str, Any]

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"


def ndjson_line(value: Json) -> bytes:
    return to_json(value) + b"\n"


def sse_event(value: Json | str) -> bytes:
    """A `data:` event; a text such as [DONE] goes as it is."""
    return b"data: " + (value.encode() if isinstance(value, str) else to_json(value)) + b"\n\n"


def ollama_line_error(error: InternS1Error) -> bytes:
    return ndjson_line(ollama_error(error))


def openai_event_error(error: InternS1Error) -> bytes:
    return sse_event(openai_error(error))


async def until_disconnect(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`; a client that leaves cancels it."""
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_disconnected(request.receive))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("request canceled")
        return task.result()
    finally:
        for pending in (task, watch):
            pending.cancel()
        for pending in (task, watch):
            with suppress(asyncio.CancelledError, Exception):
                await pending


async def stream(
    request: Request,
    chunks: AsyncGenerator[bytes],
    media_type: str,
    write_error: Callable[[InternS1Error], bytes],
) -> Response:
    """Start a stream once its first chunk is there: an error before it still has a status of its own."""
    try:
        first = await until_disconnect(request, anext(chunks, None))
    except BaseException:
        await chunks.aclose()
        raise
    return StreamResponse(first, chunks, media_type, write_error)


class StreamResponse(Response):
    """Sends chunks as they come, and closes their generator whichever way the stream ends."""

    def __init__(
        self,
        first: bytes | None,
        chunks: AsyncGenerator[bytes],
        media_type: str,
        write_error: Callable[[InternS1Error], bytes],
    ) -> None:
        super().__init__(status_code=200, media_type=media_type)
        del self.headers["content-length"]
        # A proxy that collects a stream before it passes it on would defeat it.
        self.headers["cache-control"] = "no-cache"
        self.headers["x-accel-buffering"] = "no"
        self._first = first
        self._chunks = chunks
        self._write_error = write_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send(send))
        watch = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait({sending, watch}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            for pending in (sending, watch):
                pending.cancel()
            for pending in (sending, watch):
                with suppress(asyncio.CancelledError, Exception):
                    await pending
            await self._chunks.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._with_errors():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _with_errors(self) -> AsyncIterator[bytes]:
        if self._first is not None:
            yield self._first
        try:
            async for chunk in self._chunks:
                yield chunk
        except Exception as error:
            yield self._write_error(as_ours(error))


async def worker_events(work: Callable[[Callable[[Json], None]], object]) -> AsyncGenerator[Json]:
    """What `work` reports from its thread, as it comes. When the reader leaves, the next report ends the work."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Json | None] = asyncio.Queue()
    left = False

    def report(event: Json) -> None:
        if left:
            raise Cancelled("request canceled")
        loop.call_soon_threadsafe(queue.put_nowait, event)

    task = asyncio.ensure_future(asyncio.to_thread(work, report))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while (event := await queue.get()) is not None:
            yield event
        await task
    finally:
        left = True
        if not task.done():
            # The thread ends by itself; its last word is read so that nobody is told that it never was.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
