"""One conversation through each stream, byte for byte as it was recorded; ids, times and durations are put aside."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from tests.server.fake_runner import FakeBackend

RECORDS = Path(__file__).with_name("recorded_streams")
USER = [{"role": "user", "content": "Hi"}]
TOOL = {"name": "add", "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}}}
SCRIPT = [
    "wo",
    b"\xc3",
    b"\xa9</th",
    "ink>\n\nA\u2028",
    '<|action_start|><|plugin|>\n{"name": "add", ',
    '"parameters": {"a": 1}}\n<|action_end|>',
]
PLAIN = ["wo", b"\xc3", b"\xa9</th", "ink>\n\nA\u2028", "B"]
REQUESTS: dict[str, tuple[str, dict[str, Any], list[Any]]] = {
    "api_chat": ("/api/chat", {"messages": USER, "tools": [{"type": "function", "function": TOOL}]}, SCRIPT),
    "api_generate": ("/api/generate", {"prompt": "Hi", "logprobs": True, "top_logprobs": 0}, PLAIN),
    "v1_chat": (
        "/v1/chat/completions",
        {
            "messages": USER,
            "tools": [{"type": "function", "function": TOOL}],
            "stream_options": {"include_usage": True},
        },
        SCRIPT,
    ),
    "v1_completions": ("/v1/completions", {"prompt": "Hi"}, PLAIN),
    "v1_responses": ("/v1/responses", {"input": "Hi", "tools": [{"type": "function", **TOOL}]}, SCRIPT),
    "v1_messages": (
        "/v1/messages",
        {"messages": USER, "max_tokens": 90, "tools": [{"name": "add", "input_schema": TOOL["parameters"]}]},
        SCRIPT,
    ),
}
_ASIDE = [
    (r'"created_at":"[0-9T:.-]+Z"', '"created_at":"T"'),
    (r'"(created|created_at)":\d+', r'"\1":1'),
    (r'"((?:total|load)_duration)":\d+', r'"\1":1'),
    (r'"(chatcmpl|cmpl)-\d+"', r'"\1-1"'),
    (r':"(resp|msg|rs|fc|toolu|call)_[0-9A-Za-z]+"', r':"\1_1"'),
]


@pytest.mark.parametrize("name", REQUESTS)
def test_stream(client: TestClient, backend: FakeBackend, name: str) -> None:
    path, body, script = REQUESTS[name]
    backend.enqueue(*script)
    response = client.post(path, json={"model": "tiny", "stream": True, **body})
    assert response.status_code == 200
    text = f"{response.headers['content-type']}\n{response.text}"
    for pattern, instead in _ASIDE:
        text = re.sub(pattern, instead, text)
    record = RECORDS / f"{name}.txt"
    if not record.is_file():
        record.parent.mkdir(exist_ok=True)
        record.write_text(text, encoding="utf-8")
        pytest.fail(f"{record} was not there; it holds what the server says now: read it, and run again")
    assert text == record.read_text(encoding="utf-8")
