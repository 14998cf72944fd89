"""Requests with a grammar wait here while it is compiled: those without one pass them, and tokens go on coming."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from interns1_local.engine.grammar import STACK_BYTES
from interns1_local.runners.protocol import GenerateRequest


class CompileQueue:
    """One thread, started with the first grammar.

    Args:
        start: compiles a request's grammar and starts the request.
        abort: ends a request that was cancelled while it was being started.
        fail: is told why a request could not be started.
    """

    def __init__(
        self,
        start: Callable[[int, GenerateRequest], None],
        abort: Callable[[int], None],
        fail: Callable[[int, Exception], None],
    ) -> None:
        self._start = start
        self._abort = abort
        self._fail = fail
        self._requests: queue.SimpleQueue[tuple[int, GenerateRequest]] = queue.SimpleQueue()
        self._waiting: set[int] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def put(self, request_id: int, request: GenerateRequest) -> None:
        """Take a request in; it is started when its turn has come."""
        with self._lock:
            self._waiting.add(request_id)
        self._requests.put((request_id, request))
        if self._thread is None:
            self._thread = _thread_with_stack(self._run)

    def cancel(self, request_id: int) -> bool:
        """Forget a request; False if it does not wait here."""
        with self._lock:
            waits = request_id in self._waiting
            self._waiting.discard(request_id)
        return waits

    def _run(self) -> None:
        while True:
            request_id, request = self._requests.get()
            with self._lock:
                waits = request_id in self._waiting
            if not waits:
                continue
            try:
                self._start(request_id, request)
            except Exception as error:  # one bad grammar must not end the others
                self._fail(request_id, error)
            if not self.cancel(request_id):
                self._abort(request_id)


def _thread_with_stack(run: Callable[[], None]) -> threading.Thread:
    usual = threading.stack_size(STACK_BYTES)
    try:
        thread = threading.Thread(target=run, name="grammars", daemon=True)
        thread.start()
    finally:
        threading.stack_size(usual)
    return thread
