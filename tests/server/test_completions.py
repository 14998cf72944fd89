"""POST /v1/completions, and the choices of /v1/chat/completions: prompts, n, best_of, echo, log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
from starlette.testclient import TestClient

from interns1_local.errors import ContextOverflow
from tests.server.fake_runner import FakeBackend

URL = "/v1/completions"
USER = [{"role": "user", "content": "Hi"}]


def post(client: TestClient, url: str = URL, **body: Any) -> Any:
    response = client.post(url, json={"model": "tiny", "prompt": "Once", **body})
    assert response.status_code == 200, response.text
    return response.json()


def events(client: TestClient, url: str = URL, **body: Any) -> list[Any]:
    response = client.post(url, json={"model": "tiny", "prompt": "Once", "stream": True, **body})
    assert response.status_code == 200, response.text
    data = [block.removeprefix("data: ") for block in response.text.split("\n\n")[:-1]]
    assert data[-1] == "[DONE]"
    return [json.loads(entry) for entry in data[:-1]]


def test_the_whole_answer(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue(" upon", " a time")
    answer = post(client)
    assert answer.pop("id").startswith("cmpl-")
    assert answer.pop("created") > 0
    assert answer == {
        "object": "text_completion",
        "model": "tiny",
        "system_fingerprint": "fp_ollama",
        "choices": [{"text": " upon a time", "index": 0, "logprobs": None, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_tokens_details": {"cached_tokens": 3},
            "completion_tokens_details": {"reasoning_tokens": 0},
        },
    }
    # No template, no system text, and no reading of marks.
    assert backend.last.prompt == "Once"
    backend.enqueue("why</think>", "<|action_start|>")
    assert post(client)["choices"][0]["text"] == "why</think><|action_start|>"


def test_the_stream(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue(" a", " b")
    *chunks, usage = events(client, stream_options={"include_usage": True})
    assert [chunk["choices"][0]["text"] for chunk in chunks] == [" a", " b", ""]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "stop"]
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert (usage["choices"], usage["usage"]["total_tokens"]) == ([], 9)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2, 3], [[1, 2, 3]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
        (["a", [3]], ["a", [3]]),
    ],
)
def test_forms_of_prompts(client: TestClient, backend: FakeBackend, prompt: Any, prompts: list[Any]) -> None:
    for number in range(len(prompts)):
        backend.enqueue(f"to {number}")
    answer = post(client, prompt=prompt)
    assert [choice["text"] for choice in answer["choices"]] == [f"to {number}" for number in range(len(prompts))]
    assert [choice["index"] for choice in answer["choices"]] == list(range(len(prompts)))
    assert [request.prompt for request in backend.requests] == prompts
    assert answer["usage"]["prompt_tokens"] == 7 * len(prompts)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"prompt": None}, "prompt is required"),
        ({"prompt": []}, "prompt is required"),
        ({"prompt": ""}, "a prompt is empty"),
        ({"prompt": ["a", []]}, "a prompt is empty"),
        ({"prompt": [1, True]}, "cannot unmarshal number"),
        ({"prompt": [["a"]]}, "cannot unmarshal array"),
        ({"prompt": {}}, "prompt is required"),
        ({"n": 0}, "n must be between 1 and 128; it is 0"),
        ({"n": 129}, "n must be between 1 and 128; it is 129"),
        ({"n": 3, "best_of": 2}, "best_of (2) must not be less than n (3)"),
        ({"best_of": 2, "stream": True}, "best_of cannot be streamed"),
        ({"prompt": ["a"] * 129, "n": 128}, "ask in parts"),
        ({"logprobs": 21}, "logprobs must be between 0 and 20; it is 21"),
        ({"logit_bias": {"1": 101}}, "logit_bias must be between -100 and 100; that of token 1 is 101"),
        ({"logit_bias": {"a": 1}}, "logit_bias must map token ids to numbers"),
        ({"suffix": "s"}, "does not support insert"),
        ({"suffix": "s", "echo": True}, "echo and suffix cannot be used together"),
    ],
)
def test_what_is_refused(client: TestClient, backend: FakeBackend, body: dict[str, Any], text: str) -> None:
    response = client.post(URL, json={"model": "tiny", "prompt": "a", **body})
    assert response.status_code == 400
    assert text in response.json()["error"]["message"]
    assert not backend.requests


def test_a_prompt_that_is_too_long_is_refused(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue(
        ContextOverflow("request (9 tokens) exceeds the available context size (8 tokens), try increasing it")
    )
    response = client.post(URL, json={"model": "tiny", "prompt": "a"})
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert "(9 tokens)" in message
    assert "(8 tokens)" in message
    assert "num_ctx" in message


def test_options(client: TestClient, backend: FakeBackend) -> None:
    post(
        client, temperature=0, top_p=0.5, seed=9, frequency_penalty=0.2, max_tokens=5, logit_bias={"4": -100},
        min_tokens=3, ignore_eos=True, options={"num_ctx": 128, "top_k": 1}, user="u",
    )  # fmt: skip
    sampling = backend.last.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed) == (0, 0.5, 1, 9)
    assert (sampling.min_tokens, sampling.ignore_eos, sampling.logit_bias) == (3, True, {4: -100.0})
    assert backend.last.max_tokens == 5


def test_stop_strings_span_tokens(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("a", "bX", "YZ", "c", "d")
    answer = post(client, stop=["no", "XYZ", "never"])
    assert answer["choices"][0]["text"] == "ab"
    assert answer["choices"][0]["finish_reason"] == "stop"
    # The tokens that were chosen until then, and the prompt as the runner counted it.
    assert (answer["usage"]["completion_tokens"], answer["usage"]["prompt_tokens"]) == (3, 7)
    assert answer["usage"]["prompt_tokens_details"] == {"cached_tokens": 3}
    backend.enqueue("a", "bX", "YZ", "c", "d")
    assert "".join(chunk["choices"][0]["text"] for chunk in events(client, stop=["no", "XYZ"])) == "ab"


def test_n_on_completions(client: TestClient, backend: FakeBackend) -> None:
    for text in "abcd":
        backend.enqueue(text, text.upper())
    answer = post(client, prompt=["P", "Q"], n=2, seed=1)
    assert [choice["text"] for choice in answer["choices"]] == ["aA", "bB", "cC", "dD"]
    assert [request.prompt for request in backend.requests] == ["P", "P", "Q", "Q"]
    seeds = [request.sampling.seed for request in backend.requests]
    assert seeds[0] == 1
    assert seeds[0] != seeds[1]
    assert seeds[:2] == seeds[2:]
    # A prompt counts once, however many continuations it has.
    assert answer["usage"]["prompt_tokens"] == 14
    assert answer["usage"]["completion_tokens"] == 8


def test_the_best_of_several(client: TestClient, backend: FakeBackend) -> None:
    for text, logprob in (("a", -3.0), ("b", -1.0), ("c", -2.0)):
        backend.enqueue(text, text)
        backend.logprobs.append(logprob)
    answer = post(client, n=2, best_of=3)
    assert [(choice["index"], choice["text"]) for choice in answer["choices"]] == [(0, "bb"), (1, "cc")]
    assert all(choice["logprobs"] is None for choice in answer["choices"])
    assert answer["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize("stream", [False, True])
def test_n_on_chat(client: TestClient, backend: FakeBackend, stream: bool) -> None:
    for text in "abc":
        backend.enqueue(f"think {text}</think>", text, text)
    body = {"messages": USER, "n": 3, "seed": 5, "stream_options": {"include_usage": True}}
    url = "/v1/chat/completions"
    if stream:
        *chunks, last = events(client, url, **body)
        texts = ["", "", ""]
        thoughts = ["", "", ""]
        for chunk in chunks:
            (choice,) = chunk["choices"]
            texts[choice["index"]] += choice["delta"].get("content", "")
            thoughts[choice["index"]] += choice["delta"].get("reasoning_content", "")
        ends = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
        assert sorted(end["index"] for end in ends) == [0, 1, 2]
        roles = [chunk["choices"][0]["index"] for chunk in chunks if "role" in chunk["choices"][0]["delta"]]
        assert sorted(roles) == [0, 1, 2]
        usage = last["usage"]
    else:
        answer = post(client, url, **body)
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        thoughts = [choice["message"]["reasoning_content"] for choice in answer["choices"]]
        usage = answer["usage"]
    assert texts == ["aa", "bb", "cc"]
    assert thoughts == ["think a", "think b", "think c"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (7, 9, 16)
    assert len({request.sampling.seed for request in backend.requests}) == 3
    assert len({str(request.prompt) for request in backend.requests}) == 1
    assert client.post(url, json={"model": "tiny", "messages": USER, "n": 129}).status_code == 400


def test_one_failing_choice_ends_all(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue("a", "<hang>")
    backend.enqueue(ContextOverflow("too long"))
    body = {"model": "tiny", "messages": USER, "n": 2}
    assert client.post("/v1/chat/completions", json=body).status_code == 400
    assert backend.ended == 2


def test_echo(client: TestClient, backend: FakeBackend) -> None:
    backend.enqueue(" upon")
    backend.enqueue("!")
    answer = post(client, prompt=["Once", [72, 105]], echo=True)
    assert [choice["text"] for choice in answer["choices"]] == ["Once upon", "Hi!"]
    assert not any(request.prompt_logprobs for request in backend.requests)
    backend.enqueue()
    assert post(client, echo=True, max_tokens=0)["choices"][0]["text"] == "Once"


def test_logprobs_in_the_legacy_form(client: TestClient, backend: FakeBackend) -> None:
    for _ in range(3):
        backend.enqueue(" é", b"\xe4\xbd", b"\xa0", "X")
    answer = post(client, logprobs=2, stop=["X"])
    wanted = {
        "tokens": [" é", "bytes:\\xe4\\xbd", "bytes:\\xa0"],
        "token_logprobs": [-0.5, -0.5, -0.5],
        "top_logprobs": [{" é": -0.5}, {"bytes:\\xe4\\xbd": -0.5}, {"bytes:\\xa0": -0.5}],
        "text_offset": [0, 2, 2],
    }
    assert answer["choices"][0]["text"] == " é你"
    assert answer["choices"][0]["logprobs"] == wanted
    chunks = [chunk["choices"][0] for chunk in events(client, logprobs=2, stop=["X"])]
    pieces = [chunk["logprobs"] for chunk in chunks if chunk["logprobs"]]
    assert {key: [entry for piece in pieces for entry in piece[key]] for key in wanted} == wanted
    assert post(client, logprobs=0)["choices"][0]["logprobs"]["top_logprobs"] is None


@pytest.mark.parametrize("stream", [False, True])
def test_echo_with_logprobs(client: TestClient, backend: FakeBackend, stream: bool) -> None:
    backend.enqueue("d")
    body: dict[str, Any] = {"prompt": "abc", "echo": True, "logprobs": 1}
    if stream:
        pieces = [chunk["choices"][0]["logprobs"] for chunk in events(client, **body)]
        found = {key: [entry for piece in pieces if piece for entry in piece[key]] for key in pieces[0]}
    else:
        found = post(client, **body)["choices"][0]["logprobs"]
    assert found == {
        "tokens": ["a", "b", "c", "d"],
        "token_logprobs": [None, -0.25, -0.5, -0.5],
        "top_logprobs": [None, {"b": -0.25}, {"c": -0.5}, {"d": -0.5}],
        "text_offset": [0, 1, 2, 3],
    }


CALL = '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}\n<|action_end|>'
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.mark.parametrize(
    ("script", "content", "reasoning"),
    [
        (["a", "b"], [], ["a", "b"]),
        (["why", "</think>", "\n\n", "A", "B"], ["A", "B"], ["why"]),
        (["why</think>A"], [], ["why</think>A"]),
        (["t", "</think>", "t", "h"], ["t", "h"], ["t"]),
        (["x", "<", "/think", ">", "<", "y"], ["<", "y"], ["x"]),
        (["</think>", "k", *CALL.partition(">"), "k"], ["k", "k"], []),
        (["</think>", CALL[:9], CALL[9:-2], "no call"], [CALL[:9], CALL[9:-2], "no call"], []),
        (["</think>", b"\xe4\xbd", b"\xa0", b"\xff"], [b"\xe4\xbd", b"\xa0", b"\xff"], []),
    ],
)
def test_logprobs_belong_to_what_they_make(
    client: TestClient, backend: FakeBackend, script: list[Any], content: list[Any], reasoning: list[Any]
) -> None:
    """OpenAI's list is of the content; thoughts have one of their own; marks and calls are in neither."""
    body = {"messages": USER, "logprobs": True, "tools": [TOOL]}
    url = "/v1/chat/completions"

    def data(entries: list[Any]) -> list[bytes]:
        return [entry if isinstance(entry, bytes) else entry.encode() for entry in entries]

    for stream in (False, True):
        backend.enqueue(*script)
        found: dict[str, list[Any]] = {"content": [], "reasoning": []}
        if stream:
            choices = [chunk["choices"][0] for chunk in events(client, url, **body)]
        else:
            choices = post(client, url, **body)["choices"]
        for choice in choices:
            for part, entries in (choice.get("logprobs") or {}).items():
                found[part] += [bytes(entry["bytes"]) for entry in entries]
        assert found == {"content": data(content), "reasoning": data(reasoning)}
    # Ollama's list is of all tokens, in their order.
    backend.enqueue(*script)
    answer = client.post("/api/chat", json={"model": "tiny", **body, "stream": False}).json()
    assert [bytes(entry["bytes"]) for entry in answer["logprobs"]] == data(script)


def test_the_openai_client(live_url: str, backend: FakeBackend) -> None:
    with openai.OpenAI(base_url=f"{live_url}/v1", api_key="none", max_retries=0) as client:
        backend.enqueue(" b")
        backend.enqueue(" c")
        answer = client.completions.create(model="tiny", prompt="a", n=2, logprobs=1, echo=True, max_tokens=4)
        assert [choice.text for choice in answer.choices] == ["a b", "a c"]
        assert answer.choices[1].logprobs is not None
        assert answer.choices[1].logprobs.tokens == ["a", " c"]
        backend.enqueue("x", "y")
        chunks = list(client.completions.create(model="tiny", prompt=[1, 2], stream=True))
        assert "".join(chunk.choices[0].text for chunk in chunks) == "xy"
        with pytest.raises(openai.BadRequestError, match="best_of"):
            client.completions.create(model="tiny", prompt="a", n=2, best_of=1)
