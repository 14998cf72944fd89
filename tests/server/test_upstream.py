"""Upstream engines that refuse, break off or lie, behind the real server; and who may name one."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from interns1_local.config import load_settings
from interns1_local.errors import BadRequest
from interns1_local.generation.upstream_request import messages_json
from interns1_local.server.json_body import Fields
from interns1_local.server.ollama_messages import read_messages
from interns1_local.store import manifest as media
from interns1_local.store.manifest import Layer, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from interns1_local.store.upstream import is_allowed, is_upstream, parse_upstream, require_safe_scheme
from tests.loopback import serving
from tests.server.conftest import make_app
from tests.server.fake_runner import FakeBackend

HELLO = {"model": "far", "messages": [{"role": "user", "content": "hello"}]}


class FakeEngine:
    """What the engine answers next, and what it was asked."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.status = 200
        self.headers: dict[str, str] = {"content-type": "text/event-stream"}
        self.body: list[bytes] = []
        self.url = ""
        self.left = False
        self.pause = 0.0

    def says(self, *deltas: dict[str, Any], end: str = "stop", more: dict[str, Any] | None = None) -> None:
        chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
        last = {"choices": [{"index": 0, "delta": {}, "finish_reason": end, **(more or {})}]}
        usage = {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 3,
                 "prompt_tokens_details": {"cached_tokens": 2}}}  # fmt: skip
        self.body = [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in [*chunks, last, usage]]
        self.body.append(b"data: [DONE]\n\n")


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    fake = FakeEngine()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            data = json.dumps({"data": [{"id": "one", "max_model_len": 777}]}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            fake.requests.append((self.path, dict(self.headers.items()), asked))
            self.send_response(fake.status)
            for name, value in fake.headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                for piece in fake.body:
                    self.wfile.write(piece)
                    self.wfile.flush()
                    time.sleep(fake.pause)
            except OSError:
                fake.left = True

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Handler) as url:
        fake.url = f"{url}/v1"
        yield fake


@pytest.fixture
def ask(engine: FakeEngine, live_url: str) -> Callable[..., httpx.Response]:
    """`ask(path, body)` of a server with the model `far` that the fake engine computes."""
    made = httpx.post(f"{live_url}/api/create", json={"model": "far", "from": engine.url, "stream": False})
    assert made.json() == {"status": "success"}

    def post(path: str = "/api/chat", body: dict[str, Any] = HELLO, **more: Any) -> httpx.Response:
        return httpx.post(f"{live_url}{path}", json={**body, "stream": False, **more}, timeout=30)

    return post


def message(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["message"]


def test_the_only_model_is_found_and_its_context_known(ask: Callable[..., httpx.Response], live_url: str) -> None:
    shown = httpx.post(f"{live_url}/api/show", json={"model": "far"}).json()
    assert shown["remote_model"] == "one"
    ask()
    running = httpx.get(f"{live_url}/api/ps").json()["models"]
    assert [(model["name"], model["context_length"]) for model in running] == [("far:latest", 777)]


def test_what_is_asked_reaches_the_engine(ask: Callable[..., httpx.Response], engine: FakeEngine) -> None:
    engine.says({"role": "assistant"}, {"content": "hi"})
    answer = ask(
        options={"temperature": 0.5, "top_k": 7, "seed": 3, "num_predict": 9, "stop": ["x"], "repeat_penalty": 1.5},
        think=False,
        format={"type": "object"},
    )
    assert message(answer)["content"] == "hi"
    assert (answer.json()["prompt_eval_count"], answer.json()["prompt_eval_cached_count"]) == (5, 2)
    path, headers, asked = engine.requests[0]
    assert path == "/v1/chat/completions" and "authorization" not in {name.lower() for name in headers}
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True}}
    assert asked == {
        "model": "one",
        "messages": [{"role": "user", "content": "hello"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "temperature": 0.5,
        "top_k": 7,
        "seed": 3,
        "max_tokens": 9,
        "stop": ["x"],
        "repetition_penalty": 1.5,
        "response_format": schema,
        "enable_thinking": False,
        "chat_template_kwargs": {"enable_thinking": False},
    }


def test_nothing_is_said_about_what_nobody_chose(ask: Callable[..., httpx.Response], engine: FakeEngine) -> None:
    engine.says({"content": "hi"})
    ask()
    assert engine.requests[0][2].keys() == {"model", "messages", "stream", "stream_options"}


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
def test_thoughts_by_both_names(name: str, ask: Callable[..., httpx.Response], engine: FakeEngine) -> None:
    engine.says({name: "I "}, {name: "think"}, {"content": "42"})
    said = message(ask())
    assert (said["thinking"], said["content"]) == ("I think", "42")


def test_marks_that_the_engine_left_in_its_text(ask: Callable[..., httpx.Response], engine: FakeEngine) -> None:
    engine.says({"content": "<thi"}, {"content": "nk>I think</think>4"}, {"content": "2"})
    said = message(ask())
    assert (said["thinking"], said["content"]) == ("I think", "42")


def test_a_parser_reads_calls_and_a_thought_that_the_template_opened(
    ask: Callable[..., httpx.Response], engine: FakeEngine, live_url: str
) -> None:
    body = {"model": "raw", "from": "far", "parser": "interns1", "stream": False}
    assert httpx.post(f"{live_url}/api/create", json=body).status_code == 200
    call = '<|action_start|><|plugin|>\n{"name": "f", "parameters": {"a": 1}}\n<|action_end|>'
    engine.says({"content": "I think</think>So: "}, {"content": call[:20]}, {"content": call[20:]})
    said = message(ask(model="raw", tools=[{"type": "function", "function": {"name": "f"}}]))
    assert (said["thinking"], said["content"].strip()) == ("I think", "So:")
    assert [one["function"]["arguments"] for one in said["tool_calls"]] == [{"a": 1}]
    engine.says({"reasoning_content": "I think"}, {"content": "42"})
    assert message(ask(model="raw"))["content"] == "42"
    engine.says({"content": "42"})
    assert message(ask(model="raw", think=False))["content"] == "42"


def call_delta(index: int, arguments: Any = "", **function: Any) -> dict[str, Any]:
    return {"tool_calls": [{"index": index, "function": {**function, "arguments": arguments}, "id": f"c{index}"}]}


@pytest.mark.parametrize(
    ("deltas", "calls", "text"),
    [
        ([call_delta(0, "", name="f"), call_delta(0, '{"a"'), call_delta(0, ": 1}")], [("f", {"a": 1})], ""),
        ([call_delta(0, '{"a": 1}', name="f"), call_delta(1, None, name="g")], [("f", {"a": 1}), ("g", {})], ""),
        ([call_delta(0, {"a": 1}, name="f")], [("f", {"a": 1})], ""),
        ([call_delta(0, '{"a"', name="f"), {"content": "\n"}, call_delta(0, ": 1}")], [("f", {"a": 1})], ""),
        ([{"content": "so"}, call_delta(0, '{"a": ', name="f")], [], 'sof({"a": )'),
    ],
)
def test_calls_of_tools(
    deltas: list[Any], calls: list[Any], text: str, ask: Callable[..., httpx.Response], engine: FakeEngine
) -> None:
    engine.says(*deltas, end="tool_calls")
    said = message(ask(tools=[{"type": "function", "function": {"name": "f"}}]))
    assert [(one["function"]["name"], one["function"]["arguments"]) for one in said.get("tool_calls", [])] == calls
    assert said["content"] == text
    assert engine.requests[0][2]["tool_choice"] == "auto"


@pytest.mark.parametrize(
    ("status", "body", "ours", "says"),
    [
        (429, b'{"error": {"message": "slow down"}}', 503, "slow down"),
        (400, b'{"message": "temperature is bad", "object": "error"}', 400, "temperature is bad"),
        (400, b'{"error": {"message": "maximum context length is 5"}}', 400, "context length"),
        (401, b"{}", 502, "INTERNS1_UPSTREAM_KEY"),
        (404, b'{"detail": "Not Found"}', 400, "asks it for 'one'"),
        (500, b"<html>oops", 502, "status 500"),
        (302, b"", 502, "leads to http://elsewhere/"),
    ],
)
def test_refusals(
    status: int, body: bytes, ours: int, says: str, ask: Callable[..., httpx.Response], engine: FakeEngine
) -> None:
    engine.status, engine.body = status, [body]
    engine.headers = {"location": "http://elsewhere/"} if status == 302 else {}
    answer = ask()
    assert answer.status_code == ours and says in answer.json()["error"]
    assert ask("/v1/chat/completions").json()["error"]["message"] == answer.json()["error"]


def test_adapters_are_not_here(ask: Callable[..., httpx.Response], engine: FakeEngine) -> None:
    refused = ask(options={"adapter": "chem"})
    assert refused.status_code == 400 and "far:latest has no adapter 'chem'" in refused.json()["error"]
    assert engine.requests == []


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([b'data: {"choices": [{"delta": {"content": "ha'], "does not answer as OpenAI"),
        ([b"data: nonsense\n\n"], "does not answer as OpenAI"),
        ([b'data: {"choices": 7}\n\n'], "cannot be read"),
        ([b'data: {"choices": [{"delta": {"content": "half"}}]}\n\n'], "before it was complete"),
        ([b'data: {"error": {"message": "out of memory", "code": 500}}\n\n'], "out of memory"),
        ([b"data: " + b"x" * (17 << 20)], "more than 16 MB"),
        ([b"[1, 2]"], "before it was complete"),
    ],
)
def test_answers_that_break(
    body: list[bytes], says: str, ask: Callable[..., httpx.Response], engine: FakeEngine
) -> None:
    engine.body = body
    answer = ask()
    assert answer.status_code == 502 and says in answer.json()["error"]


def test_an_answer_that_is_no_stream(ask: Callable[..., httpx.Response], engine: FakeEngine) -> None:
    engine.headers = {"content-type": "application/json"}
    engine.body = [b'{"choices": [{"message": {"content": "whole"}, "finish_reason": "length"}]}']
    answer = ask()
    assert message(answer)["content"] == "whole" and answer.json()["done_reason"] == "length"


def test_a_client_that_leaves_ends_the_work_over_there(
    ask: Callable[..., httpx.Response], engine: FakeEngine, live_url: str
) -> None:
    engine.says(*[{"content": "word "}] * 400)
    engine.pause = 0.02
    with httpx.stream("POST", f"{live_url}/api/chat", json=HELLO) as answer:
        next(answer.iter_lines())
    deadline = time.monotonic() + 5
    while not engine.left and time.monotonic() < deadline:
        time.sleep(0.02)
    assert engine.left


def test_the_key_is_sent_and_stored_nowhere(ask: Callable[..., httpx.Response], engine: FakeEngine) -> None:
    environ = {"INTERNS1_UPSTREAM_KEY": "general", "INTERNS1_UPSTREAM_KEY_GPU_1_LAB": "special"}
    settings = load_settings(environ)
    assert settings.upstream_key("gpu-1.lab:8000") == "special" and settings.upstream_key("other") == "general"
    assert "special" not in repr(settings)
    with pytest.raises(BadRequest, match="INTERNS1_UPSTREAM_KEY"):
        parse_upstream("https://key@host/v1#m")


def pulled(store: ModelStore, url: str) -> None:
    """A model as a registry would have sent it: nobody here named its server."""
    layer = store.add_layer(media.UPSTREAM, json.dumps({"url": url, "model": "one"}).encode())
    config = store.add_layer(media.CONFIG_TYPE, b"{}")
    store.write(ModelName.parse("pulled"), Manifest(config, (Layer(layer.media_type, layer.digest, layer.size),)))


def test_a_model_of_others_is_not_believed(
    engine: FakeEngine, live_url: str, store: ModelStore, tmp_path: Path
) -> None:
    pulled(store, engine.url)
    body = {**HELLO, "model": "pulled", "stream": False}
    refused = httpx.post(f"{live_url}/api/chat", json=body)
    assert refused.status_code == 403 and f"INTERNS1_UPSTREAMS={engine.url}" in refused.json()["error"]
    assert not engine.requests
    # To write the same URL in a Modelfile of one's own is to name it.
    httpx.post(f"{live_url}/api/create", json={"model": "mine", "from": f"{engine.url}#one", "stream": False})
    engine.says({"content": "hi"})
    assert httpx.post(f"{live_url}/api/chat", json=body).status_code == 200


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("https://host/v1#internlm/Intern-S1", True),
        ("http://127.0.0.1:8000/v1", True),
        ("HTTPS://host/v1/", True),
        ("https://registry.example/library/model", False),
        ("internlm/model:tag", False),
        ("./file#1.gguf", False),
    ],
)
def test_which_sources_are_servers(source: str, found: bool) -> None:
    assert is_upstream(source) is found


@pytest.mark.parametrize("source", ["ftp://host/v1#m", "https:///v1#m", "https://h:x/v1#m", "https://h/v1?a=b#m"])
def test_urls_that_are_none(source: str) -> None:
    with pytest.raises(BadRequest):
        parse_upstream(source)


def test_prompts_do_not_travel_in_the_open() -> None:
    require_safe_scheme("http://127.0.0.1:8000/v1")
    require_safe_scheme("http://10.1.2.3/v1")
    require_safe_scheme("https://8.8.8.8/v1")
    with pytest.raises(BadRequest, match="use https"):
        require_safe_scheme("http://8.8.8.8/v1")


def test_the_allow_list() -> None:
    url = "https://host:8000/v1"
    for entry, inside in (("*", True), (url, True), ("https://host:8000", True), ("host:8000", True),
                          ("https://host:80", False), ("host", False), ("", False)):  # fmt: skip
        assert is_allowed(url, [entry]) is inside


def test_who_may_not_choose_cannot_make_such_a_model(client: Any) -> None:
    # Starlette's client comes from no address of this machine.
    refused = client.post("/api/create", json={"model": "far", "from": "https://host/v1#m"})
    assert refused.status_code == 403 and "INTERNS1_UPSTREAMS" in refused.json()["error"]


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("127.0.0.1", 200),
        ("::1", 200),
        # A server on [::] sees IPv4 like this.
        ("::ffff:127.0.0.1", 200),
        ("10.0.0.5", 403),
        ("::ffff:10.0.0.5", 403),
    ],
)
def test_this_machine_may_choose(store: ModelStore, backend: FakeBackend, address: str, status: int) -> None:
    app = make_app(store, backend)
    with TestClient(app, base_url="http://127.0.0.1:11434", client=(address, 50000)) as there:
        body = {"model": "far", "from": "https://host/v1#m", "stream": False}
        assert there.post("/api/create", json=body).status_code == status


def test_results_of_tools_find_their_calls() -> None:
    messages = read_messages(
        Fields(
            {
                "messages": [
                    {"role": "assistant", "tool_calls": [{"function": {"name": name}} for name in ("f", "g")]},
                    {"role": "tool", "tool_name": "g", "content": "2"},
                    {"role": "tool", "content": "1"},
                ]
            },
            "ChatRequest",
        )
    )
    written = messages_json(messages)
    ids = [call["id"] for call in written[0]["tool_calls"]]
    assert [entry.get("tool_call_id") for entry in written[1:]] == [ids[1], ids[0]]
    assert len(set(ids)) == 2
