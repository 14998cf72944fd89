"""POST /v1/chat/completions: the events byte for byte, the whole answer, and what requests may hold."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import pytest
from starlette.testclient import TestClient

from interns1_local.errors import WorkerDied
from tests.server.fake_runner import FakeBackend
from tests.server.test_chat import TOOL, picture

USER = [{"role": "user", "content": "Hi"}]
CALL = '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": "\\u4f60"}}\n<|action_end|>'


def post(client: TestClient, **body: Any) -> Any:
    response = client.post("/v1/chat/completions", json={"model": "tiny", "messages": USER, **body})
    assert response.status_code == 200, response.text
    return response


def events(client: TestClient, **body: Any) -> list[Any]:
    response = post(client, stream=True, **body)
    assert response.headers["content-type"].startswith("text/event-stream")
    blocks = response.text.split("\n\n")
    assert blocks[-1] == ""
    data = [block.removeprefix("data: ") for block in blocks[:-1]]
    return [entry if entry == "[DONE]" else json.loads(entry) for entry in data]


def test_the_stream_byte_for_byte(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("why", "</think>", "A\u2029")
    text = post(client, stream=True, stream_options={"include_usage": True}).text
    text = re.sub(r'"id":"chatcmpl-\d+"', '"id":"I"', re.sub(r'"created":\d+', '"created":1', text))
    head = 'data: {"id":"I","object":"chat.completion.chunk","created":1,"model":"tiny",'
    head += '"system_fingerprint":"fp_ollama",'
    assert text.split("\n\n") == [
        head + '"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}',
        head + '"choices":[{"index":0,"delta":{"reasoning":"why","reasoning_content":"why"},"finish_reason":null}]}',
        head + '"choices":[{"index":0,"delta":{"content":"A\\u2029"},"finish_reason":null}]}',
        head + '"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}',
        head + '"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3,"total_tokens":10,'
        '"prompt_tokens_details":{"cached_tokens":3},"completion_tokens_details":{"reasoning_tokens":2}}}',
        "data: [DONE]",
        "",
    ]


def test_the_whole_answer(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("why</think>", "An", "swer")
    answer = post(client).json()
    assert answer["object"] == "chat.completion"
    (choice,) = answer["choices"]
    assert choice["message"] == {
        "role": "assistant", "content": "Answer", "reasoning": "why", "reasoning_content": "why",
    }  # fmt: skip
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["total_tokens"] == 10


def test_tools(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue(CALL, CALL)
    delta = [event["choices"][0] for event in events(client, tools=[TOOL], enable_thinking=False)[:-1]]
    calls = [choice["delta"]["tool_calls"][0] for choice in delta if "tool_calls" in choice["delta"]]
    assert [call["index"] for call in calls] == [0, 0, 1, 1]
    assert [call["function"] for call in calls[:2]] == [{"name": "f", "arguments": ""}, {"arguments": '{"a": "你"}'}]
    assert delta[-1]["finish_reason"] == "tool_calls"
    backend.enqueue(CALL)
    whole = post(client, tools=[TOOL], tool_choice="auto", enable_thinking=False).json()["choices"][0]
    assert whole["message"]["tool_calls"][0]["type"] == "function"
    assert whole["finish_reason"] == "tool_calls"
    post(client, tools=[TOOL], tool_choice="none")
    assert "plugin" in backend.last_text
    assert backend.last.forbidden == "<|action_start|>"


@pytest.mark.parametrize(
    ("body", "thinks"),
    [
        ({}, True),
        ({"think": False}, False),
        ({"enable_thinking": False}, False),
        ({"enable_thinking": None}, True),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"enable_thinking": True}, "think": False}, True),
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, True),
        ({"reasoning": {"effort": "none"}}, False),
        ({"options": {"think": False}}, False),
    ],
)
def test_thinking(client: TestClient, backend: FakeBackend, body: dict[str, Any], thinks: bool) -> None:
    post(client, **body)
    assert backend.last_text.endswith("<think>") == thinks


def test_parts_keep_their_order(client: TestClient, backend: FakeBackend) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture()).decode()
    parts = [
        {"type": "text", "text": "Before "},
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": " between "},
        {"type": "image_url", "image_url": url},
    ]
    post(client, messages=[{"role": "developer", "content": "Dev"}, {"role": "user", "content": parts}])
    assert "user\nBefore [1 tiles] between [1 tiles]<|im_end|>" in backend.last_text
    assert backend.last_text.startswith("<|im_start|>system\nDev")


def test_options(client: TestClient, backend: FakeBackend) -> None:
    post(client)
    assert (backend.last.sampling.temperature, backend.last.sampling.top_k) == (0.25, 7)
    assert (backend.last.sampling.top_p, backend.last.max_tokens) == (0.9, None)
    post(
        client, temperature=0, top_p=0.5, top_k=3, min_p=0.1, seed=9, frequency_penalty=0.2, presence_penalty=0.3,
        max_tokens=5, max_completion_tokens=6, logit_bias={"4": -100}, options={"num_ctx": 128, "top_k": 1},
        user="u", parallel_tool_calls=True, service_tier="auto", n=1, response_format={"type": "text"},
    )  # fmt: skip
    sampling = backend.last.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p, sampling.seed) == (0, 0.5, 3, 0.1, 9)
    assert (sampling.frequency_penalty, sampling.presence_penalty, sampling.logit_bias) == (0.2, 0.3, {4: -100.0})
    assert backend.last.max_tokens == 6


@pytest.mark.parametrize("stop", ["X", ["X", "Y"]])
def test_stop_and_length(client: TestClient, backend: FakeBackend, stop: Any) -> None:
    backend.enqueue("aX", "b")
    choice = post(client, stop=stop, think=False).json()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a", "stop")
    backend.enqueue("a", "b")
    assert post(client, max_tokens=2, think=False).json()["choices"][0]["finish_reason"] == "length"


def test_a_tool_loop(client: TestClient, backend: FakeBackend) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [
        *USER,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "42"},
    ]
    post(client, messages=messages)
    assert "<|im_start|>tool\n42" in backend.last_text


def test_logprobs(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("a")
    choice = post(client, logprobs=True, top_logprobs=2, think=False).json()["choices"][0]
    assert choice["logprobs"] == {"content": [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}]}
    assert backend.last.sampling.logprobs == 2


def test_an_error_in_the_stream_is_an_event(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("a", WorkerDied("gone"))
    last = events(client, think=False)[-1]
    assert last == {"error": {"message": "gone", "type": "api_error", "param": None, "code": None}}
    backend.enqueue(WorkerDied("gone"))
    body = {"model": "tiny", "messages": USER, "stream": True}
    assert client.post("/v1/chat/completions", json=body).status_code == 500


def test_models(client: TestClient) -> None:
    client.post("/api/copy", json={"source": "tiny", "destination": "internlm/interns1"})
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    assert {model["id"]: model["owned_by"] for model in listed["data"]} == {
        "tiny:latest": "library", "plain:latest": "library", "internlm/interns1:latest": "internlm",
    }  # fmt: skip
    assert client.get("/v1/models/internlm/interns1").json()["id"] == "internlm/interns1"
    assert client.get("/v1/models/nope").json()["error"]["type"] == "not_found_error"
