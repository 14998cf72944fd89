"""The options of guessing ahead, and what an answer tells of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from interns1_local.engine.speculative import MOST_DRAFTED, Speculation
from interns1_local.store.model_store import ModelStore
from tests.server.fake_runner import TOKENS, FakeBackend, write_gguf

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
    backend.enqueue("Hel", "lo END", "more")
    answer = client.post("/api/chat", json={**QUESTION, "options": {"stop": ["END"]}}).json()
    assert answer["message"]["content"] == "Hello "
    assert (answer["draft_count"], answer["draft_accepted_count"]) == (9, 5)
    text = client.get("/metrics").text
    assert 'kind="drafted",model="plain:latest"} 27.0' in text
    assert 'kind="accepted",model="plain:latest"} 15.0' in text


def test_a_draft_model_is_made_shown_and_loaded(client: TestClient, backend: FakeBackend, tmp_path: Path) -> None:
    data = write_gguf(tmp_path / "draft.gguf", tokens=[*TOKENS, "filling"]).read_bytes()
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert client.post(f"/api/blobs/{digest}", content=data).status_code == 201
    body = {"model": "quick", "from": "plain", "draft_files": {"draft.gguf": digest}, "stream": False}
    assert client.post("/api/create", json=body).json() == {"status": "success"}
    path = digest.replace(":", "-")
    (line,) = [
        line
        for line in client.post("/api/show", json={"model": "quick"}).json()["modelfile"].splitlines()
        if line.startswith("DRAFT ")
    ]
    assert line.endswith(path)
    assert client.post("/api/copy", json={"source": "quick", "destination": "second"}).status_code == 200
    backend.enqueue("Hello")
    assert client.post("/api/chat", json={**QUESTION, "model": "second"}).status_code == 200
    loaded = backend.started[-1].draft_path
    assert loaded is not None and loaded.name == path


def test_a_draft_model_may_be_a_stored_one(client: TestClient, backend: FakeBackend, store: ModelStore) -> None:
    body = {"model": "quick", "from": "plain", "draft": "tiny", "stream": False}
    assert client.post("/api/create", json=body).json() == {"status": "success"}
    assert store.resolve("quick").draft_path == store.resolve("tiny").model_path
