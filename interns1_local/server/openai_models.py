"""GET /v1/models and /v1/models/{name}."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.services import services_of
from interns1_local.store.model_store import StoredModel


async def list_models(request: Request) -> Response:
    models = await asyncio.to_thread(services_of(request).store.list)
    return GoJSONResponse({"object": "list", "data": [_model(model, model.name.short) for model in models]})


async def get_model(request: Request) -> Response:
    """One model; its name may hold slashes."""
    name = request.path_params["name"]
    model = await asyncio.to_thread(services_of(request).store.resolve, name)
    return GoJSONResponse(_model(model, name))


def _model(model: StoredModel, name: str) -> dict[str, Any]:
    created = int(model.modified_at.timestamp())
    return {"id": name, "object": "model", "created": created, "owned_by": model.name.namespace}
