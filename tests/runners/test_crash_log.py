"""Requests that end workers are refused for a while."""

from __future__ import annotations

import pytest

from interns1_local.errors import BadRequest
from interns1_local.runners.crash_log import CrashLog
from interns1_local.runners.protocol import GenerateRequest


def test_a_request_that_saw_two_crashes_is_refused_for_a_while() -> None:
    now = [1000.0]
    log = CrashLog(lambda: now[0])
    bad, other = GenerateRequest("bad"), GenerateRequest("good")
    for _ in range(2):
        log.check("m", bad)
        log.note_crash("m", bad)
    with pytest.raises(BadRequest, match="stopped 2 times"):
        log.check("m", bad)
    log.check("m", other)
    log.check("another model", bad)
    now[0] += 601
    log.check("m", bad)
    # It begins anew.
    log.note_crash("m", bad)
    log.check("m", bad)


def test_what_is_answered_after_a_crash_is_innocent() -> None:
    log = CrashLog()
    request = GenerateRequest("fine")
    for _ in range(3):
        log.check("m", request)
        log.note_crash("m", request)
        log.note_end("m", request)


def test_it_does_not_grow_without_end() -> None:
    log = CrashLog()
    for index in range(2000):
        log.note_crash("m", GenerateRequest(str(index)))
    assert len(log._crashes) <= 256
