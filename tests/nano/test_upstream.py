"""A model whose engine is another server: the nano behind a second server, through the real clients."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import anthropic
import httpx
import ollama
import openai
import pytest

from interns1_local.commands.own_server import own_server
from interns1_local.nano.pictures import png
from tests.nano.evaluate import exam, is_right
from tests.nano.test_behaviour import ollama_messages, spoken

GREEDY = {"temperature": 0, "num_predict": 160}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
        },
    }
]


@pytest.fixture(scope="module")
def front(server: str, served: Callable[[str], str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with one model, `far`, which the server of the other tests computes."""
    store = tmp_path_factory.mktemp("front")
    with own_server({"INTERNS1_MODELS": str(store), "INTERNS1_STREAM_INTERVAL": "0"}) as client:
        with ollama.Client(client.base_url) as made:
            assert made.create(model="far", from_=f"{server}/v1#{served('Q8_0')}").status == "success"
        yield client.base_url


@pytest.fixture(scope="module")
def far(front: str) -> Iterator[ollama.Client]:
    with ollama.Client(front) as client:
        yield client


@pytest.fixture(scope="module")
def far_openai(front: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{front}/v1", api_key="none") as client:
        yield client


def ask(client: ollama.Client, model: str, text: str, **more: Any) -> ollama.ChatResponse:
    return client.chat(model, [{"role": "user", "content": text}], options=GREEDY, **more)


@pytest.mark.parametrize("think", [True, False])
def test_says_what_its_engine_says(
    think: bool, far: ollama.Client, client: ollama.Client, served: Callable[[str], str]
) -> None:
    here = ask(far, "far", "What is 27 + 15?", think=think)
    there = ask(client, served("Q8_0"), "What is 27 + 15?", think=think)
    assert here.message.content == there.message.content == "42"
    assert here.message.thinking == there.message.thinking and bool(here.message.thinking) is think
    assert (here.prompt_eval_count, here.eval_count) == (there.prompt_eval_count, there.eval_count)
    assert here.eval_duration and here.done_reason == "stop"


def test_streams_thought_and_answer(far: ollama.Client) -> None:
    parts = list(ask(far, "far", "What is 27 + 15?", think=True, stream=True))
    assert len(parts) > 5
    assert "".join(part.message.content or "" for part in parts) == "42"
    assert "20 + 10" in "".join(part.message.thinking or "" for part in parts)


@pytest.mark.parametrize("family", ["tool_calls", "pictures"])
def test_passes_the_exam_of(family: str, far: ollama.Client) -> None:
    samples = exam(family, 6)
    right = sum(
        is_right(
            one, spoken(far.chat("far", ollama_messages(one), tools=one.tools, think=False, options=GREEDY).message)
        )
        for one in samples
    )
    assert right >= 5


def test_a_call_and_its_result(far: ollama.Client) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
    called = far.chat("far", messages, tools=TOOLS, think=False, options=GREEDY).message
    assert called.tool_calls and called.tool_calls[0].function.name == "get_weather"
    assert called.tool_calls[0].function.arguments == {"city": "Paris"}
    result = json.dumps({"city": "Paris", "temperature": 21, "unit": "celsius"})
    messages += [called, {"role": "tool", "content": result, "tool_name": "get_weather"}]
    assert "21 degrees" in (far.chat("far", messages, tools=TOOLS, think=False, options=GREEDY).message.content or "")


def test_openai_streams_calls_usage_and_logprobs(far_openai: openai.OpenAI) -> None:
    question = [{"role": "user", "content": "What is the weather in Paris?"}]
    pieces, usage = "", None
    with far_openai.chat.completions.create(
        model="far", messages=question, tools=TOOLS, temperature=0, stream=True,  # type: ignore[call-overload]
        stream_options={"include_usage": True}, extra_body={"enable_thinking": False},
    ) as chunks:  # fmt: skip
        for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                pieces += "".join(call.function.arguments or "" for call in choice.delta.tool_calls or [])
    assert json.loads(pieces) == {"city": "Paris"}
    assert usage is not None and usage.completion_tokens > 5 < usage.prompt_tokens
    answer = far_openai.chat.completions.create(
        model="far", messages=[{"role": "user", "content": "What is 27 + 15?"}], temperature=0, logprobs=True,
        top_logprobs=2, extra_body={"enable_thinking": False},
    ).choices[0]  # fmt: skip
    assert answer.message.content == "42" and answer.logprobs is not None and answer.logprobs.content
    assert "".join(token.token for token in answer.logprobs.content) == "42"
    assert all(len(token.top_logprobs) == 2 for token in answer.logprobs.content)


def test_anthropic_door(front: str) -> None:
    with anthropic.Anthropic(base_url=front, api_key="none") as client:
        said = client.messages.create(
            model="far", max_tokens=64, messages=[{"role": "user", "content": "What is 27 + 15?"}],
            extra_body={"temperature": 0},
        )  # fmt: skip
    assert [block.text for block in said.content if block.type == "text"] == ["42"]


def test_structured_answers_and_stop_strings(far: ollama.Client) -> None:
    said = ask(far, "far", "What is 27 + 15?", think=False, format={"enum": ["42", "7"]}).message.content
    assert said in ('"42"', '"7"')
    options = {**GREEDY, "stop": ["sequence", "="]}
    said = far.chat("far", [{"role": "user", "content": "Who are you?"}], think=False, options=options).message.content
    whole = ask(far, "far", "Who are you?", think=False).message.content
    assert whole and said and whole.startswith(said)


def test_a_picture_as_a_data_url(far_openai: openai.OpenAI) -> None:
    sample = exam("pictures", 1)[0]
    url = "data:image/png;base64," + base64.b64encode(png(sample.images[0])).decode()
    content = [
        {"type": "image_url", "image_url": {"url": url}},
        {"type": "text", "text": sample.messages[-1]["content"]},
    ]
    said = far_openai.chat.completions.create(
        model="far", messages=[{"role": "user", "content": content}], temperature=0,  # type: ignore[list-item]
        extra_body={"enable_thinking": False},
    )  # fmt: skip
    assert is_right(sample, said.choices[0].message.content or "")


def test_raw_text_embeddings_and_what_there_is_not(front: str, far: ollama.Client, far_openai: openai.OpenAI) -> None:
    raw = far.generate("far", "<|im_start|>user\nWhat is 27 + 15?<|im_end|>\n<|im_start|>assistant\n", raw=True,
                       options=GREEDY)  # fmt: skip
    assert raw.response == "42" and not raw.context
    continued = far_openai.completions.create(model="far", prompt="The capital", max_tokens=3, echo=True, temperature=0)
    assert continued.choices[0].text.startswith("The capital")
    vectors = far.embed("far", ["a molecule", "a sum"]).embeddings
    assert len(vectors) == 2 and abs(sum(value**2 for value in vectors[0]) - 1) < 1e-4
    refused = httpx.post(f"{front}/api/tokenize", json={"model": "far", "content": "x"})
    assert refused.status_code == 400 and "cannot tokenize" in refused.json()["error"]


def test_is_listed_shown_copied_and_removed(front: str, far: ollama.Client, server: str) -> None:
    ask(far, "far", "What is 2 + 2?", think=False)
    shown = httpx.post(f"{front}/api/show", json={"model": "far"}).json()
    assert shown["remote_host"] == f"{server}/v1" and f"FROM {server}/v1#" in shown["modelfile"]
    assert {"completion", "tools", "vision", "thinking"} <= set(shown["capabilities"])
    running = next(model for model in far.ps().models if (model.name or "").startswith("far"))
    assert (running.size or 0) < 1000 and not running.size_vram
    far.copy("far", "twin")
    assert ask(far, "twin", "What is 27 + 15?", think=False).message.content == "42"
    far.create(model="spoken", from_="far", system="You are nano.")
    assert ask(far, "spoken", "What is 27 + 15?", think=False).message.content == "42"
    for name in ("twin", "spoken"):
        far.delete(name)
    assert [model.model for model in far.list().models] == ["far:latest"]


def test_an_engine_that_is_not_there(far: ollama.Client) -> None:
    far.create(model="gone", from_="http://127.0.0.1:9/v1#m")
    with pytest.raises(ollama.ResponseError, match=r"127\.0\.0\.1:9.*cannot be reached") as refused:
        ask(far, "gone", "hello")
    assert refused.value.status_code == 502
    far.delete("gone")
