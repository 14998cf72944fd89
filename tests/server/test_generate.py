"""POST /api/generate: prompt, raw, system, template, context, load and unload."""

from __future__ import annotations

import json
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.fake_runner import FakeBackend


def generate(client: TestClient, **body: Any) -> dict[str, Any]:
    response = client.post("/api/generate", json={"model": "tiny", "prompt": "Hi", "stream": False, **body})
    assert response.status_code == 200, response.text
    return response.json()  # type: ignore[no-any-return]


def test_stream(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("why", "</think>", "A", "B")
    response = client.post("/api/generate", json={"model": "tiny", "prompt": "Hi"})
    lines = [json.loads(line) for line in response.text.splitlines()]
    assert [(line["response"], line.get("thinking"), line["done"]) for line in lines] == [
        ("", "why", False), ("A", None, False), ("B", None, False), ("", None, True),
    ]  # fmt: skip
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["context"][-4:] == [1, 2, 3, 4]


def test_whole_with_thinking(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("why</think>\n\nA", "B")
    answer = generate(client)
    assert (answer["response"], answer["thinking"]) == ("AB", "why")


def test_raw_is_verbatim(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("x<think>y</think>")
    answer = generate(client, prompt="<|im_start|>a", raw=True)
    assert backend.last.prompt == "<|im_start|>a"
    assert answer["response"] == "x<think>y</think>"
    assert "context" not in answer


def test_system_template_and_context(client: TestClient, backend: FakeBackend) -> None:
    generate(client, model="plain", system="S")
    assert backend.last_text == "system: S\nuser: Hi\n"
    generate(client, template="{% for m in messages %}<{{ m.content }}>{% endfor %}")
    assert backend.last_text == "<Hi>"
    context = generate(client, model="plain", context=[120, 121])["context"]
    assert backend.last_text == "xyuser: Hi\n"
    assert "".join(map(chr, context[:-1])) == "xyuser: Hi\n"


@pytest.mark.parametrize(("body", "reason"), [({}, "load"), ({"keep_alive": 0}, "unload")])
def test_load_and_unload(client: TestClient, body: dict[str, Any], reason: str) -> None:
    response = client.post("/api/generate", json={"model": "tiny", **body})
    answer = response.json()
    assert response.headers["content-type"].startswith("application/json")
    assert answer.pop("created_at")
    assert answer == {"model": "tiny", "response": "", "done": True, "done_reason": reason}
