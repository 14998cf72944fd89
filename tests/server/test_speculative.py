"""The options of guessing ahead, and what an answer tells of it."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.testclient import TestClient

from interns1_local.engine.speculative import MOST_DRAFTED, Speculation
from tests.server.fake_runner import FakeBackend

QUESTION = {"model": "plain", "messages": [{"role": "user", "content": "Hi"}], "stream": False}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, Speculation("auto", MOST_DRAFTED)),
        ({"speculative": "off"}, Speculation("off", MOST_DRAFTED)),
        ({"speculative": "Lookup", "num_draft": 6}, Speculation("lookup", 6)),
        ({"draft_num_predict": 3}, Speculation("auto", 3)),
        ({"num_draft": -1}, Speculation("auto", 0)),
    ],
)
@pytest.mark.parametrize("path", ["/api/chat", "/v1/chat/completions"])
def test_the_options_reach_the_runner(
    client: TestClient, backend: FakeBackend, options: dict[str, Any], expected: Speculation, path: str
) -> None:
    backend.enqueue("Hello")
    assert client.post(path, json={**QUESTION, "options": options}).status_code == 200
    assert backend.last.speculation == expected


def test_a_kind_that_there_is_not_is_refused(client: TestClient, backend: FakeBackend) -> None:
    answer = client.post("/api/chat", json={**QUESTION, "options": {"speculative": "always"}})
    assert answer.status_code == 400
    assert "speculative must be one of auto, lookup, draft, off" in answer.json()["error"]
    assert backend.requests == []


def test_answers_and_metrics_tell_of_guesses_when_there_were_any(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("Hello")
    assert "draft_count" not in client.post("/api/chat", json=QUESTION).json()
    backend.drafts = (9, 5)
    for path, body in (("/api/chat", QUESTION), ("/api/generate", {**QUESTION, "prompt": "Hi"})):
        backend.enqueue("Hello")
        answer = client.post(path, json=body).json()
        assert (answer["draft_count"], answer["draft_accepted_count"]) == (9, 5)
    text = client.get("/metrics").text
    assert 'kind="drafted",model="plain:latest"} 18.0' in text
    assert 'kind="accepted",model="plain:latest"} 10.0' in text
