"""The queue of requests whose grammars are being compiled."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from interns1_local.errors import BadRequest
from interns1_local.runners.compile_queue import CompileQueue
from interns1_local.runners.protocol import GenerateRequest

REQUEST = GenerateRequest("text", grammar='start: "a"')


class Calls:
    """What a queue did, in order; `start` waits until it may go on."""

    def __init__(self) -> None:
        self.done: list[tuple[str, Any]] = []
        self.began, self.may_go, self.changed = threading.Event(), threading.Event(), threading.Condition()
        self.queue = CompileQueue(
            self._start, lambda id: self._note("abort", id), lambda id, error: self._note("fail", id)
        )

    def wait(self, count: int) -> list[tuple[str, Any]]:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.done) >= count, 20)
        return self.done

    def _start(self, id: int, request: GenerateRequest) -> None:
        assert request is REQUEST
        self.began.set()
        assert self.may_go.wait(20)
        if id < 0:
            raise BadRequest("no grammar")
        self._note("start", id)

    def _note(self, what: str, id: int) -> None:
        with self.changed:
            self.done.append((what, id))
            self.changed.notify()


@pytest.fixture
def calls() -> Calls:
    return Calls()


def test_in_turn_and_past_failures(calls: Calls) -> None:
    calls.may_go.set()
    for id in (1, -2, 3):
        calls.queue.put(id, REQUEST)
    assert calls.wait(3) == [("start", 1), ("fail", -2), ("start", 3)]
    assert not calls.queue.cancel(3), "it waits no more"


def test_what_is_cancelled_is_not_started(calls: Calls) -> None:
    for id in (1, 2, 3):
        calls.queue.put(id, REQUEST)
    assert calls.began.wait(20)
    assert calls.queue.cancel(2)
    calls.may_go.set()
    assert calls.wait(2) == [("start", 1), ("start", 3)]


def test_what_is_cancelled_while_it_is_started_is_ended(calls: Calls) -> None:
    calls.queue.put(1, REQUEST)
    assert calls.began.wait(20)
    assert calls.queue.cancel(1)
    calls.may_go.set()
    assert calls.wait(2) == [("start", 1), ("abort", 1)]
