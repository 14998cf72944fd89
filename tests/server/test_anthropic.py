"""POST /v1/messages with the `anthropic` client: whole and streamed, thinking, pictures, tools, errors."""

from __future__ import annotations

import io
import json
from base64 import b64encode
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from PIL import Image
from starlette.testclient import TestClient

from interns1_local.errors import WorkerDied
from tests.server.fake_runner import FakeBackend

HELLO = [{"role": "user", "content": "Hi"}]
CALL = '</think>Let me see.<|action_start|><|plugin|>{"name": "add", "parameters": {"a": 1, "b": "é"}}<|action_end|>'
TOOLS = [
    {"name": "add", "description": "Adds.", "input_schema": {"type": "object", "properties": {"a": {"type": "number"}}}}
]


@pytest.fixture
def api(live_url: str) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=live_url, api_key="none", max_retries=0) as client:
        yield client


def ask(api: anthropic.Anthropic, **fields: Any) -> Any:
    return api.messages.create(**{"model": "tiny", "max_tokens": 50, "messages": HELLO, **fields})


def test_whole(api: anthropic.Anthropic, backend: FakeBackend) -> None:
    backend.enqueue("because</think>", "Hello", " there")
    answer = ask(api, system="Be kind.", stop_sequences=["END"], extra_body={"temperature": 0.5, "top_k": 5})
    assert [block.type for block in answer.content] == ["thinking", "text"]
    assert (answer.content[0].thinking, answer.content[1].text) == ("because", "Hello there")
    assert answer.stop_reason == "end_turn" and answer.role == "assistant" and answer.id.startswith("msg_")
    assert (answer.usage.input_tokens, answer.usage.cache_read_input_tokens, answer.usage.output_tokens) == (4, 3, 3)
    assert (
        backend.last_text
        == "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>"
    )
    assert (backend.last.sampling.temperature, backend.last.sampling.top_k, backend.last.max_tokens) == (0.5, 5, 50)


def test_stream(api: anthropic.Anthropic, backend: FakeBackend) -> None:
    backend.enqueue("be", "cause</think>", "Hel", "lo")
    with api.messages.stream(model="tiny", max_tokens=50, messages=HELLO) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert [block.type for block in final.content] == ["thinking", "text"]
    assert final.content[1].text == "Hello" and final.usage.output_tokens == 4
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    assert kinds.count("content_block_start") == kinds.count("content_block_stop") == 2


@pytest.mark.parametrize("streamed", [False, True])
def test_tool_calls(api: anthropic.Anthropic, backend: FakeBackend, streamed: bool) -> None:
    backend.enqueue(*CALL)
    if streamed:
        with api.messages.stream(model="tiny", max_tokens=500, messages=HELLO, tools=TOOLS) as stream:
            answer = stream.get_final_message()
    else:
        answer = ask(api, tools=TOOLS, max_tokens=500)
    assert answer.stop_reason == "tool_use"
    text, call = answer.content
    assert (text.text, call.name, call.input) == ("Let me see.", "add", {"a": 1, "b": "é"})
    assert call.id.startswith("toolu_")


def test_results_go_back_under_the_name_of_the_call(client: TestClient, backend: FakeBackend) -> None:
    blocks = [
        {"type": "thinking", "thinking": "hm", "signature": ""},
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "t1", "name": "add", "input": {"a": 1}},
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]},
        {"type": "text", "text": "Go on."},
    ]
    messages = [*HELLO, {"role": "assistant", "content": blocks}, {"role": "user", "content": results}]
    body = {"model": "tiny", "max_tokens": 5, "messages": messages, "tools": TOOLS}
    assert client.post("/v1/messages", json=body).status_code == 200
    assert backend.last_text.count("<|im_start|>") == 5, "the results are a turn of their own"
    assert "<|im_start|>tool\n2<|im_end|>\n<|im_start|>user\nGo on.<|im_end|>" in backend.last_text


@pytest.mark.parametrize(
    ("thinking", "opens"),
    [
        (None, True),
        ({"type": "disabled"}, False),
        ({"type": "enabled", "budget_tokens": 1024}, True),
        ({"type": "adaptive"}, True),
    ],
)
def test_thinking(client: TestClient, backend: FakeBackend, thinking: Any, opens: bool) -> None:
    body = {"model": "tiny", "max_tokens": 5, "messages": HELLO} | ({"thinking": thinking} if thinking else {})
    assert client.post("/v1/messages", json=body).status_code == 200
    assert backend.last_text.endswith("<think>") == opens


def test_a_model_that_cannot_think_is_not_asked_to(client: TestClient) -> None:
    body = {"model": "plain", "max_tokens": 5, "messages": HELLO, "thinking": {"type": "enabled", "budget_tokens": 99}}
    assert client.post("/v1/messages", json=body).status_code == 200


def test_picture(api: anthropic.Anthropic, backend: FakeBackend) -> None:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), "blue").save(data, "PNG")
    source = {"type": "base64", "media_type": "image/png", "data": b64encode(data.getvalue()).decode()}
    ask(
        api,
        messages=[{"role": "user", "content": [{"type": "image", "source": source}, {"type": "text", "text": "?"}]}],
    )
    assert "[1 tiles]" in backend.last_text


def test_count_tokens(api: anthropic.Anthropic, client: TestClient, backend: FakeBackend) -> None:
    """A letter is a token in the fake."""
    count = api.messages.count_tokens(model="tiny", messages=HELLO, system="Be kind.", tools=TOOLS)  # type: ignore[arg-type]
    client.post(
        "/v1/messages", json={"model": "tiny", "max_tokens": 5, "messages": HELLO, "system": "Be kind.", "tools": TOOLS}
    )
    assert count.input_tokens == len(backend.last_text)
    assert client.post("/v1/messages/count_tokens", json={"model": "nope", "messages": HELLO}).status_code == 404


def test_cut(api: anthropic.Anthropic, backend: FakeBackend) -> None:
    backend.enqueue("a</think>", "b")
    assert ask(api, max_tokens=2).stop_reason == "max_tokens"


@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        ({"max_tokens": 0}, 400, "invalid_request_error", "max_tokens is required and must be positive"),
        ({"max_tokens": None}, 400, "invalid_request_error", "max_tokens is required and must be positive"),
        ({"model": ""}, 400, "invalid_request_error", "model is required"),
        ({"messages": []}, 400, "invalid_request_error", "messages is required"),
        ({"model": "nope"}, 404, "not_found_error", "model 'nope' not found"),
        ({"messages": [{"role": "robot", "content": "x"}]}, 400, "invalid_request_error", "role must be"),
        ({"messages": [{"role": "user", "content": [{"type": "odd"}]}]}, 400, "invalid_request_error", '"odd"'),
        (
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            400,
            "invalid_request_error",
            "web_search",
        ),
        ({"thinking": {"type": "maybe"}}, 400, "invalid_request_error", "thinking.type"),
        ({"output_config": {"effort": "huge"}}, 400, "invalid_request_error", "output_config.effort"),
    ],
)
def test_errors(client: TestClient, body: dict[str, Any], status: int, kind: str, message: str) -> None:
    response = client.post("/v1/messages", json={"model": "tiny", "max_tokens": 5, "messages": HELLO, **body})
    assert response.status_code == status
    answer = response.json()
    assert answer["type"] == "error" and answer["request_id"].startswith("req_")
    assert answer["error"]["type"] == kind and message in answer["error"]["message"]


def test_error_in_a_stream(api: anthropic.Anthropic, client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("a</think>b", WorkerDied("gone"))
    with (
        pytest.raises(anthropic.APIStatusError, match="gone"),
        api.messages.stream(model="tiny", max_tokens=5, messages=HELLO) as stream,
    ):
        list(stream)
    backend.enqueue("a</think>b", WorkerDied("gone"))
    body = {"model": "tiny", "max_tokens": 5, "messages": HELLO, "stream": True}
    lines = client.post("/v1/messages", json=body).text.strip().split("\n\n")
    name, data = lines[-1].split("\n")
    assert name == "event: error" and json.loads(data.removeprefix("data: "))["error"]["message"] == "gone"
