"""A small Ollama-style server with scripted answers: what the commands see of the real one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

DIGEST = "0123456789abcdef" * 4
FIGURES = {
    "done": True,
    "done_reason": "stop",
    "total_duration": 1_500_000_000,
    "load_duration": 12_300_000,
    "prompt_eval_count": 10,
    "prompt_eval_duration": 100_000_000,
    "eval_count": 20,
    "eval_duration": 500_000_000,
}


def chunks(*messages: dict[str, Any], **final: Any) -> list[dict[str, Any]]:
    """The chunks of a chat answer."""
    parts = [{"message": {"role": "assistant", "content": "", **message}, "done": False} for message in messages]
    return [*parts, {"message": {"role": "assistant", "content": ""}, **FIGURES, **final}]


class FakeServer:
    """State that tests set (`models`, `answers`) and look at (`requests`, `blobs`)."""

    def __init__(self) -> None:
        self.base_url = ""
        self.reset()

    def reset(self) -> None:
        """As new, with no model."""
        self.models: dict[str, dict[str, Any]] = {}
        self.loaded: list[dict[str, Any]] = []
        self.answers: list[list[dict[str, Any]]] = []
        self.statuses: list[dict[str, Any]] = [{"status": "success"}]
        self.tokens: list[dict[str, Any]] = []
        self.stock_tokens: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.endless = False
        self.left = threading.Event()

    def add_model(self, name: str, **facts: Any) -> None:
        self.models[name] = {
            "capabilities": ["completion", "thinking", "tools", "vision"],
            "details": {"family": "qwen3moe", "parameter_size": "6.2M", "quantization_level": "Q8_0"},
            "model_info": {
                "general.architecture": "qwen3moe",
                "qwen3moe.context_length": 4096,
                "qwen3moe.embedding_length": 256,
            },
            "modelfile": f"FROM {name}\n",
            "parameters": 'temperature                    0.7\nstop                           "<|im_end|>"',
            "template": "{{ messages }}",
            "license": "Apache License\nVersion 2.0\nJanuary 2004",
            **facts,
        }

    def asked(self, path: str) -> list[dict[str, Any]]:
        """The bodies that came to `path`."""
        return [body for route, body in self.requests if route == path]

    def app(self) -> Starlette:
        post = {
            "/api/show": self._show,
            "/api/chat": self._chat,
            "/api/generate": self._generate,
            "/api/pull": self._pull,
            "/api/create": self._create,
            "/api/copy": self._copy,
            "/api/tokenize": self._tokenize,
            "/api/embed": self._embed,
        }
        return Starlette(
            routes=[
                Route("/api/version", lambda _: JSONResponse({"version": "0.33.0"})),
                Route("/api/tags", self._tags),
                Route("/api/ps", lambda _: JSONResponse({"models": self.loaded})),
                Route("/api/delete", self._delete, methods=["DELETE"]),
                Route("/api/blobs/{digest}", self._blob, methods=["HEAD", "POST"]),
                *(Route(path, handler, methods=["POST"]) for path, handler in post.items()),
            ]
        )

    async def _body(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(await request.body())
        self.requests.append((request.url.path, body))
        return body

    def _missing(self, body: dict[str, Any]) -> Response | None:
        name = body.get("model", "")
        return None if name in self.models else JSONResponse({"error": f"model '{name}' not found"}, 404)

    async def _show(self, request: Request) -> Response:
        body = await self._body(request)
        return self._missing(body) or JSONResponse(self.models[body["model"]])

    async def _chat(self, request: Request) -> Response:
        body = await self._body(request)
        if missing := self._missing(body):
            return missing
        if not body["messages"]:
            return JSONResponse({"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "load"})
        if self.endless:
            return StreamingResponse(self._endless(), media_type="application/x-ndjson")
        answer = self.answers.pop(0)
        if answer and "status" in answer[0]:
            return JSONResponse({"error": answer[0]["error"]}, answer[0]["status"])
        return _ndjson(answer)

    async def _endless(self) -> AsyncIterator[str]:
        try:
            for _ in range(3000):
                yield json.dumps({"message": {"role": "assistant", "content": "on and on "}, "done": False}) + "\n"
                await asyncio.sleep(0.01)
        finally:
            self.left.set()

    async def _generate(self, request: Request) -> Response:
        body = await self._body(request)
        return self._missing(body) or JSONResponse({"response": "", "done": True, "done_reason": "unload"})

    async def _pull(self, request: Request) -> Response:
        body = await self._body(request)
        if not any("error" in status for status in self.statuses):
            self.add_model(body["model"])
        return _ndjson(self.statuses)

    async def _create(self, request: Request) -> Response:
        body = await self._body(request)
        self.add_model(body["model"])
        return _ndjson(self.statuses) if body.get("stream") else JSONResponse({"status": "success"})

    async def _copy(self, request: Request) -> Response:
        body = await self._body(request)
        if body["source"] not in self.models:
            return JSONResponse({"error": f'model "{body["source"]}" not found'}, 404)
        return Response()

    async def _delete(self, request: Request) -> Response:
        body = await self._body(request)
        if missing := self._missing(body):
            return missing
        del self.models[body["model"]]
        return Response()

    async def _tokenize(self, request: Request) -> Response:
        body = await self._body(request)
        tokens = self.stock_tokens if body.get("stock") else self.tokens
        answer = {"model": body["model"], "tokens": [token["id"] for token in tokens]}
        if body.get("details"):
            answer |= {"content": body["content"], "details": tokens}
        return self._missing(body) or JSONResponse(answer)

    async def _embed(self, request: Request) -> Response:
        await self._body(request)
        return JSONResponse({"embeddings": [[0.6, 0.8]]})

    async def _tags(self, request: Request) -> Response:
        listed = [
            {"name": f"{name}:latest", "digest": DIGEST, "size": 9_900_000, "modified_at": "2020-01-01T00:00:00Z"}
            for name in self.models
        ]
        return JSONResponse({"models": listed})

    async def _blob(self, request: Request) -> Response:
        digest = request.path_params["digest"]
        if request.method == "HEAD":
            return PlainTextResponse("", 200 if digest in self.blobs else 404)
        data = await request.body()
        if digest != f"sha256:{hashlib.sha256(data).hexdigest()}":
            return JSONResponse({"error": "digest mismatch"}, 400)
        self.blobs[digest] = data
        return Response(status_code=201)


@contextmanager
def running(fake: FakeServer) -> Iterator[FakeServer]:
    """`fake` on a free loopback port, in a thread."""
    server = uvicorn.Server(uvicorn.Config(fake.app(), host="127.0.0.1", port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.005)
    fake.base_url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield fake
    finally:
        server.should_exit = True
        thread.join()


def _ndjson(objects: Iterable[dict[str, Any]]) -> Response:
    return StreamingResponse(_lines(objects), media_type="application/x-ndjson")


def _lines(objects: Iterable[dict[str, Any]]) -> Iterator[str]:
    """`{"cut": true}` ends the connection, as a server that dies does."""
    for each in objects:
        if each.get("cut"):
            raise ConnectionAbortedError
        yield json.dumps(each, ensure_ascii=False) + "\n"
