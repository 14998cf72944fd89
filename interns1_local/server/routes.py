"""The table of routes. What answers one is imported at its first request: a server is ready before it has all."""

from __future__ import annotations

import asyncio
import importlib
import sys

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def _route(path: str, name: str, *methods: str) -> Route:
    """`path` is answered by the function `name` (module.function) of this package."""
    module, _, function = name.partition(".")
    module = f"{__package__}.{module}"

    async def endpoint(request: Request) -> Response:
        if module not in sys.modules:
            # Other answers go on meanwhile.
            await asyncio.to_thread(importlib.import_module, module)
        response: Response = await getattr(importlib.import_module(module), function)(request)
        return response

    return Route(path, endpoint, methods=list(methods) or None, name=name)


ROUTES = [
    _route("/", "page.root"),
    _route("/web/{path:path}", "page.web_file"),
    _route("/healthz", "metrics.healthz"),
    _route("/metrics", "metrics.metrics"),
    _route("/openapi.json", "openapi.openapi"),
    _route("/api/version", "ollama_models.version"),
    _route("/api/status", "ollama_models.status"),
    _route("/api/tags", "ollama_models.tags"),
    _route("/api/ps", "ollama_models.ps"),
    _route("/api/show", "ollama_models.show_model", "POST"),
    _route("/api/copy", "ollama_models.copy", "POST"),
    _route("/api/delete", "ollama_models.delete", "DELETE"),
    _route("/api/chat", "ollama_chat.chat", "POST"),
    _route("/api/generate", "ollama_generate.generate", "POST"),
    _route("/api/create", "ollama_create.create_model", "POST"),
    _route("/api/pull", "ollama_registry.pull", "POST"),
    _route("/api/push", "ollama_registry.push", "POST"),
    _route("/api/blobs/{digest}", "ollama_create.blob", "HEAD", "POST"),
    _route("/api/tokenize", "ollama_tokens.tokenize", "POST"),
    _route("/api/detokenize", "ollama_tokens.detokenize", "POST"),
    _route("/api/tiles", "tiles.tiles", "POST"),
    _route("/api/molecules", "molecules.molecules", "POST"),
    _route("/api/embed", "embeddings.ollama_embed", "POST"),
    _route("/api/embeddings", "embeddings.ollama_embeddings", "POST"),
    _route("/api/score", "scores.ollama_score", "POST"),
    _route("/v1/embeddings", "embeddings.openai_embeddings", "POST"),
    _route("/v1/score", "scores.openai_score", "POST"),
    _route("/v1/rerank", "scores.rerank", "POST"),
    _route("/v1/responses", "openai_responses.create", "POST"),
    _route("/v1/responses/{id}", "openai_responses.retrieve"),
    _route("/v1/responses/{id}", "openai_responses.delete", "DELETE"),
    _route("/v1/messages", "anthropic.messages", "POST"),
    _route("/v1/messages/count_tokens", "anthropic.count_tokens", "POST"),
    _route("/v1/models", "openai_models.list_models"),
    _route("/v1/models/{name:path}", "openai_models.get_model"),
    _route("/v1/chat/completions", "openai_chat.chat_completions", "POST"),
    _route("/v1/completions", "openai_completions.completions", "POST"),
]
