"""The application: routes, error handlers, the guard around them, and the process that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
from collections.abc import AsyncIterator
from functools import partial

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware

from interns1_local import __version__
from interns1_local.config import Settings
from interns1_local.errors import InternS1Error
from interns1_local.runners.memory import has_room
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.runner import Runner
from interns1_local.runners.worker_process import SpareWorker
from interns1_local.server import metrics
from interns1_local.server.access_log import AccessLog, start_logging
from interns1_local.server.errors import EXCEPTION_HANDLERS
from interns1_local.server.response_memory import ResponseMemory
from interns1_local.server.routes import ROUTES
from interns1_local.server.security import Guard
from interns1_local.server.services import Services, resolver
from interns1_local.store.model_store import ModelStore

GRACE_SECONDS = 5
# Clients keep connections for the next question; uvicorn's 5 seconds would end them in the middle of a conversation.
KEEP_ALIVE_SECONDS = 600


def create_app(settings: Settings, store: ModelStore, scheduler: ModelScheduler) -> Starlette:
    """The application over a store and a scheduler, which it closes when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        # Before somebody asks for an answer; whoever asks waits for the rest of it.
        answering = asyncio.ensure_future(asyncio.to_thread(importlib.import_module, "interns1_local.generation"))
        if not settings.noprune:
            await asyncio.to_thread(store.prune)
        yield
        await scheduler.close()
        await answering

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
