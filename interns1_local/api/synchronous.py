"""Interns1 for programs without an event loop, and for notebooks, which have one of their own."""

from __future__ import annotations

import asyncio
import atexit
import threading
import weakref
from collections.abc import AsyncGenerator, Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, Unpack, overload

from interns1_local.api.answer import Answer
from interns1_local.api.arguments import ChatArguments, Options, TextArguments
from interns1_local.api.asynchronous import AsyncInterns1, Batch, Vectors
from interns1_local.api.conversation import Conversation, Turn
from interns1_local.errors import InternS1Error
from interns1_local.generation import GenerationEvent

T = TypeVar("T")
Streams: TypeAlias = "weakref.WeakSet[AsyncGenerator[GenerationEvent]]"
_open: weakref.WeakSet[Interns1] = weakref.WeakSet()
CLOSED = "this Interns1 is closed; make a new one"


class Interns1:
    """One model in a process of its own: loaded at the first use, and in memory until it is closed.

        with Interns1("nano") as model:
            print(model.chat("What is 27 + 15?"))

    Every method may be called from any thread, and inside a running event loop. See AsyncInterns1 for the arguments.
    """

    def __init__(
        self, model: str | Path = "nano", *, mmproj: str | Path | None = None, options: Options | None = None
    ) -> None:
        self._inner = AsyncInterns1(model, mmproj=mmproj, options=options)
        self._loop = asyncio.new_event_loop()
        self._calls: set[Future[Any]] = set()
        self._streams: Streams = weakref.WeakSet()
        self._closing = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=_serve, args=(self._loop,), name="interns1", daemon=True)
        self._thread.start()
        # For an object that is dropped and not closed. It must not wait: any thread may collect garbage.
        weakref.finalize(self, _end_soon, self._inner, self._loop, self._streams).atexit = False
        _open.add(self)

    def __enter__(self) -> Interns1:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the model's process and the thread behind this object. Calls in other threads end with an error."""
        # Every call is either in before this, and ends as cancelled, or comes after it and is refused.
        with self._lock:
            self._closing = True
            calls = list(self._calls)
        _open.discard(self)
        for call in calls:
            call.cancel()
        _end_soon(self._inner, self._loop, self._streams)
        self._thread.join()

    @overload
    def chat(self, messages: Conversation, **arguments: Unpack[ChatArguments]) -> Answer: ...
    @overload
    def chat(self, messages: Batch, **arguments: Unpack[ChatArguments]) -> list[Answer]: ...
    def chat(self, messages: Any, **arguments: Unpack[ChatArguments]) -> Answer | list[Answer]:
        """Answer a conversation, or a list of conversations together. For the arguments see AsyncInterns1.chat."""
        answer: Answer | list[Answer] = self._run(self._inner.chat(messages, **arguments))
        return answer

    def stream(self, messages: Conversation, **arguments: Unpack[ChatArguments]) -> Iterator[GenerationEvent]:
        """The events of one answer as they come. Leaving the loop ends the answer."""
        events = self._inner.stream(messages, **arguments)
        self._streams.add(events)
        try:
            while (event := self._run(_next(events))) is not None:
                yield event
        finally:
            if not self._closing:
                self._run(events.aclose())

    def generate(self, prompt: str, **arguments: Unpack[TextArguments]) -> Answer:
        """Continue a text as it is: no template, no parsing."""
        return self._run(self._inner.generate(prompt, **arguments))

    def embed(self, texts: str | Sequence[str], *, dimensions: int | None = None, truncate: bool = True) -> Vectors:
        """The vector of a text, float32[n], or of several, float32[texts, n]; each of length 1."""
        return self._run(self._inner.embed(texts, dimensions=dimensions, truncate=truncate))

    @overload
    def score(self, conversations: Sequence[Turn]) -> float: ...
    @overload
    def score(self, conversations: Sequence[Sequence[Turn]]) -> list[float]: ...
    def score(self, conversations: Any) -> float | list[float]:
        """What a reward model gives a conversation, or each of a list of them; more is better."""
        value: float | list[float] = self._run(self._inner.score(conversations))
        return value

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        with self._lock:
            if self._closing:
                work.close()
                raise InternS1Error(CLOSED)
            call = asyncio.run_coroutine_threadsafe(work, self._loop)
            self._calls.add(call)
        try:
            return call.result()
        except CancelledError:
            raise InternS1Error(CLOSED) from None
        except BaseException:
            # Ctrl-C arrives here, in the caller's thread: the work behind it ends too.
            call.cancel()
            raise
        finally:
            self._calls.discard(call)


async def _next(events: AsyncGenerator[GenerationEvent]) -> GenerationEvent | None:
    return await anext(events, None)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """The thread behind an Interns1: its loop, until it is stopped."""
    loop.run_forever()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def _end_soon(inner: AsyncInterns1, loop: asyncio.AbstractEventLoop, streams: Streams) -> None:
    """Have the loop close the model, and then stop."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(lambda: loop.create_task(_end(inner, streams)))


async def _end(inner: AsyncInterns1, streams: Streams) -> None:
    loop = asyncio.get_running_loop()
    try:
        for stream in list(streams):
            # One that is at work was cancelled, and is among the tasks below.
            with suppress(RuntimeError):
                await stream.aclose()
        await inner.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
    finally:
        loop.stop()


@atexit.register
def _close_all() -> None:
    for model in list(_open):
        model.close()
