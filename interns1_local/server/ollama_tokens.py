"""POST /api/tokenize and /api/detokenize: how a model reads a text. Ours; Ollama has none."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.ollama_models import model_name
from interns1_local.server.services import keep_alive_seconds, services_of
from interns1_local.server.streaming import until_disconnect


async def tokenize(request: Request) -> Response:
    """`{model, content}` -> `{model, tokens: [id]}`.

    `details` adds each token's piece, domain and place, and the content that the places are in, which is normalized as
    the model wants it. `stock` tells what llama.cpp alone would make of the text.
    """
    fields = await read_fields(request, "TokenizeRequest")
    text = fields.text("content") or fields.text("text")
    found = await until_disconnect(request, _ask(request, fields, "describe", text, bool(fields.flag("stock"))))
    answer: dict[str, Any] = {"model": model_name(fields), "tokens": [token["id"] for token in found["tokens"]]}
    if fields.flag("details"):
        answer |= {"content": found["content"], "details": found["tokens"]}
    return GoJSONResponse(answer)


async def detokenize(request: Request) -> Response:
    """`{model, tokens: [id]}` -> `{model, content}`."""
    fields = await read_fields(request, "DetokenizeRequest")
    ids = fields.array("tokens", "[]int") or []
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int):
            fields.refuse(token, "tokens", "int")
    text = await until_disconnect(request, _ask(request, fields, "detokenize", ids))
    return GoJSONResponse({"model": model_name(fields), "content": text})


async def _ask(request: Request, fields: Fields, verb: str, *values: Any) -> Any:
    services = services_of(request)
    model = await services.model(model_name(fields))
    keep_alive = keep_alive_seconds(fields.get("keep_alive"))
    async with services.scheduler.acquire(model.name.short, fields.object("options") or {}, keep_alive) as lease:
        return await getattr(lease.runner, verb)(*values)
