"""What goes to the server at once, and what waits for the next message."""

from __future__ import annotations

import pytest

from interns1_local.config import load_settings
from interns1_local.engine.requests import StepOutput
from interns1_local.errors import BadRequest
from interns1_local.runners.outbox import MAX_WAITING, Outbox
from interns1_local.runners.protocol import Frame

HOUR = 3600.0


def token(request: int, number: int) -> StepOutput:
    return StepOutput(request, (number,))


def outbox(interval: float) -> Outbox:
    made = Outbox()
    made.interval = interval
    made.put(token(1, 0))
    assert made.take() == [token(1, 0)]
    return made


@pytest.mark.parametrize(
    "urgent",
    [
        StepOutput(1, (2,), finish="stop"),
        StepOutput(1, error=BadRequest("no")),
        StepOutput(2, (7,)),  # the first of another answer
        Frame({"op": "reply"}),
    ],
    ids=["the end", "an error", "a first token", "a reply"],
)
def test_tokens_wait_for_what_cannot_wait(urgent: StepOutput | Frame) -> None:
    waiting = outbox(HOUR)
    waiting.put(token(1, 1))
    waiting.put(urgent)
    assert waiting.take() == [token(1, 1), urgent]


def test_many_tokens_do_not_wait() -> None:
    waiting = outbox(HOUR)
    tokens = [token(1, number) for number in range(MAX_WAITING)]
    for each in tokens:
        waiting.put(each)
    assert waiting.take() == tokens


@pytest.mark.parametrize("interval", [0.0, 0.01])
def test_tokens_wait_no_longer_than_the_interval(interval: float) -> None:
    waiting = outbox(interval)
    for number in range(3):
        waiting.put(token(1, number))
        assert waiting.take() == [token(1, number)]


def test_the_setting() -> None:
    assert load_settings({"INTERNS1_STREAM_INTERVAL": "100ms"}).stream_interval == 0.1
    assert load_settings({"INTERNS1_STREAM_INTERVAL": "0"}).stream_interval == 0
    for wrong in ("2s", "-1s", "soon"):
        with pytest.raises(BadRequest, match="INTERNS1_STREAM_INTERVAL"):
            load_settings({"INTERNS1_STREAM_INTERVAL": wrong})
