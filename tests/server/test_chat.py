"""POST /api/chat: the stream byte for byte, the whole answer, thinking, tools, pictures, load and unload."""

from __future__ import annotations

import base64
import io
import json
import re
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from interns1_local.errors import WorkerDied
from tests.server.fake_runner import FakeBackend

USER = [{"role": "user", "content": "Hi"}]
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def chat(client: TestClient, **body: Any) -> list[dict[str, Any]]:
    response = client.post("/api/chat", json={"model": "tiny", "messages": USER, **body})
    assert response.status_code == 200, response.text
    return [json.loads(line) for line in response.text.splitlines()]


def picture(size: tuple[int, int] = (56, 56)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, "red").save(file, "PNG")
    return file.getvalue()


def test_the_stream_byte_for_byte(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("wo", b"\xc3", b"\xa9</th", "ink>\n\nA\u2028", "B")
    response = client.post("/api/chat", content=json.dumps({"model": "tiny", "messages": USER}))
    assert response.headers["content-type"] == "application/x-ndjson"
    text = re.sub(r'"created_at":"[0-9T:.-]+Z"', '"created_at":"T"', response.text)
    text = re.sub(r'"(total|load)_duration":\d+', r'"\1_duration":1', text)
    head = '{"model":"tiny","created_at":"T","message":{"role":"assistant",'
    assert text.splitlines() == [
        head + '"content":"","thinking":"wo"},"done":false}',
        head + '"content":"","thinking":"\\u00e9"},"done":false}',
        head + '"content":"A\\u2028"},"done":false}',
        head + '"content":"B"},"done":false}',
        head + '"content":""},"done":true,"done_reason":"stop","total_duration":1,"load_duration":1,'
        '"prompt_eval_count":7,"prompt_eval_cached_count":3,"prompt_eval_duration":500000000,"eval_count":5,'
        '"eval_duration":250000000,"thinking_count":4}',
    ]
    assert text.endswith("}\n")


def test_the_whole_answer(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("deep", "</think>", "an", "swer")
    response = client.post("/api/chat", json={"model": "TINY", "messages": USER, "stream": False})
    assert response.headers["content-type"] == "application/json; charset=utf-8"
    answer = response.json()
    assert answer["model"] == "TINY"
    assert answer["message"] == {"role": "assistant", "content": "answer", "thinking": "deep"}
    assert answer["done"] is True
    assert answer["done_reason"] == "stop"


def test_thinking_off(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("answer")
    lines = chat(client, think=False)
    assert lines[0]["message"] == {"role": "assistant", "content": "answer"}
    assert backend.last_text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_tool_calls_come_whole(client: TestClient, backend: FakeBackend) -> None:
    block = '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"b": 1, "a": 2}}\n<|action_end|>'
    backend.enqueue("Let me see." + block[:9], block[9:40], block[40:])
    lines = chat(client, think=False, tools=[TOOL])
    assert backend.last_text.startswith("<|action_start|><|plugin|>1")
    assert lines[0]["message"]["content"] == "Let me see."
    (call,) = lines[1]["message"]["tool_calls"]
    assert re.fullmatch("call_[a-z0-9]{8}", call["id"])
    assert call["function"] == {"index": 0, "name": "f", "arguments": {"b": 1, "a": 2}}
    assert list(call["function"]["arguments"]) == ["b", "a"]
    assert lines[-1]["done_reason"] == "stop"
    assert not any("action" in line["message"]["content"] for line in lines)


def test_pictures_stand_before_the_text(client: TestClient, backend: FakeBackend) -> None:
    image = base64.b64encode(picture((112, 56))).decode()
    chat(client, messages=[{"role": "user", "content": "What?", "images": [image]}])
    assert "<|im_start|>user\n[3 tiles]What?" in backend.last_text


@pytest.mark.parametrize(
    ("script", "stops", "content"),
    [
        (["one STOP two"], ["STOP"], "one "),
        (["one S", "TO", "P two"], ["STOP"], "one "),
        (["one S", "TA", "P"], ["STOP"], "one STAP"),
        (["aXb", "Yc"], ["Y", "X"], "a"),
        (["one ST"], ["STOP"], "one ST"),
        (["STOP"], ["STOP"], ""),
    ],
)
def test_stop_strings(
    client: TestClient, backend: FakeBackend, script: list[str], stops: list[str], content: str
) -> None:
    backend.enqueue(*script)
    lines = chat(client, think=False, options={"stop": stops})
    assert "".join(line["message"]["content"] for line in lines) == content
    assert lines[-1]["done_reason"] == "stop"
    assert lines[-1]["prompt_eval_count"] >= 7
    assert lines[-1]["eval_count"] >= 1


def test_options_precedence(client: TestClient, backend: FakeBackend) -> None:
    chat(client, options={"top_p": 0.5, "seed": 4, "num_predict": 9, "frobnicate": 1})
    sampling = backend.last.sampling
    assert (sampling.top_p, sampling.seed) == (0.5, 4)  # the request
    assert sampling.top_k == 7  # the Modelfile
    assert sampling.temperature == 0.25  # the model file
    assert sampling.repeat_last_n == 64  # Ollama's defaults
    assert backend.last.max_tokens == 9
    chat(client, options={"temperature": 1, "num_predict": -2})
    assert backend.last.sampling.temperature == 1.0
    assert backend.last.max_tokens is None


def test_system_and_load_options(client: TestClient, backend: FakeBackend) -> None:
    chat(client, model="plain", options={"num_ctx": 64})
    assert backend.last_text.startswith("system: Be plain.\nuser: Hi")
    assert backend.started[-1].options.num_ctx == 64
    chat(client, model="plain", messages=[{"role": "SYSTEM", "content": "Mine."}, *USER])
    assert backend.last_text.startswith("system: Mine.\nuser: Hi")


def test_length(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("a", "b")
    assert chat(client, options={"num_predict": 2})[-1]["done_reason"] == "length"


def test_logprobs(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("a", "b")
    lines = chat(client, think=False, logprobs=True)
    assert lines[0]["logprobs"] == [{"token": "a", "logprob": -0.5, "bytes": [97]}]
    backend.enqueue("a", "b")
    whole = client.post("/api/chat", json={"model": "tiny", "messages": USER, "logprobs": True, "stream": False}).json()
    assert [entry["token"] for entry in whole["logprobs"]] == ["a", "b"]


@pytest.mark.parametrize(("keep_alive", "reason"), [(None, "load"), ("5m", "load"), (0, "unload"), ("0s", "unload")])
def test_load_and_unload(client: TestClient, backend: FakeBackend, keep_alive: Any, reason: str) -> None:
    response = client.post("/api/chat", json={"model": "tiny", "keep_alive": keep_alive})
    assert response.headers["content-type"].startswith("application/json")
    answer = response.json()
    assert answer.pop("created_at")
    assert answer == {
        "model": "tiny", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": reason,
    }  # fmt: skip
    assert len(backend.started) == (reason == "load")


def test_ps_after_load_and_unload(client: TestClient, backend: FakeBackend) -> None:
    client.post("/api/chat", json={"model": "tiny"})
    (model,) = client.get("/api/ps").json()["models"]
    assert model["name"] == "tiny:latest"
    assert model["context_length"] == 4096
    assert model["size_vram"] == 0
    client.post("/api/chat", json={"model": "tiny", "keep_alive": 0})
    assert client.get("/api/ps").json() == {"models": []}
    assert backend.closed == ["tiny:latest"]


def test_errors_before_and_after_the_first_chunk(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue(WorkerDied("gone"))
    response = client.post("/api/chat", json={"model": "tiny", "messages": USER})
    assert (response.status_code, response.json()) == (500, {"error": "gone"})
    backend.enqueue("a", WorkerDied("gone"))
    lines = chat(client, think=False)
    assert lines[0]["message"]["content"] == "a"
    assert lines[1:] == [{"error": "gone"}]
    backend.enqueue("a", KeyError("strange"))
    assert "internal error" in chat(client, think=False)[-1]["error"]


def test_rendering_only(client: TestClient, backend: FakeBackend) -> None:
    (line,) = chat(client, _debug_render_only=True, think=False)
    assert line["_debug_info"] == {
        "rendered_template": "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "image_count": 0,
    }  # fmt: skip
    assert backend.requests == []
