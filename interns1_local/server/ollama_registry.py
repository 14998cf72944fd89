"""POST /api/pull and /api/push: models from registries and hubs, and to registries."""

from __future__ import annotations

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.server.json_body import read_fields
from interns1_local.server.ollama_create import statuses
from interns1_local.server.ollama_models import model_name
from interns1_local.server.services import services_of
from interns1_local.server.streaming import Json
from interns1_local.store.name import ModelName
from interns1_local.store.nano import is_nano, pull_nano
from interns1_local.store.pull import pull as pull_model
from interns1_local.store.pull import push as push_model


async def pull(request: Request) -> Response:
    """`nano` is converted from the shipped checkpoint; other names come from the registry or hub that they name."""
    services = services_of(request)
    fields = await read_fields(request, "PullRequest")
    text = fields.text("model") or fields.text("name")
    name = ModelName.parse(text)
    insecure = bool(fields.flag("insecure"))
    quantize = fields.text("quantize") or None

    def work(report: Callable[[Json], None]) -> None:
        if is_nano(name):
            pull_nano(services.store, report)
        else:
            pull_model(services.store, text, report, insecure=insecure, quantize=quantize)

    return await statuses(request, fields, work)


async def push(request: Request) -> Response:
    services = services_of(request)
    fields = await read_fields(request, "PushRequest")
    text = model_name(fields)
    insecure = bool(fields.flag("insecure"))

    def work(report: Callable[[Json], None]) -> None:
        push_model(services.store, text, report, insecure=insecure)

    return await statuses(request, fields, work)
