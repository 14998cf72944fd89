"""POST /api/generate."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.chat.events import Content, Finish, Reasoning
from interns1_local.chat.message import Message, Part, Text
from interns1_local.errors import BadRequest, ModelNotFound
from interns1_local.generation import (
    ChatRequest,
    ContextIds,
    Logprobs,
    TextRequest,
    generate_chat,
    generate_text,
    render_prompt,
)
from interns1_local.server import ollama_messages as wire
from interns1_local.server.answer_fields import budgets, ollama_format, options_of
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.ollama_chat import load_or_unload, ndjson
from interns1_local.server.services import keep_alive_seconds, services_of
from interns1_local.server.streaming import NDJSON, Json, ollama_line_error, stream, until_disconnect
from interns1_local.store.model_store import StoredModel


async def generate(request: Request) -> Response:
    """An answer to one prompt. No prompt: load the model, or with keep_alive 0 unload it."""
    services = services_of(request)
    fields = await read_fields(request, "GenerateRequest")
    logprobs = wire.read_logprobs(fields)
    name = fields.text("model")
    if not name:
        raise ModelNotFound("model '' not found")
    model = await services.model(name)
    keep_alive = keep_alive_seconds(fields.get("keep_alive"))
    prompt = fields.text("prompt")
    if not prompt and keep_alive == 0:
        await services.scheduler.unload(model.name.short)
        return GoJSONResponse(_empty(name, "unload"))
    _check(fields, model)
    if not prompt and not fields.get("images") and not fields.get("videos") and not fields.get("suffix"):
        reason = await until_disconnect(request, load_or_unload(services, model, fields, keep_alive))
        return GoJSONResponse(_empty(name, reason))
    events: Any
    if fields.flag("raw"):
        options = options_of(fields)
        text_request = TextRequest(
            model, prompt, wire.read_media(fields), options, keep_alive, None, logprobs, format=ollama_format(fields)
        )
        events = generate_text(services.scheduler, text_request)
    else:
        chat_request = _chat_request(fields, model, name, keep_alive, logprobs)
        if fields.flag("_debug_render_only"):
            text, images = render_prompt(chat_request)
            info = {"rendered_template": text, "image_count": images}
            return GoJSONResponse({**_head(name), "response": "", "done": False, "_debug_info": info})
        events = generate_chat(services.scheduler, chat_request)
    chunks = generate_chunks(name, events, bool(logprobs))
    if fields.flag("stream") is not False:
        return await stream(request, ndjson(chunks), NDJSON, ollama_line_error)
    return GoJSONResponse(await until_disconnect(request, _whole(chunks)))


async def generate_chunks(name: str, events: Any, with_top: bool) -> AsyncGenerator[Json]:
    """Events as the chunks of /api/generate; the ids of prompt and answer ride on the last one as `context`."""
    waiting: list[Logprobs] = []
    context: list[int] = []
    async with aclosing(events):
        async for event in events:
            chunk: Json = _head(name) | {"response": "", "done": False}
            match event:
                case Logprobs():
                    waiting.append(event)
                    continue
                case ContextIds(ids):
                    context = ids
                    continue
                case Content(text):
                    chunk["response"] = text
                case Reasoning(text):
                    chunk["thinking"] = text
                case Finish():
                    chunk |= wire.metrics(event) | ({"context": context} if context else {})
                case _:
                    continue
            if waiting:
                chunk["logprobs"] = wire.logprobs_json(waiting, with_top)
                waiting.clear()
            yield chunk


def _chat_request(
    fields: Fields, model: StoredModel, name: str, keep_alive: float | None, logprobs: int | None
) -> ChatRequest:
    context = fields.array("context", "[]int")
    system = fields.text("system")
    parts: list[Part] = [*wire.read_media(fields), Text(fields.text("prompt"))]
    messages = [Message("system", (Text(system),))] if system else []
    return ChatRequest(
        model=model,
        name=name,
        messages=[*messages, Message("user", tuple(parts))],
        think=wire.read_think(fields),
        options=options_of(fields),
        keep_alive=keep_alive,
        template=fields.text("template") or None,
        logprobs=logprobs,
        format=ollama_format(fields),
        **budgets(fields),
        with_model_messages=not context,
        context=context,
        return_context=True,
    )


def _check(fields: Fields, model: StoredModel) -> None:
    if fields.flag("raw") and any(fields.get(key) for key in ("template", "system", "context")):
        raise BadRequest("raw mode does not support template, system, or context")
    if fields.text("suffix"):
        raise BadRequest(f"{model.name.full} does not support insert")
    if any(isinstance(item, bool) or not isinstance(item, int) for item in fields.array("context", "[]int") or []):
        fields.refuse("", "context", "int")


def _head(name: str) -> Json:
    return {"model": name, "created_at": wire.now()}


def _empty(name: str, reason: str) -> Json:
    return {**_head(name), "response": "", "done": True, "done_reason": reason}


async def _whole(chunks: AsyncGenerator[Json]) -> Json:
    response, thinking = [], []
    logprobs: list[Json] = []
    last: Json = {}
    async with aclosing(chunks):
        async for last in chunks:
            response.append(last["response"])
            thinking.append(last.get("thinking", ""))
            logprobs += last.get("logprobs", [])
    whole = {**last, "response": "".join(response)}
    if "".join(thinking):
        whole["thinking"] = "".join(thinking)
    return whole | {"logprobs": logprobs} if logprobs else whole
