"""Prompts that do not fit: refused, or shortened by whole messages and said so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ollama
import openai
import pytest
from starlette.testclient import TestClient

from interns1_local.chat.message import Message, Text
from interns1_local.generation.prompt import droppable
from tests.server.fake_runner import FakeBackend

LONG = [
    {"role": "system", "content": "Be kind."},
    *[
        {"role": role, "content": f"{role} {index} " + "x" * 300}
        for index in range(20)
        for role in ("user", "assistant")
    ],
    {"role": "user", "content": "And now?"},
]


@pytest.fixture
def backend(backend: FakeBackend) -> FakeBackend:
    """One that counts: a letter is a token."""
    backend.checks_length = True
    return backend


def test_whole_oldest_messages_go(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("overflows")
    backend.enqueue("</think>hello")
    body = {"model": "tiny", "messages": LONG, "stream": False, "options": {"num_ctx": 2048}}
    answer = client.post("/api/chat", json=body).json()
    assert answer["truncated"] is True and answer["message"]["content"] == "hello"
    text = backend.last_text
    assert text.startswith("<|im_start|>system\nBe kind.") and "And now?" in text
    assert "assistant 19" in text and "user 0 " not in text
    assert text.count("<|im_start|>") == len(LONG) - answer["messages_dropped"] + 1
    assert len(text) <= 2048 - 512
    whole = sum(len(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n") for m in LONG)
    assert whole + len("<|im_start|>assistant\n<think>") - len(text) == answer["prompt_tokens_dropped"]
    # As few as possible: with one message more it would not fit.
    assert len(text) + 340 > 2048 - 512


@pytest.mark.parametrize(
    ("path", "extra", "refused"),
    [
        ("/api/chat", {}, False),
        ("/api/chat", {"truncate": False}, True),
        ("/v1/chat/completions", {}, True),
        ("/v1/chat/completions", {"truncate": True}, False),
        ("/v1/chat/completions", {"truncation": "auto"}, False),
        ("/v1/responses", {}, True),
        ("/v1/responses", {"truncation": "auto"}, False),
        ("/v1/messages", {"max_tokens": 5}, True),
    ],
)
def test_doors(client: TestClient, backend: FakeBackend, path: str, extra: dict[str, Any], refused: bool) -> None:
    body: dict[str, Any] = {"model": "tiny", "options": {"num_ctx": 2048}, "stream": False, **extra}
    body["input" if "responses" in path else "messages"] = LONG
    response = client.post(path, json=body)
    assert response.status_code == (400 if refused else 200)
    if refused:
        assert "exceeds the available context size (2048 tokens)" in response.text and "num_ctx" in response.text
        if path in ("/v1/chat/completions", "/v1/responses"):
            assert response.json()["error"]["code"] == "context_length_exceeded"
    elif "responses" not in path:
        assert response.json()["truncated"] is True


def test_what_must_stay_does_not_fit(client: TestClient, backend: FakeBackend) -> None:
    messages = [*LONG[:5], {"role": "user", "content": "y" * 3000}]
    body = {"model": "tiny", "messages": messages, "stream": False, "options": {"num_ctx": 2048}}
    response = client.post("/api/chat", json=body)
    assert response.status_code == 400
    assert "even without its older messages" in response.json()["error"]


def test_a_prompt_that_fits_is_left_alone(client: TestClient, backend: FakeBackend) -> None:
    body = {"model": "tiny", "messages": LONG[:3] + LONG[-1:], "stream": False}
    answer = client.post("/api/chat", json=body).json()
    assert "truncated" not in answer and "user 0" in backend.last_text


def test_generate_refuses(client: TestClient, backend: FakeBackend) -> None:
    """One prompt has no older messages that could go."""
    body = {"model": "tiny", "prompt": "z" * 5000, "stream": False, "options": {"num_ctx": 2048}}
    assert client.post("/api/generate", json=body).status_code == 400


def test_clients(live_url: str, backend: FakeBackend) -> None:
    with ollama.Client(live_url) as client:
        assert client.chat("tiny", LONG, options={"num_ctx": 2048}).done
    with (
        openai.OpenAI(base_url=f"{live_url}/v1", api_key="none", max_retries=0) as api,
        pytest.raises(openai.BadRequestError, match="num_ctx"),
    ):
        api.chat.completions.create(model="tiny", messages=LONG, extra_body={"options": {"num_ctx": 2048}})  # type: ignore[arg-type]


def test_streams_say_so(client: TestClient, backend: FakeBackend) -> None:
    body = {"model": "tiny", "messages": LONG, "stream": True, "options": {"num_ctx": 2048}, "truncate": True}
    assert '"truncated":true' in client.post("/api/chat", json=body).text.splitlines()[-1]
    assert '"truncated":true' in client.post("/v1/chat/completions", json=body).text


def _messages(roles: str) -> Iterator[Message]:
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return (Message(names[role], (Text(role),)) for role in roles)


@pytest.mark.parametrize(
    ("roles", "groups"),
    [
        ("u", []),
        ("su", []),
        ("uau", [[0], [1]]),
        ("suatau", [[1], [2, 3], [4]]),
        ("uattau", [[0], [1, 2, 3], [4]]),
        ("uauatt", [[0], [1]]),
        ("usau", [[0], [2]]),
        ("ta", [[0]]),
    ],
)
def test_what_may_go(roles: str, groups: list[list[int]]) -> None:
    """System messages and all from the last user's on stay; results of tools go with their call."""
    assert droppable(list(_messages(roles))) == groups


@pytest.mark.parametrize(
    ("fields", "keep"),
    [
        ({}, None),
        ({"shift": False, "options": {"num_keep": 9}}, None),
        ({"shift": True}, 4),
        ({"shift": True, "options": {"num_keep": -1}}, -1),
        ({"options": {"shift": True, "num_keep": 9}}, 9),
        ({"shift": False, "options": {"shift": True}}, None),
    ],
)
@pytest.mark.parametrize("path", ["/api/chat", "/api/generate", "raw"])
def test_a_context_is_shifted_only_when_asked(
    client: TestClient, backend: FakeBackend, path: str, fields: dict[str, Any], keep: int | None
) -> None:
    backend.enqueue("</think>hello")
    said = {"messages": [{"role": "user", "content": "Hi"}]} if path == "/api/chat" else {"prompt": "Hi"}
    raw = {"raw": True} if path == "raw" else {}
    body = {"model": "tiny", "stream": False, **said, **raw, **fields}
    assert client.post("/api/generate" if raw else path, json=body).status_code == 200
    assert backend.last.keep == keep
