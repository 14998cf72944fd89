"""Ollama's routes about models and the server itself: version, tags, show, ps, copy, delete."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local import __version__
from interns1_local.errors import BadRequest, InternS1Error, InvalidName, ModelNotFound
from interns1_local.runners.model_scheduler import LoadedModel
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.model_info import details, show, tag, timestamp
from interns1_local.server.services import Services, services_of
from interns1_local.store.name import NAME_RULE, ModelName

# Clients read this as Ollama's version: bare dotted numbers, and some refuse anything below 0.6.4.
COMPATIBLE_VERSION = "0.33.3"
_FOREVER = timedelta(days=292 * 365)


async def version(request: Request) -> Response:
    return GoJSONResponse({"version": COMPATIBLE_VERSION, "interns1_local": __version__})


async def status(request: Request) -> Response:
    """Ollama's answer, and ours beside it: the models on their way into memory, with the share that is there."""
    loading = [{"model": name, "progress": share} for name, share in services_of(request).scheduler.loading()]
    return GoJSONResponse({"cloud": {"disabled": True, "source": "env"}, "loading": loading})


async def tags(request: Request) -> Response:
    store = services_of(request).store
    return GoJSONResponse({"models": await asyncio.to_thread(lambda: [tag(model) for model in store.list()])})


async def show_model(request: Request) -> Response:
    services = services_of(request)
    fields = await read_fields(request, "ShowRequest")
    name = _parsed(model_name(fields))
    verbose, system = bool(fields.flag("verbose")), fields.text("system")
    answer = await asyncio.to_thread(lambda: show(services.store.resolve(name), verbose=verbose, system=system))
    if request.headers.get("user-agent", "").startswith("GitHubCopilotChat/"):
        answer["model_info"]["general.basename"] = model_name(fields)
    return GoJSONResponse(answer)


async def ps(request: Request) -> Response:
    services = services_of(request)
    loaded = services.scheduler.loaded()
    return GoJSONResponse({"models": await asyncio.to_thread(lambda: [_loaded(services, model) for model in loaded])})


async def copy(request: Request) -> Response:
    store = services_of(request).store
    fields = await read_fields(request, "CopyRequest")
    source, destination = fields.text("source"), fields.text("destination")
    for kind, text in (("source", source), ("destination", destination)):
        try:
            ModelName.parse(text)
        except InvalidName:
            raise BadRequest(f'{kind} "{text}" is invalid: {NAME_RULE}') from None
    if await asyncio.to_thread(store.find, source) is None:
        raise ModelNotFound(f'model "{source}" not found')
    await asyncio.to_thread(store.copy, source, destination)
    return Response(status_code=200)


async def delete(request: Request) -> Response:
    """Remove a model; a worker that holds it ends first, or after its last request."""
    services = services_of(request)
    text = model_name(await read_fields(request, "DeleteRequest"))
    try:
        found = await asyncio.to_thread(services.store.find, text)
    except InvalidName:
        raise BadRequest(f'name "{text}" is invalid: {NAME_RULE}') from None
    if found is None:
        raise await asyncio.to_thread(services.missing, text)
    if any(model.name == found.short for model in services.scheduler.loaded()):
        await services.scheduler.unload(found.short)
    await asyncio.to_thread(services.store.delete, found)
    return Response(status_code=200)


def model_name(fields: Fields) -> str:
    """`model`, or `name` as older clients write it."""
    return fields.text("model") or fields.text("name") or fields.required("model")


def _parsed(text: str) -> ModelName:
    return ModelName.parse(text)


def _loaded(services: Services, model: LoadedModel) -> dict[str, Any]:
    try:
        described = details(services.store.resolve(model.name))
    except InternS1Error:
        described = {}
    expires = model.expires_at or datetime.now(UTC) + _FOREVER
    return {
        "name": model.name,
        "model": model.name,
        "size": model.size,
        "digest": model.digest,
        "details": described,
        "expires_at": timestamp(expires),
        "size_vram": model.size_vram,
        # Ours, where RPC workers hold a part of size_vram.
        **({"size_rpc": model.size_remote} if model.size_remote else {}),
        "context_length": model.context_length,
    }
