"""The error table: status and text of everything that can be asked wrongly."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from starlette.testclient import TestClient

from interns1_local.errors import Busy, ContextOverflow
from interns1_local.runners.model_scheduler import BUSY
from interns1_local.server.image_urls import OFF
from tests.server.fake_runner import FakeBackend, write_gguf

USER = [{"role": "user", "content": "Hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
CHAT, GENERATE = "/api/chat", "/api/generate"
DIGEST = "sha256:" + "ab" * 32

TABLE: list[tuple[str, str, Any, int, str]] = [
    ("POST", CHAT, b"", 400, "missing request body"),
    ("POST", CHAT, b"x", 400, "invalid character 'x' looking for beginning of value"),
    ("POST", CHAT, b'{"model":', 400, "unexpected EOF"),
    ("POST", CHAT, b'{"model": "a', 400, "unexpected EOF"),
    ("POST", CHAT, b"{model: 1}", 400, "invalid character 'm' looking for beginning of object key string"),
    ("POST", CHAT, b'{"model" 1}', 400, "invalid character '1' after object key"),
    ("POST", CHAT, b'{"model": "a" "b"}', 400, "invalid character '\"' after object key:value pair"),
    ("POST", CHAT, b'{"a": [1 2]}', 400, "invalid character '2' after array element"),
    ("POST", CHAT, b'{"a": NaN}', 400, "invalid character 'N' looking for beginning of value"),
    ("POST", CHAT, b"[]", 400, "json: cannot unmarshal array into Go value of type api.ChatRequest"),
    ("POST", CHAT, {"model": "tiny", "messages": "x"}, 400,
     "json: cannot unmarshal string into Go struct field ChatRequest.messages of type []api.Message"),
    ("POST", CHAT, {"model": "tiny", "messages": [{"role": "user", "content": [1]}]}, 400,
     "json: cannot unmarshal array into Go struct field ChatRequest.messages.content of type string"),
    ("POST", CHAT, {"model": 1}, 400,
     "json: cannot unmarshal number into Go struct field ChatRequest.model of type string"),
    ("POST", CHAT, {"messages": USER}, 400, "model is required"),
    ("POST", CHAT, {"model": "", "messages": USER}, 400, "model is required"),
    ("POST", CHAT, {"model": "a b", "messages": USER}, 400, "invalid model name"),
    ("POST", CHAT, {"model": "..", "messages": USER}, 400, "invalid model name"),
    ("POST", CHAT, {"model": "nope", "messages": USER}, 404, "model 'nope' not found"),
    ("POST", CHAT, {"model": "nope", "top_logprobs": 21}, 400, "top_logprobs must be between 0 and 20"),
    ("POST", CHAT, {"model": "plain", "messages": USER, "think": True}, 400, '"plain" does not support thinking'),
    ("POST", CHAT, {"model": "tiny", "messages": USER, "think": "x"}, 400,
     'invalid think value: "x" (must be "high", "medium", "low", "max", true, or false)'),
    ("POST", CHAT, {"model": "plain", "messages": USER, "tools": TOOLS}, 400,
     "registry.ollama.ai/library/plain:latest does not support tools"),
    ("POST", CHAT, {"model": "tiny", "messages": USER, "options": {"num_ctx": "x"}}, 500,
     'option "num_ctx" must be of type integer'),
    ("POST", CHAT, {"model": "tiny", "messages": USER, "format": "xml"}, 500,
     'invalid format: "xml"; expected "json" or a valid JSON Schema object'),
    ("POST", CHAT, {"model": "tiny", "messages": USER, "grammar": {"type": "regex", "value": ""}}, 400,
     "the grammar is empty"),
    ("POST", CHAT, {"model": "tiny", "messages": USER, "keep_alive": "3600"}, 400,
     'time: missing unit in duration "3600"'),
    ("POST", CHAT, {"model": "tiny", "messages": [{"role": "user", "images": ["data:image/png;base64,AA"]}]}, 400,
     "illegal base64 data at input byte 4"),
    ("POST", CHAT, {"model": "tiny", "messages": [{"role": "user", "images": ["AAA"]}]}, 400,
     "illegal base64 data at input byte 0"),
    ("POST", CHAT,
     {"model": "tiny", "messages": [{"role": "user", "images": [base64.b64encode(b"junk").decode()]}]}, 400,
     "the image is not a PNG, JPEG, WebP, GIF, BMP or TIFF file"),
    ("POST", CHAT, {"model": "plain", "messages": [{"role": "user", "images": ["AAAA"]}]}, 400,
     "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"),
    ("POST", GENERATE, {"model": "", "prompt": "x"}, 404, "model '' not found"),
    ("POST", GENERATE, {"model": "nope", "prompt": "x"}, 404, "model 'nope' not found"),
    ("POST", GENERATE, {"model": "tiny", "prompt": "x", "raw": True, "system": "s"}, 400,
     "raw mode does not support template, system, or context"),
    ("POST", GENERATE, {"model": "tiny", "prompt": "x", "suffix": "y"}, 400,
     "registry.ollama.ai/library/tiny:latest does not support insert"),
    ("POST", GENERATE, {"model": "tiny", "prompt": "x", "context": ["a"]}, 400,
     "json: cannot unmarshal string into Go struct field GenerateRequest.context of type int"),
    ("POST", GENERATE, {"model": "tiny", "prompt": "x", "template": "{{ json .Tools }}"}, 400,
     'template is a Go template with "json" (line 1), which is not supported; write it in Jinja'),
    ("POST", "/api/show", {"model": "nope"}, 404, "model 'nope:latest' not found"),
    ("POST", "/api/show", {}, 400, "model is required"),
    ("POST", "/api/show", {"model": "a b"}, 400, "invalid model name"),
    ("DELETE", "/api/delete", {"model": "nope"}, 404, "model 'nope' not found"),
    ("DELETE", "/api/delete", {"model": "a b"}, 400, 'name "a b" is invalid'),
    ("POST", "/api/copy", {"source": "nope", "destination": "x"}, 404, 'model "nope" not found'),
    ("POST", "/api/copy", {"source": "a b", "destination": "x"}, 400, 'source "a b" is invalid'),
    ("POST", "/api/copy", {"source": "tiny", "destination": "../x"}, 400, 'destination "../x" is invalid'),
    ("POST", "/api/pull", {"model": ""}, 400, "invalid model name"),
    ("POST", "/api/create", {"model": "new"}, 400, "neither 'from' or 'files' was specified"),
    ("POST", "/api/create", {"model": "new", "from": "nope"}, 404, "model 'nope' not found"),
    ("POST", "/api/create", {"model": "a b", "from": "tiny"}, 400, "invalid model name"),
    ("POST", "/api/create", {"model": "new", "files": {"a.gguf": "sha256:12"}}, 400, "invalid digest format"),
    ("POST", "/api/create", {"model": "new", "files": {"a.gguf": DIGEST}}, 400,
     f'blob "{DIGEST}" of file "a.gguf" is not here; upload it with POST /api/blobs/{DIGEST}'),
    ("POST", "/api/create", {"model": "new", "from": "tiny", "quantize": "Q9_X", "stream": False}, 500,
     "unsupported quantization type Q9_X - supported types are"),
    ("POST", "/api/create", {"model": "new", "from": "tiny", "parameters": {"frob": 1}}, 400,
     "unknown parameter 'frob'"),
    ("POST", "/api/create", {"model": "new", "from": "tiny", "template": "{% if %}"}, 400, "template error: "),
    ("POST", "/api/create", {"model": "new", "from": "tiny", "adapters": {"a.gguf": DIGEST}}, 400,
     f'blob "{DIGEST}" of file "a.gguf" is not here'),
    ("POST", "/api/create", {"model": "new", "from": "tiny", "draft_files": {"a": DIGEST}}, 400,
     f'blob "{DIGEST}" of file "a" is not here'),
    ("POST", "/api/blobs/sha256:12", b"x", 400, "invalid digest format"),
    ("POST", "/api/push", {"model": "nope", "stream": False}, 404, "model 'nope' not found"),
    ("POST", "/api/push", {"model": "http://127.0.0.1:1/a/b", "stream": False}, 404,
     "model 'http://127.0.0.1:1/a/b' not found"),
    ("POST", "/api/pull", {"model": "http://127.0.0.1:1/a/b", "stream": False}, 400, "insecure protocol http"),
    ("POST", "/api/tokenize", {"text": "x"}, 400, "model is required"),
]  # fmt: skip


@pytest.mark.parametrize(("method", "path", "body", "status", "text"), TABLE)
def test_table(client: TestClient, method: str, path: str, body: Any, status: int, text: str) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = client.request(method, path, **content)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert response.json()["error"].startswith(text)


@pytest.mark.parametrize(
    ("method", "path", "status", "text"),
    [
        ("GET", "/nope", 404, "404 page not found"),
        ("GET", "/api/tags/", 404, "404 page not found"),
        ("GET", CHAT, 405, "405 method not allowed"),
        ("DELETE", "/api/tags", 405, "405 method not allowed"),
        ("GET", "/api/blobs/../../etc/passwd", 404, "404 page not found"),
    ],
)
def test_routes(client: TestClient, method: str, path: str, status: int, text: str) -> None:
    response = client.request(method, path)
    assert response.status_code == status
    assert response.text.startswith(f"{text}: ") and "/openapi.json" in response.text
    assert response.headers["content-type"].startswith("text/plain")


OPENAI_TABLE: list[tuple[Any, int, str, str]] = [
    ({"model": "nope", "messages": USER}, 404, "not_found_error", "model 'nope' not found"),
    ({"messages": USER}, 400, "invalid_request_error", "model is required"),
    ({"model": "tiny", "messages": []}, 400, "invalid_request_error", "[] is too short - 'messages'"),
    (b"{", 400, "invalid_request_error", "unexpected EOF"),
    ({"model": "tiny", "messages": USER, "response_format": {"type": "json_schema"}}, 400, "invalid_request_error",
     "a format of type json_schema needs a schema"),
    ({"model": "tiny", "messages": USER, "response_format": {"type": "xml"}}, 400, "invalid_request_error",
     'a format of type "xml" is not known'),
    ({"model": "tiny", "messages": USER, "tool_choice": "required"}, 400, "invalid_request_error",
     "tool_choice asks for a call, but the request has no tools"),
    ({"model": "tiny", "messages": USER, "tools": TOOLS, "tool_choice": "maybe"}, 400, "invalid_request_error",
     'invalid tool_choice "maybe"'),
    ({"model": "tiny", "messages": USER, "reasoning_effort": "huge"}, 400, "invalid_request_error",
     'invalid reasoning value: "huge"'),
    ({"model": "plain", "messages": USER, "reasoning_effort": "high"}, 400, "invalid_request_error",
     '"plain" does not support thinking'),
    ({"model": "tiny", "messages": USER, "temperature": "hot"}, 500, "api_error",
     'option "temperature" must be of type float32'),
    ({"model": "tiny", "messages": [{"role": "user"}]}, 400, "invalid_request_error", "invalid message content type"),
    ({"model": "tiny", "messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}]}, 400,
     "invalid_request_error", "invalid tool call arguments"),
    *(({"model": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": url}]}]}, 400,
       "invalid_request_error", text)
      for url, text in (
          ("https://x/y.png", OFF),
          ({"url": "file:///etc/passwd"}, "invalid image input"),
          ("data:image/svg+xml;base64,AAAA", "invalid image input"),
          ("data:image/png;base64,A", "invalid image input"),
      )),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "kind", "text"), OPENAI_TABLE)
def test_openai(client: TestClient, body: Any, status: int, kind: str, text: str) -> None:
    content = {"content": body} if isinstance(body, bytes) else {"json": body}
    response = client.post("/v1/chat/completions", **content)
    error = response.json()["error"]
    assert (response.status_code, error["type"]) == (status, kind)
    assert error["message"].startswith(text)
    assert (error["param"], error["code"]) == (None, None)


OVERFLOW = "request (9 tokens) exceeds the available context size (8 tokens), try increasing it"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (Busy(BUSY), 503, "server busy, please try again.  maximum pending requests exceeded"),
        (ContextOverflow(OVERFLOW), 400, OVERFLOW + " (option num_ctx), or shorten the prompt"),
    ],
)
def test_errors_of_the_runner(
    client: TestClient, backend: FakeBackend, error: Exception, status: int, text: str
) -> None:
    backend.enqueue(error)
    response = client.post(CHAT, json={"model": "tiny", "messages": USER, "truncate": False})
    assert (response.status_code, response.json()) == (status, {"error": text})


def test_a_file_that_is_no_model(client: TestClient, tmp_path: Any) -> None:
    client.post("/api/blobs/sha256:" + _sha(b"junk file"), content=b"junk file")
    files = {"a.gguf": "sha256:" + _sha(b"junk file")}
    response = client.post("/api/create", json={"model": "new", "files": files, "stream": False})
    assert response.status_code == 400
    assert response.json()["error"].startswith("supplied file was not in GGUF format: a.gguf")
    cut = write_gguf(tmp_path / "cut.gguf").read_bytes()[:-64]
    client.post("/api/blobs/sha256:" + _sha(cut), content=cut)
    response = client.post("/api/create", json={"model": "new", "files": {"a": "sha256:" + _sha(cut)}, "stream": False})
    assert response.status_code == 400
    assert "outside the file" in response.json()["error"]
    assert client.get("/api/tags").json()["models"][0]["name"] != "new:latest"


def _sha(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()
