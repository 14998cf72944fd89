"""POST /api/chat."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.chat.events import Content, Finish, Reasoning, ToolCallEvent
from interns1_local.generation import ChatRequest, GenerationEvent, Logprobs, generate_chat, render_prompt
from interns1_local.server import ollama_messages as wire
from interns1_local.server.answer_fields import budgets, ollama_format, options_of, tool_choice, truncates
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.services import Services, keep_alive_seconds, services_of
from interns1_local.server.streaming import NDJSON, Json, ndjson_line, ollama_line_error, stream, until_disconnect
from interns1_local.store.model_store import StoredModel


async def chat(request: Request) -> Response:
    """The next message of a conversation. No messages: load the model, or with keep_alive 0 unload it."""
    services = services_of(request)
    fields = await read_fields(request, "ChatRequest")
    wire.read_logprobs(fields)
    name = fields.required("model")
    messages = wire.read_messages(fields)
    model = await services.model(name)
    keep_alive = keep_alive_seconds(fields.get("keep_alive"))
    if not messages:
        done = {"message": {"role": "assistant", "content": ""}, "done": True}
        reason = await until_disconnect(request, load_or_unload(services, model, fields, keep_alive))
        return GoJSONResponse({"model": name, "created_at": wire.now(), **done, "done_reason": reason})
    tools = wire.read_tools(fields)
    chat_request = ChatRequest(
        model=model,
        name=name,
        messages=messages,
        think=wire.read_think(fields),
        options=options_of(fields),
        keep_alive=keep_alive,
        logprobs=wire.read_logprobs(fields),
        format=ollama_format(fields),
        truncate=truncates(fields, default=True),
        **tool_choice(fields, tools),
        **budgets(fields),
    )
    if fields.flag("_debug_render_only"):
        text, images = render_prompt(chat_request)
        return GoJSONResponse(_head(name) | {"_debug_info": {"rendered_template": text, "image_count": images}})
    chunks = chat_chunks(name, generate_chat(services.scheduler, chat_request), bool(chat_request.logprobs))
    if fields.flag("stream") is not False:
        return await stream(request, ndjson(chunks), NDJSON, ollama_line_error)
    return GoJSONResponse(await until_disconnect(request, _whole(chunks)))


async def load_or_unload(services: Services, model: StoredModel, fields: Fields, keep_alive: float | None) -> str:
    """What a request without a prompt asks for; returns its `done_reason`."""
    if keep_alive == 0:
        await services.scheduler.unload(model.name.short)
        return "unload"
    async with services.scheduler.acquire(model.name.short, fields.object("options") or {}, keep_alive):
        return "load"


async def chat_chunks(name: str, events: Any, with_top: bool) -> AsyncGenerator[Json]:
    """Events as the chunks of /api/chat. Tool calls are whole; log-probabilities ride on the next chunk."""
    waiting: list[Logprobs] = []
    async with aclosing(events):
        async for event in events:
            if isinstance(event, Logprobs):
                waiting.append(event)
                continue
            message = _message(event)
            if message is None:
                continue
            chunk = _head(name) | {"message": {"role": "assistant", **message}, "done": False}
            if waiting:
                chunk["logprobs"] = wire.logprobs_json(waiting, with_top)
                waiting.clear()
            if isinstance(event, Finish):
                chunk |= wire.metrics(event)
            yield chunk


async def ndjson(chunks: AsyncGenerator[Json]) -> AsyncGenerator[bytes]:
    async with aclosing(chunks):
        async for chunk in chunks:
            yield ndjson_line(chunk)


def _message(event: GenerationEvent) -> Json | None:
    match event:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"content": "", "thinking": text}
        case ToolCallEvent():
            return {"content": "", "tool_calls": [wire.tool_call_json(event)]}
        case Finish():
            return {"content": ""}
        case _:
            return None


def _head(name: str) -> Json:
    return {"model": name, "created_at": wire.now()}


async def _whole(chunks: AsyncGenerator[Json]) -> Json:
    """All chunks as one: texts joined, calls and log-probabilities collected, the last chunk's figures."""
    content, thinking = [], []
    calls: list[Json] = []
    logprobs: list[Json] = []
    last: Json = {}
    async with aclosing(chunks):
        async for last in chunks:
            message = last["message"]
            content.append(message["content"])
            thinking.append(message.get("thinking", ""))
            calls += message.get("tool_calls", [])
            logprobs += last.get("logprobs", [])
    message = {"role": "assistant", "content": "".join(content)}
    if "".join(thinking):
        message["thinking"] = "".join(thinking)
    if calls:
        message["tool_calls"] = calls
    whole = {**last, "message": message}
    return whole | {"logprobs": logprobs} if logprobs else whole
