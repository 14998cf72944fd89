"""Over a real socket: the `ollama` and `openai` clients, and a client that leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import ollama
import openai
import pytest

from interns1_local.errors import WorkerDied
from tests.server.fake_runner import FakeBackend, write_gguf
from tests.server.test_chat import TOOL, picture


@pytest.fixture
def client(live_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[ollama.Client]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ollama.Client(live_url) as client:
        yield client


def test_ollama_chat_and_generate(client: ollama.Client, backend: FakeBackend) -> None:
    backend.enqueue("why</think>", "A\u2028\u0085", "B")
    chunks = list(client.chat("tiny", [{"role": "user", "content": "Hi", "images": [picture()]}], stream=True))
    assert "".join(chunk.message.content or "" for chunk in chunks) == "A\u2028\u0085B"
    assert chunks[0].message.thinking == "why"
    assert chunks[-1].done
    assert chunks[-1].prompt_eval_count == 7
    block = '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}\n<|action_end|>'
    backend.enqueue(block)
    answer = client.chat("tiny", [{"role": "user", "content": "Hi"}], tools=[TOOL], think=False)
    (call,) = answer.message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("f", {"a": 1})
    backend.enqueue("A", "B")
    assert client.generate("tiny", "Hi", think=False).response == "AB"
    with pytest.raises(ollama.ResponseError, match="model 'nope' not found") as caught:
        client.chat("nope", [{"role": "user", "content": "Hi"}])
    assert caught.value.status_code == 404
    backend.enqueue("A", WorkerDied("gone"))
    with pytest.raises(ollama.ResponseError, match="gone"):
        list(client.generate("tiny", "Hi", think=False, stream=True))


def test_ollama_models(client: ollama.Client, tmp_path: Path) -> None:
    digest = client.create_blob(write_gguf(tmp_path / "m.gguf"))
    assert client.create("made", files={"m.gguf": digest}, system="S").status == "success"
    assert [part.status for part in client.create("made2", from_="made", stream=True)][-1] == "success"
    assert sorted(model.model or "" for model in client.list().models) == [
        "made2:latest", "made:latest", "plain:latest", "tiny:latest",
    ]  # fmt: skip
    shown = client.show("made")
    assert shown.details is not None
    assert shown.details.family == "qwen3"
    assert client.copy("made", "other").status == "success"
    assert client.delete("other").status == "success"
    client.generate("tiny", keep_alive="1m")
    assert [model.model for model in client.ps().models] == ["tiny:latest"]
    client.generate("tiny", keep_alive=0)
    assert client.ps().models == []
    with pytest.raises(ollama.ResponseError, match="pull model manifest"):
        client.pull("http://127.0.0.1:1/library/llama3", insecure=True)


def test_openai(live_url: str, backend: FakeBackend) -> None:
    with openai.OpenAI(base_url=f"{live_url}/v1", api_key="none", max_retries=0) as client:
        messages = [{"role": "user", "content": "Hi"}]
        backend.enqueue("why</think>", "AB")
        answer = client.chat.completions.create(model="tiny", messages=messages)  # type: ignore[call-overload]
        assert answer.choices[0].message.content == "AB"
        assert answer.choices[0].message.reasoning_content == "why"
        backend.enqueue("A", "B")
        chunks = list(
            client.chat.completions.create(  # type: ignore[call-overload]
                model="tiny", messages=messages, stream=True, stream_options={"include_usage": True},
                extra_body={"chat_template_kwargs": {"enable_thinking": False}},
            )
        )  # fmt: skip
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "AB"
        assert chunks[-1].usage.total_tokens == 9
        assert sorted(model.id for model in client.models.list()) == ["plain:latest", "tiny:latest"]
        with pytest.raises(openai.NotFoundError, match="not found"):
            client.chat.completions.create(model="nope", messages=messages)  # type: ignore[call-overload]
        backend.enqueue("A", WorkerDied("gone"))
        with pytest.raises(openai.APIError, match="gone"):
            list(client.chat.completions.create(model="tiny", messages=messages, stream=True))  # type: ignore[call-overload]


@pytest.mark.parametrize("script", [["<hang>"], ["</think>A", "<hang>"]], ids=["before", "during"])
@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_generation(
    live_url: str, client: ollama.Client, backend: FakeBackend, script: list[str], stream: bool
) -> None:
    backend.enqueue(*script)
    body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "stream": stream}

    async def leave() -> None:
        async with httpx.AsyncClient(trust_env=False) as http:
            with pytest.raises(httpx.ReadTimeout):
                async with http.stream("POST", f"{live_url}/api/chat", json=body, timeout=0.5) as response:
                    async for _ in response.aiter_bytes():
                        pass

    asyncio.run(leave())
    deadline = time.monotonic() + 5
    while not backend.ended and time.monotonic() < deadline:
        time.sleep(0.02)
    assert backend.ended == 1
    assert client.generate("tiny", keep_alive=0).done_reason == "unload"
