"""POST /v1/messages for Anthropic's clients: one message, or its events."""

from __future__ import annotations

import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.chat.events import Content, Finish, Reasoning, ToolCallDelta, ToolCallEvent, Usage
from interns1_local.errors import BadRequest, InternS1Error
from interns1_local.generation import ChatRequest, generate_chat
from interns1_local.generation.count import count_prompt
from interns1_local.server.anthropic_request import read_request
from interns1_local.server.errors import GoJSONResponse, anthropic_error, to_json
from interns1_local.server.image_urls import inline_image_urls
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.services import Services, services_of
from interns1_local.server.streaming import SSE, Json, stream, until_disconnect

_ID_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


async def messages(request: Request) -> Response:
    fields = await read_fields(request, "MessagesRequest")
    name = fields.required("model")
    if (fields.integer("max_tokens") or 0) < 1:
        raise BadRequest("max_tokens is required and must be positive")
    services = services_of(request)
    events = generate_chat(services.scheduler, await _chat_request(services, fields))
    message = _Message(name)
    if fields.flag("stream"):
        return await stream(request, message.events(events), SSE, _event_error)
    return GoJSONResponse(await until_disconnect(request, message.whole(events)))


async def count_tokens(request: Request) -> Response:
    """POST /v1/messages/count_tokens: the tokens that a request's prompt would have."""
    services = services_of(request)
    chat_request = await _chat_request(services, await read_fields(request, "MessagesRequest"))
    count = await until_disconnect(request, count_prompt(services.scheduler, chat_request))
    return GoJSONResponse({"input_tokens": count})


async def _chat_request(services: Services, fields: Fields) -> ChatRequest:
    name = fields.required("model")
    await inline_image_urls(fields.values, services.settings)
    return read_request(fields, await services.model(name))


@dataclass(slots=True)
class _Message:
    """One answer: its blocks so far, and how each event of ours changes them."""

    model: str
    id: str = field(default_factory=lambda: f"msg_{secrets.token_hex(12)}")
    blocks: list[Json] = field(default_factory=list)
    calls: dict[int, Json] = field(default_factory=dict)

    async def whole(self, events: Any) -> Json:
        finish: Finish | None = None
        async with aclosing(events):
            async for event in events:
                if isinstance(event, Finish):
                    finish = event
                else:
                    self._take(event)
        assert finish is not None, "every generation ends with Finish"
        return self._head(finish.usage) | {
            "content": self.blocks,
            "stop_reason": self._stop_reason(finish),
            "stop_sequence": finish.stop,
        }

    async def events(self, events: Any) -> AsyncGenerator[bytes]:
        """message_start, the blocks one after the other, message_delta, message_stop."""
        begun = False
        async with aclosing(events):
            async for event in events:
                if not begun:
                    begun = True
                    yield _event("message_start", {"message": self._head(Usage()) | {"content": []}})
                    yield _event("ping", {})
                if isinstance(event, Finish):
                    if self.blocks:
                        yield self._stop()
                    delta = {"stop_reason": self._stop_reason(event), "stop_sequence": event.stop}
                    yield _event("message_delta", {"delta": delta, "usage": _usage(event.usage)})
                    yield _event("message_stop", {})
                    return
                before = len(self.blocks)
                delta_json = self._take(event)
                if delta_json is None:
                    continue
                if len(self.blocks) > before:
                    if before:
                        yield self._stop(before - 1)
                    yield _event("content_block_start", {"index": before, "content_block": _empty(self.blocks[-1])})
                yield _event("content_block_delta", {"index": len(self.blocks) - 1, "delta": delta_json})

    def _take(self, event: Any) -> Json | None:
        """Add an event to the blocks; the delta that tells of it, or None for an event that is not shown."""
        match event:
            case Content(text) if text:
                self._block("text", {"text": ""})["text"] += text
                return {"type": "text_delta", "text": text}
            case Reasoning(text) if text:
                self._block("thinking", {"thinking": "", "signature": ""})["thinking"] += text
                return {"type": "thinking_delta", "thinking": text}
            case ToolCallDelta(index, name, arguments):
                if index not in self.calls:
                    self._call(index, name or "")
                return {"type": "input_json_delta", "partial_json": arguments}
            case ToolCallEvent(index, call):
                told = index in self.calls
                block = self.calls[index] if told else self._call(index, call.name)
                block["input"] = call.arguments
                # What came piece by piece is not told again.
                rest = "" if told else json.dumps(call.arguments, ensure_ascii=False)
                return {"type": "input_json_delta", "partial_json": rest} if rest else None
        return None

    def _call(self, index: int, name: str) -> Json:
        call_id = "toolu_" + "".join(secrets.choice(_ID_LETTERS) for _ in range(24))
        block: Json = {"type": "tool_use", "id": call_id, "name": name, "input": {}}
        self.blocks.append(block)
        self.calls[index] = block
        return block

    def _block(self, kind: str, empty: Json) -> Json:
        if not self.blocks or self.blocks[-1]["type"] != kind:
            self.blocks.append({"type": kind, **empty})
        return self.blocks[-1]

    def _stop(self, index: int | None = None) -> bytes:
        return _event("content_block_stop", {"index": len(self.blocks) - 1 if index is None else index})

    def _head(self, usage: Usage) -> Json:
        return {
            "id": self.id,
            "type": "message",
            "role": "assistant",
            "model": self.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(usage),
        }

    def _stop_reason(self, finish: Finish) -> str:
        if any(block["type"] == "tool_use" for block in self.blocks):
            return "tool_use"
        if finish.stop is not None:
            return "stop_sequence"
        return "max_tokens" if finish.reason == "length" else "end_turn"


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
    }


def _empty(block: Json) -> Json:
    """A block as it is before its first delta."""
    blank: Json = {"text": "", "thinking": "", "signature": "", "input": {}}
    return {key: blank.get(key, value) for key, value in block.items()}


def _event(name: str, data: Json) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + to_json({"type": name, **data}) + b"\n\n"


def _event_error(error: InternS1Error) -> bytes:
    return b"event: error\ndata: " + to_json(anthropic_error(error)) + b"\n\n"
