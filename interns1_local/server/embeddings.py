"""POST /api/embed, /api/embeddings and /v1/embeddings."""

from __future__ import annotations

import base64
import json
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.errors import BadRequest, ModelNotFound
from interns1_local.generation.pool import Embeddings, EmbedRequest, embed
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import read_fields
from interns1_local.server.services import Services, keep_alive_seconds, services_of
from interns1_local.server.streaming import until_disconnect
from interns1_local.store.model_store import StoredModel


async def ollama_embed(request: Request) -> Response:
    """Normalised vectors of a text or of several."""
    services = services_of(request)
    fields = await read_fields(request, "EmbedRequest")
    name = fields.text("model")
    if not name:
        raise ModelNotFound("model '' not found")
    inputs = _texts(fields.get("input"), "invalid input type")
    model = await _model(services, name)
    asked = EmbedRequest(
        model,
        inputs,
        truncate=fields.flag("truncate") is not False,
        dimensions=fields.integer("dimensions") or None,
        options=fields.object("options") or {},
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
    )
    found = await until_disconnect(request, embed(services.scheduler, asked))
    figures = {"total_duration": found.total_ns, "load_duration": found.load_ns, "prompt_eval_count": found.tokens}
    answer = {"model": name, "embeddings": found.vectors.astype(float).tolist()}
    return GoJSONResponse(answer | {key: value for key, value in figures.items() if value})


async def ollama_embeddings(request: Request) -> Response:
    """The older route: one prompt, its vector as the model gives it."""
    services = services_of(request)
    fields = await read_fields(request, "EmbeddingRequest")
    name = fields.required("model")
    model = await _model(services, name)
    prompt = fields.text("prompt")
    keep_alive = keep_alive_seconds(fields.get("keep_alive"))
    options = fields.object("options") or {}
    asked = EmbedRequest(model, [prompt] if prompt else [], normalize=False, options=options, keep_alive=keep_alive)
    found = await until_disconnect(request, embed(services.scheduler, asked))
    return GoJSONResponse({"embedding": found.vectors[0].astype(float).tolist() if prompt else []})


async def openai_embeddings(request: Request) -> Response:
    """As OpenAI's clients ask for them: base64 unless they say float, texts or token ids."""
    services = services_of(request)
    fields = await read_fields(request, "EmbedRequest")
    name = fields.required("model")
    form = fields.text("encoding_format") or "float"
    if form not in ("float", "base64"):
        raise BadRequest(f"Invalid value for 'encoding_format' = {form}. Supported values: ['float', 'base64'].")
    inputs = _openai_inputs(fields.get("input"))
    model = await services.model(name)
    asked = EmbedRequest(
        model,
        inputs,
        dimensions=fields.integer("dimensions") or None,
        options=fields.object("options") or {},
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
    )
    found = await until_disconnect(request, embed(services.scheduler, asked))
    return GoJSONResponse(_openai(name, found, form))


def _openai(name: str, found: Embeddings, form: str) -> dict[str, Any]:
    def shown(vector: Any) -> Any:
        if form == "float":
            return vector.astype(float).tolist()
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()

    data = [{"object": "embedding", "embedding": shown(v), "index": i} for i, v in enumerate(found.vectors)]
    usage = {"prompt_tokens": found.tokens, "total_tokens": found.tokens}
    return {"object": "list", "data": data, "model": name, "usage": usage}


async def _model(services: Services, name: str) -> StoredModel:
    try:
        return await services.model(name)
    except ModelNotFound:
        raise ModelNotFound(f"model {json.dumps(name)} not found, try pulling it first") from None


def _texts(value: Any, wrong: str) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, list) and all(isinstance(text, str) for text in value):
        return value
    raise BadRequest(wrong)


def _openai_inputs(value: Any) -> list[Any]:
    """A text, texts, token ids, or lists of those."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, list) and value:
        if all(isinstance(item, str) for item in value):
            return value
        if _is_ids(value):
            return [value]
        if all(isinstance(item, list) and item and _is_ids(item) for item in value):
            return value
    raise BadRequest("invalid input")


def _is_ids(value: list[Any]) -> bool:
    return all(isinstance(token, int) and not isinstance(token, bool) and 0 <= token < 2**31 for token in value)
