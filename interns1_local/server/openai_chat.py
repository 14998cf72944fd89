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

from interns1_local.chat.events import Content, Finish, Reasoning, ToolCallDelta, ToolCallEvent, Usage
from interns1_local.generation import GenerationEvent, Logprobs, chat_choices, check_number, usage_of
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.image_urls import inline_image_urls
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.ollama_messages import (
    call_id,
    logprobs_json,
    malformed_calls_json,
    tiles_json,
    truncation_json,
)
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
    name = fields.required("model")
    await inline_image_urls(fields.values, services.settings)
    chat_request = read_chat(fields, await services.model(name))
    n = read_n(fields)
    choices = chat_choices(services.scheduler, chat_request, n)
    completion = Completion(name)
    if not fields.flag("stream"):
        return GoJSONResponse(await until_disconnect(request, _whole(completion, choices, n)))
    include_usage = wants_usage(fields)
    return await stream(request, chat_events(completion, choices, n, include_usage), SSE, openai_event_error)


def read_n(fields: Fields) -> int:
    """How many choices are wanted."""
    n = fields.integer("n")
    return 1 if n is None else check_number(n)


def wants_usage(fields: Fields) -> bool:
    """Whether a stream ends with what it cost."""
    options = fields.child("stream_options", "openai.StreamOptions")
    return bool(options and options.flag("include_usage"))


async def chat_events(completion: Completion, choices: Any, n: int, include_usage: bool) -> AsyncGenerator[bytes]:
    """Of each choice the role, the answer piece by piece and the reason of its end; the usage if asked for; [DONE]."""
    waiting: list[list[Logprobs]] = [[] for _ in range(n)]
    begun: set[int] = set()
    ends: dict[int, Finish] = {}
    async with aclosing(choices):
        async for index, event in choices:
            if index not in begun:
                begun.add(index)
                yield _chunk(completion, index, {"role": "assistant", "content": ""})
            if isinstance(event, Logprobs):
                waiting[index].append(event)
            elif isinstance(event, Finish):
                ends[index] = event
                reason = _finish_reason(event)
                yield _chunk(completion, index, {}, reason, waiting[index], truncation_json(event), event)
            elif (delta := _delta(event)) is not None:
                yield _chunk(completion, index, delta, None, waiting[index])
                waiting[index] = []
    if include_usage:
        usage = {"choices": [], "usage": usage_json(usage_of([ends[index] for index in range(n)], n))}
        yield sse_event(completion.head("chat.completion.chunk") | usage)
    yield sse_event("[DONE]")


def usage_json(usage: Usage) -> Json:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens, **tiles_json(usage)},
        "completion_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
    }


def _chunk(
    completion: Completion,
    index: int,
    delta: Json,
    reason: str | None = None,
    logprobs: list[Logprobs] | None = None,
    more: Json | None = None,
    end: Finish | None = None,
) -> bytes:
    choice: Json = {"index": index, "delta": delta, "finish_reason": reason} | _logprobs(logprobs or [])
    choice |= malformed_calls_json(end) if end else {}
    return sse_event(completion.head("chat.completion.chunk") | {"choices": [choice]} | (more or {}))


def _logprobs(events: list[Logprobs]) -> Json:
    """Those of the words, as OpenAI has them, and by a name of ours those of the thought; none of marks and calls."""
    parts: Json = {}
    for part in ("content", "reasoning"):
        if found := [event for event in events if event.part == part]:
            parts[part] = logprobs_json(found, with_top=True)
    return {"logprobs": {"content": []} | parts} if parts else {}


def _delta(event: Any) -> Json | None:
    match event:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            # Ollama says `reasoning`; vLLM, llama-server and DeepSeek say `reasoning_content`.
            return {"reasoning": text, "reasoning_content": text}
        case ToolCallDelta(index, None, arguments):
            return {"tool_calls": [{"index": index, "function": {"arguments": arguments}}]}
        case ToolCallDelta(index, name):
            function = {"name": name, "arguments": ""}
            return {"tool_calls": [{"index": index, "id": call_id(), "type": "function", "function": function}]}
        case _:
            # The whole call tells nothing new.
            return None


def _tool_call(event: ToolCallEvent) -> Json:
    arguments = json.dumps(event.call.arguments, ensure_ascii=False)
    function = {"name": event.call.name, "arguments": arguments}
    return {"id": event.call.id or call_id(), "type": "function", "function": function}


def _finish_reason(event: Finish) -> str:
    return event.reason if event.reason in ("length", "tool_calls") else "stop"


async def _whole(completion: Completion, choices: Any, n: int) -> Json:
    events: list[list[GenerationEvent]] = [[] for _ in range(n)]
    async with aclosing(choices):
        async for index, event in choices:
            events[index].append(event)
    ends = [one[-1] for one in events]
    finishes = [end for end in ends if isinstance(end, Finish)]
    assert len(finishes) == n, "every generation ends with Finish"
    answer = {
        "choices": [_choice(index, one) for index, one in enumerate(events)],
        "usage": usage_json(usage_of(finishes, n)),
    }
    return completion.head("chat.completion") | answer | truncation_json(finishes[0])


def _choice(number: int, events: list[GenerationEvent]) -> Json:
    content, reasoning = [], []
    calls: list[Json] = []
    logprobs: list[Logprobs] = []
    reason, more = "stop", dict[str, Any]()
    for event in events:
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
                reason, more = _finish_reason(event), malformed_calls_json(event)
    message: Json = {"role": "assistant", "content": "".join(content)}
    if reasoning:
        message |= dict.fromkeys(("reasoning", "reasoning_content"), "".join(reasoning))
    if calls:
        message["tool_calls"] = calls
    return {"index": number, "message": message, "finish_reason": reason} | _logprobs(logprobs) | more
