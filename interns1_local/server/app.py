"""The application: routes, error handlers, the guard around them, and the process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from interns1_local import __version__
from interns1_local.config import Settings
from interns1_local.errors import InternS1Error
from interns1_local.runners.memory import has_room
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.runner import Runner
from interns1_local.runners.worker_process import SpareWorker
from interns1_local.server import (
    anthropic,
    embeddings,
    metrics,
    molecules,
    ollama_chat,
    ollama_create,
    ollama_generate,
    ollama_models,
    ollama_registry,
    ollama_tokens,
    openai_chat,
    openai_completions,
    openai_models,
    openai_responses,
    openapi,
    page,
    scores,
    tiles,
)
from interns1_local.server.access_log import AccessLog, start_logging
from interns1_local.server.errors import EXCEPTION_HANDLERS
from interns1_local.server.response_memory import ResponseMemory
from interns1_local.server.security import Guard
from interns1_local.server.services import Services, resolver
from interns1_local.store.model_store import ModelStore

GRACE_SECONDS = 5
# Clients keep connections for the next question; uvicorn's 5 seconds would end them in the middle of a conversation.
KEEP_ALIVE_SECONDS = 600

ROUTES = [
    Route("/", page.root),
    Route("/web/{path:path}", page.web_file),
    Route("/healthz", metrics.healthz),
    Route("/metrics", metrics.metrics),
    Route("/openapi.json", openapi.openapi),
    Route("/api/version", ollama_models.version),
    Route("/api/status", ollama_models.status),
    Route("/api/tags", ollama_models.tags),
    Route("/api/ps", ollama_models.ps),
    Route("/api/show", ollama_models.show_model, methods=["POST"]),
    Route("/api/copy", ollama_models.copy, methods=["POST"]),
    Route("/api/delete", ollama_models.delete, methods=["DELETE"]),
    Route("/api/chat", ollama_chat.chat, methods=["POST"]),
    Route("/api/generate", ollama_generate.generate, methods=["POST"]),
    Route("/api/create", ollama_create.create_model, methods=["POST"]),
    Route("/api/pull", ollama_registry.pull, methods=["POST"]),
    Route("/api/push", ollama_registry.push, methods=["POST"]),
    Route("/api/blobs/{digest}", ollama_create.blob, methods=["HEAD", "POST"]),
    Route("/api/tokenize", ollama_tokens.tokenize, methods=["POST"]),
    Route("/api/detokenize", ollama_tokens.detokenize, methods=["POST"]),
    Route("/api/tiles", tiles.tiles, methods=["POST"]),
    Route("/api/molecules", molecules.molecules, methods=["POST"]),
    Route("/api/embed", embeddings.ollama_embed, methods=["POST"]),
    Route("/api/embeddings", embeddings.ollama_embeddings, methods=["POST"]),
    Route("/api/score", scores.ollama_score, methods=["POST"]),
    Route("/v1/embeddings", embeddings.openai_embeddings, methods=["POST"]),
    Route("/v1/score", scores.openai_score, methods=["POST"]),
    Route("/v1/rerank", scores.rerank, methods=["POST"]),
    Route("/v1/responses", openai_responses.create, methods=["POST"]),
    Route("/v1/responses/{id}", openai_responses.retrieve),
    Route("/v1/responses/{id}", openai_responses.delete, methods=["DELETE"]),
    Route("/v1/messages", anthropic.messages, methods=["POST"]),
    Route("/v1/messages/count_tokens", anthropic.count_tokens, methods=["POST"]),
    Route("/v1/models", openai_models.list_models),
    Route("/v1/models/{name:path}", openai_models.get_model),
    Route("/v1/chat/completions", openai_chat.chat_completions, methods=["POST"]),
    Route("/v1/completions", openai_completions.completions, methods=["POST"]),
]


def create_app(settings: Settings, store: ModelStore, scheduler: ModelScheduler) -> Starlette:
    """The application over a store and a scheduler, which it closes when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if not settings.noprune:
            await asyncio.to_thread(store.prune)
        yield
        await scheduler.close()

    counters = metrics.Metrics(scheduler)
    scheduler.on_usage = counters.observe_usage
    app = Starlette(
        routes=ROUTES,
        exception_handlers=EXCEPTION_HANDLERS,
        middleware=[Middleware(AccessLog, metrics=counters), Middleware(Guard, settings=settings)],
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.services = Services(settings, store, scheduler)
    app.state.metrics = counters
    app.state.responses = ResponseMemory()
    return app


def serve(settings: Settings, spare: SpareWorker) -> None:
    """Serve until told to stop; requests in flight have a few seconds to end. Models are loaded by `spare`."""
    start_logging(settings)
    listener = _listen(settings)
    store = ModelStore(settings.models_dir)
    start_runner = partial(Runner.start, take_worker=spare.take)
    scheduler = ModelScheduler(settings, resolver(store), start_runner=start_runner, has_room=has_room)
    if settings.spare_worker:
        scheduler.on_empty = spare.prepare
    config = uvicorn.Config(
        create_app(settings, store, scheduler),
        log_level="info" if settings.debug else "warning",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        server_header=False,
    )
    print(f"interns1_local {__version__} listens on {settings.base_url} (models: {settings.models_dir})", flush=True)
    with contextlib.suppress(KeyboardInterrupt), listener:
        uvicorn.Server(config).run(sockets=[listener])


def _listen(settings: Settings) -> socket.socket:
    """Bound before anything else is started, so that a taken port is a plain sentence."""
    try:
        found = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with contextlib.ExitStack() as unless_bound:
            listener = unless_bound.enter_context(socket.socket(family, kind, protocol))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            unless_bound.pop_all()
        return listener
    except OSError as error:
        reason = error.strerror or str(error)
        raise InternS1Error(
            f"cannot listen on {settings.host}:{settings.port}: {reason.lower()}; "
            "stop the program that holds it, or choose another address with INTERNS1_HOST"
        ) from None
