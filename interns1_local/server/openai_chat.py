"""POST /v1/chat/completions: the answer in one object, or as server-sent events."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.chat.events import Content, Finish, Reasoning, ToolCallEvent, Usage
from interns1_local.errors import BadRequest
from interns1_local.generation import Logprobs, generate_chat
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.image_urls import inline_image_urls
from interns1_local.server.json_body import read_fields
from interns1_local.server.ollama_messages import call_id, logprobs_json
from interns1_local.server.openai_messages import read_chat
from interns1_local.server.services import services_of
from interns1_local.server.streaming import SSE, Json, openai_event_error, sse_event, stream, until_disconnect


@dataclass(slots=True)
class Completion:
    """What every chunk of one answer repeats."""

    model: str
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.randbelow(10**9)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def head(self, kind: str) -> Json:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": "fp_ollama",
        }


async def chat_completions(request: Request) -> Response:
    services = services_of(request)
    fields = await read_fields(request, "ChatCompletionRequest")
    name = fields.text("model")
    if not name:
        raise BadRequest("model is required")
    await inline_image_urls(fields.values, services.settings)
    chat_request = read_chat(fields, await services.model(name))
    events = generate_chat(services.scheduler, chat_request)
    completion = Completion(name)
    if not fields.flag("stream"):
        return GoJSONResponse(await until_disconnect(request, _whole(completion, events)))
    options = fields.child("stream_options", "openai.StreamOptions")
    include_usage = bool(options and options.flag("include_usage"))
    return await stream(request, chat_events(completion, events, include_usage), SSE, openai_event_error)


async def chat_events(completion: Completion, events: Any, include_usage: bool) -> AsyncGenerator[bytes]:
    """The role, the answer piece by piece, the reason of its end, the usage if asked for, [DONE]."""
    waiting: list[Logprobs] = []
    begun = False
    async with aclosing(events):
        async for event in events:
            if not begun:
                begun = True
                yield _chunk(completion, {"role": "assistant", "content": ""})
            if isinstance(event, Logprobs):
                waiting.append(event)
                continue
            if isinstance(event, Finish):
                reason = _finish_reason(event)
                yield _chunk(completion, {}, reason, waiting)
                if include_usage:
                    usage = {"choices": [], "usage": usage_json(event.usage)}
                    yield sse_event(completion.head("chat.completion.chunk") | usage)
                yield sse_event("[DONE]")
            elif (delta := _delta(event)) is not None:
                yield _chunk(completion, delta, None, waiting)
                waiting = []


def usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _chunk(
    completion: Completion, delta: Json, reason: str | None = None, logprobs: list[Logprobs] | None = None
) -> bytes:
    choice: Json = {"index": 0, "delta": delta, "finish_reason": reason}
    if logprobs:
        choice["logprobs"] = {"content": logprobs_json(logprobs, with_top=True)}
    return sse_event(completion.head("chat.completion.chunk") | {"choices": [choice]})


def _delta(event: Any) -> Json | None:
    match event:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            # Ollama says `reasoning`; vLLM, llama-server and DeepSeek say `reasoning_content`.
            return {"reasoning": text, "reasoning_content": text}
        case ToolCallEvent(index):
            return {"tool_calls": [{"index": index, **_tool_call(event)}]}
        case _:
            return None


def _tool_call(event: ToolCallEvent) -> Json:
    arguments = json.dumps(event.call.arguments, ensure_ascii=False)
    function = {"name": event.call.name, "arguments": arguments}
    return {"id": event.call.id or call_id(), "type": "function", "function": function}


def _finish_reason(event: Finish) -> str:
    return event.reason if event.reason in ("length", "tool_calls") else "stop"


async def _whole(completion: Completion, events: Any) -> Json:
    content, reasoning = [], []
    calls: list[Json] = []
    logprobs: list[Logprobs] = []
    finish: Finish | None = None
    async with aclosing(events):
        async for event in events:
            match event:
                case Content(text):
                    content.append(text)
                case Reasoning(text):
                    reasoning.append(text)
                case ToolCallEvent(index):
                    calls.append({"index": index, **_tool_call(event)})
                case Logprobs():
                    logprobs.append(event)
                case Finish():
                    finish = event
    assert finish is not None, "every generation ends with Finish"
    message: Json = {"role": "assistant", "content": "".join(content)}
    if reasoning:
        message |= dict.fromkeys(("reasoning", "reasoning_content"), "".join(reasoning))
    if calls:
        message["tool_calls"] = calls
    choice: Json = {"index": 0, "message": message, "finish_reason": _finish_reason(finish)}
    if logprobs:
        choice["logprobs"] = {"content": logprobs_json(logprobs, with_top=True)}
    return completion.head("chat.completion") | {"choices": [choice], "usage": usage_json(finish.usage)}
