"""Ollama's routes that make models: blobs and create."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.addresses import is_loopback
from interns1_local.chat.go_template import is_go_template, not_understood
from interns1_local.chat.template import ChatTemplate
from interns1_local.errors import BadRequest, Forbidden, InternS1Error, NotFound
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.ollama_chat import ndjson
from interns1_local.server.services import Services, services_of
from interns1_local.server.streaming import NDJSON, Json, ollama_line_error, stream, until_disconnect, worker_events
from interns1_local.store.adapter_names import adapter_groups
from interns1_local.store.blobs import check_digest
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.name import ModelName
from interns1_local.store.options import IGNORED_OPTIONS, OPTION_TYPES, check_options, unknown_option
from interns1_local.store.upstream import (
    Upstream,
    is_allowed,
    is_upstream,
    parse_upstream,
    require_safe_scheme,
    with_model,
)

_WRITE_BYTES = 4 << 20
_HAS_TWIN = "template is a Go template: it is translated to Jinja"
_HAS_NO_TWIN = (
    "warning: template is a Go template with {reason}, which is not supported: the model's own template, "
    "if it has one, is used instead; write TEMPLATE in Jinja to change that"
)

Work = Callable[[Callable[[Json], None]], object]


async def blob(request: Request) -> Response:
    """HEAD: is it here? POST: raw bytes to the disk as they come, whatever the Content-Type says."""
    blobs = services_of(request).store.blobs
    digest = check_digest(request.path_params["digest"])
    if blobs.has(digest):
        return Response(status_code=200)
    if request.method == "HEAD":
        raise NotFound("blob not found")
    with blobs.writer() as writer:
        waiting = bytearray()
        async for chunk in request.stream():
            waiting += chunk
            if len(waiting) >= _WRITE_BYTES:
                await asyncio.to_thread(writer.write, bytes(waiting))
                waiting.clear()
        writer.write(bytes(waiting))
        await asyncio.to_thread(writer.commit, digest)
    return Response(status_code=201)


async def create_model(request: Request) -> Response:
    """A model from uploaded files or from a stored model."""
    services = services_of(request)
    fields = await read_fields(request, "CreateRequest")
    name = ModelName.parse(fields.text("model") or fields.text("name"))
    plan = await _plan(services, fields, request)

    def work(report: Callable[[Json], None]) -> None:
        if plan.template and is_go_template(plan.template):
            reason = not_understood(plan.template)
            report({"status": _HAS_NO_TWIN.format(reason=reason) if reason else _HAS_TWIN})
        create(services.store, name, plan, report)

    return await statuses(request, fields, work)


async def statuses(request: Request, fields: Fields, work: Work) -> Response:
    """What `work` reports: a line each, or the last one alone when no stream is wanted."""
    events = worker_events(work)
    if fields.flag("stream") is not False:
        return await stream(request, ndjson(events), NDJSON, ollama_line_error)
    return GoJSONResponse(await until_disconnect(request, _last(events)))


async def _last(events: AsyncGenerator[Json]) -> Json:
    last: Json = {}
    async with aclosing(events):
        async for event in events:
            last = event
    return last


async def _plan(services: Services, fields: Fields, request: Request) -> ModelPlan:
    source, files = fields.text("from"), fields.object("files", "map[string]string") or {}
    if not source and not files:
        raise BadRequest("neither 'from' or 'files' was specified")
    upstream = await _upstream(services, source, request) if is_upstream(source) and not files else None
    has_base = bool(source) and not files and upstream is None
    base: StoredModel | None = await services.model(source) if has_base else None
    template = fields.text("template") or None
    if template and not is_go_template(template):
        _check_template(template)
    return ModelPlan(
        base=base,
        upstream=upstream,
        files=_files(services.store, files, fields),
        adapters=adapter_groups(
            _files(services.store, fields.object("adapters", "map[string]string") or {}, fields, "adapters")
        ),
        draft=await _draft(services, fields),
        quantize=fields.text("quantize") or fields.text("quantization") or None,
        template=template,
        system=fields.text("system") or None,
        licenses=_licenses(fields),
        parameters=_parameters(fields.object("parameters") or {}),
        messages=tuple(_message(message) for message in fields.children("messages", "api.Message") or []),
        config={key: text for key in ("renderer", "parser", "requires") if (text := fields.text(key))},
    )


async def _draft(services: Services, fields: Fields) -> dict[str, Path]:
    """An uploaded draft model; ours: `draft` names a stored one."""
    files = _files(services.store, fields.object("draft_files", "map[string]string") or {}, fields, "draft_files")
    name = fields.text("draft")
    return {name: (await services.model(name)).model_path} if name and not files else files


async def _upstream(services: Services, source: str, request: Request) -> Upstream:
    """The server that FROM names. Who may reach this one from elsewhere does not choose whom it talks to."""
    settings, upstream = services.settings, parse_upstream(source)
    client = request.client.host if request.client else ""
    if not (is_loopback(client) or settings.api_key or is_allowed(upstream.url, settings.upstreams)):
        raise Forbidden(
            f"a model that {upstream.url} computes is made on the machine of this server, or by who has its API key; "
            "INTERNS1_UPSTREAMS lists what others may name"
        )
    await asyncio.to_thread(require_safe_scheme, upstream.url)
    return await asyncio.to_thread(with_model, upstream, settings.upstream_key(upstream.host))


def _files(store: ModelStore, files: dict[str, Any], fields: Fields, key: str = "files") -> dict[str, Path]:
    found = {}
    for name, digest in files.items():
        if not isinstance(digest, str):
            fields.refuse(digest, key, "string")
        if not store.blobs.has(digest):
            raise BadRequest(f'blob "{digest}" of file "{name}" is not here; upload it with POST /api/blobs/{digest}')
        found[name] = store.blobs.path(digest)
    return found


def _licenses(fields: Fields) -> tuple[str, ...]:
    value = fields.get("license")
    if not value:
        return ()
    return (value,) if isinstance(value, str) else tuple(fields.texts("license"))


def _parameters(parameters: dict[str, Any]) -> dict[str, Any]:
    unknown = [name for name in parameters if name not in OPTION_TYPES and name not in IGNORED_OPTIONS]
    if unknown:
        raise unknown_option(unknown[0])
    return check_options(parameters)


def _message(fields: Fields) -> dict[str, str]:
    role = fields.text("role").lower()
    if role not in ("system", "user", "assistant"):
        raise BadRequest('message role must be one of "system", "user", or "assistant"')
    return {"role": role, "content": fields.text("content")}


def _check_template(template: str) -> None:
    try:
        ChatTemplate(template)
    except InternS1Error as error:
        raise BadRequest(f"template error: {error.message}") from None
