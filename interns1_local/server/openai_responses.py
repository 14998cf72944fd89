"""POST /v1/responses, and GET and DELETE of what was answered within the last hour."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.errors import InternS1Error
from interns1_local.generation import generate_chat
from interns1_local.server.errors import GoJSONResponse, as_ours, openai_error
from interns1_local.server.image_urls import inline_image_urls
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.response_memory import ResponseMemory, Stored
from interns1_local.server.response_object import ResponseObject
from interns1_local.server.responses_request import read_request
from interns1_local.server.services import services_of
from interns1_local.server.streaming import SSE, Json, sse_event, stream, until_disconnect


async def create(request: Request) -> Response:
    services = services_of(request)
    fields = await read_fields(request, "ResponsesRequest")
    name = fields.required("model")
    await inline_image_urls(fields.values, services.settings)
    memory = _memory(request)
    previous = fields.text("previous_response_id")
    history = memory.get(previous).messages if previous else ()
    chat_request = read_request(fields, await services.model(name), history)
    answer = ResponseObject(name, _echoed(fields))

    def remember() -> None:
        if fields.flag("store") is not False:
            # Without the instructions, which hold for this response only.
            asked = chat_request.messages[1 if fields.text("instructions") else 0 :]
            memory.add(answer.id, Stored((*asked, answer.message()), answer.to_json()))

    events = generate_chat(services.scheduler, chat_request)
    if fields.flag("stream"):
        return await stream(request, _streamed(answer, events, remember), SSE, _error_event)
    await until_disconnect(request, _whole(answer, events))
    remember()
    return GoJSONResponse(answer.to_json())


async def retrieve(request: Request) -> Response:
    return GoJSONResponse(_memory(request).get(request.path_params["id"]).response)


async def delete(request: Request) -> Response:
    response_id = request.path_params["id"]
    _memory(request).delete(response_id)
    return GoJSONResponse({"id": response_id, "object": "response", "deleted": True})


async def _whole(answer: ResponseObject, events: Any) -> None:
    async with aclosing(events):
        async for event in events:
            answer.take(event)


async def _streamed(answer: ResponseObject, events: Any, remember: Any) -> AsyncGenerator[bytes]:
    """Every event has its number; the last one says how the response ended, also when it failed."""
    number = 0

    def numbered(kind: str, fields: Json) -> bytes:
        nonlocal number
        data = {"type": kind, "sequence_number": number, **fields}
        number += 1
        return b"event: " + kind.encode() + b"\n" + sse_event(data)

    async with aclosing(events):
        begun = False
        try:
            async for event in events:
                if not begun:
                    begun = True
                    for kind in ("response.created", "response.in_progress"):
                        yield numbered(kind, {"response": answer.to_json()})
                for kind, fields in answer.take(event):
                    yield numbered(kind, fields)
        except Exception as error:
            if not begun:
                raise
            answer.fail(as_ours(error).message)
            yield numbered("response.failed", {"response": answer.to_json()})
            return
    remember()
    kind = "response.completed" if answer.status == "completed" else "response.incomplete"
    yield numbered(kind, {"response": answer.to_json()})


def _error_event(error: InternS1Error) -> bytes:
    return b"event: error\n" + sse_event({"type": "error", **openai_error(error)["error"]})


def _echoed(fields: Fields) -> Json:
    """What a response repeats of its request."""
    return {
        "instructions": fields.get("instructions"),
        "max_output_tokens": fields.get("max_output_tokens"),
        "metadata": fields.object("metadata") or {},
        "parallel_tool_calls": fields.flag("parallel_tool_calls") is not False,
        "previous_response_id": fields.get("previous_response_id"),
        "reasoning": fields.get("reasoning"),
        "store": fields.flag("store") is not False,
        "temperature": fields.get("temperature"),
        "text": fields.get("text") or {"format": {"type": "text"}},
        "tool_choice": fields.get("tool_choice") or "auto",
        "tools": fields.get("tools") or [],
        "top_p": fields.get("top_p"),
        "truncation": fields.get("truncation") or "disabled",
    }


def _memory(request: Request) -> ResponseMemory:
    memory: ResponseMemory = request.app.state.responses
    return memory
