"""Calls of tools as clients see them: in pieces and whole they are the same, and broken ones are shown and counted."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import openai
import pytest
from starlette.testclient import TestClient

from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from tests.server.fake_runner import CHAT_TEMPLATE, FakeBackend, write_gguf
from tests.server.test_chat import TOOL

USER: list[Any] = [{"role": "user", "content": "Hi"}]
A, Z = "<|action_start|><|plugin|>", "<|action_end|>"
FIRST = f'{A}\n{{\n  "name": "f",\n  "parameters": {{"a": "F/C=C\\F\\u00e9\nx", "n": [1.50, null]}}\n}}\n{Z}'
SECOND = f'{A}{{"name": "g", "arguments": {{}}}}{Z}'
BROKEN = f'{A}\n{{"name": "f", "parameters": {{"a": 1,}}}}\n{Z}'
ARGUMENTS = {"a": "F/C=C\\Fé\nx", "n": [1.5, None]}


@pytest.fixture
def client_of_openai(live_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with openai.OpenAI(base_url=f"{live_url}/v1", api_key="none", http_client=httpx.Client(trust_env=False)) as client:
        yield client


def options() -> dict[str, Any]:
    return {"model": "tiny", "messages": USER, "tools": [TOOL], "extra_body": {"enable_thinking": False}}


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_what_the_openai_client_gathers_is_the_whole_answer(
    client_of_openai: openai.OpenAI, backend: FakeBackend, size: int
) -> None:
    text = f"First this.{FIRST}\n{SECOND}\n"
    backend.enqueue(*[text[start : start + size] for start in range(0, len(text), size)])
    deltas = []
    with client_of_openai.chat.completions.stream(**options()) as stream:
        for event in stream:
            if event.type == "chunk":
                deltas += event.chunk.choices[0].delta.tool_calls or []
        streamed = stream.get_final_completion().choices[0]
    backend.enqueue(text)
    whole = client_of_openai.chat.completions.create(**options()).choices[0]
    assert streamed.finish_reason == whole.finish_reason == "tool_calls"
    assert streamed.message.content == whole.message.content == "First this."
    gathered, calls = streamed.message.tool_calls or [], whole.message.tool_calls or []
    assert [(call.function.name, call.function.arguments) for call in gathered] == [
        (call.function.name, call.function.arguments) for call in calls if call.type == "function"
    ]
    assert [json.loads(call.function.arguments) for call in gathered] == [ARGUMENTS, {}]
    # A call begins with its id and name, and its arguments come as the model writes them.
    begins = [delta for delta in deltas if delta.id]
    assert [(delta.index, delta.function and delta.function.name) for delta in begins] == [(0, "f"), (1, "g")]
    assert all(delta.function and delta.function.arguments == "" for delta in begins)
    pieces = [delta for delta in deltas if delta.index == 0 and not delta.id]
    assert len(pieces) > 20 if size == 1 else pieces
    assert all(delta.function and delta.function.name is None and delta.function.arguments for delta in pieces)


def test_whole_calls_for_ollama(live_url: str, backend: FakeBackend, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    backend.enqueue(*(FIRST + SECOND))
    with ollama.Client(live_url) as client:
        chunks = list(client.chat("tiny", USER, tools=[TOOL], think=False, stream=True))
    calls = [call.function for chunk in chunks for call in chunk.message.tool_calls or []]
    assert [(call.name, call.arguments) for call in calls] == [("f", ARGUMENTS), ("g", {})]
    assert all(not chunk.message.content for chunk in chunks)


def test_a_broken_call_is_shown_and_counted(client: TestClient, backend: FakeBackend) -> None:
    body = {"model": "tiny", "messages": USER, "tools": [TOOL], "think": False}
    backend.enqueue("So: ", *BROKEN)
    answer = client.post("/api/chat", json={**body, "stream": False}).json()
    assert answer["message"] == {"role": "assistant", "content": f"So: {BROKEN}"}
    assert (answer["malformed_tool_calls"], answer["done_reason"]) == (1, "stop")
    backend.enqueue("So: ", *BROKEN)
    (choice,) = client.post("/v1/chat/completions", json=body).json()["choices"]
    assert choice["message"] == {"role": "assistant", "content": f"So: {BROKEN}"}
    assert (choice["malformed_tool_calls"], choice["finish_reason"]) == (1, "stop")
    # In a stream its beginning was told as a call: it ends as it was, and nothing makes it look whole.
    backend.enqueue("So: ", *BROKEN, SECOND)
    lines = client.post("/v1/chat/completions", json={**body, "stream": True}).text.split("\n\n")
    choices = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines if line.startswith("data: {")]
    deltas = [choice["delta"] for choice in choices]
    assert "".join(delta.get("content") or "" for delta in deltas) == f"So: {BROKEN}"
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    pieces = {
        index: "".join(c["function"].get("arguments", "") for c in calls if c["index"] == index) for index in (0, 1)
    }
    assert pieces == {0: '{"a": 1, ', 1: "{}"}
    assert (choices[-1]["malformed_tool_calls"], choices[-1]["finish_reason"]) == (1, "tool_calls")


def test_answers_without_broken_calls_say_nothing_of_them(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("fine")
    answer = client.post("/api/chat", json={"model": "tiny", "messages": USER, "stream": False}).json()
    assert "malformed_tool_calls" not in answer


def test_values_are_typed_by_the_tools_of_the_request(
    store: ModelStore, client: TestClient, backend: FakeBackend, tmp_path: Any
) -> None:
    template = CHAT_TEMPLATE.replace("<|action_start|><|plugin|>", "<tool_call><function=")
    path = write_gguf(tmp_path / "m.gguf", template)
    create(store, ModelName.parse("coder"), ModelPlan(files={"m": path}))
    properties = {"text": {"type": "string"}, "n": {"type": "integer"}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    written = (
        "<tool_call>\n<function=f>\n<parameter=text>\n5\n</parameter>\n<parameter=n>\n5\n</parameter>\n</function>"
    )
    backend.enqueue(*written, "\n</tool_call>")
    body = {"model": "coder", "messages": USER, "tools": [tool], "think": False, "stream": False}
    (call,) = client.post("/api/chat", json=body).json()["message"]["tool_calls"]
    assert call["function"]["arguments"] == {"text": "5", "n": 5}
