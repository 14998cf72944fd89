"""OpenAI's chat request as ours: messages, parts, tools, and the options that Ollama's /v1 passes over."""

from __future__ import annotations

import json
import re
from typing import Any

from interns1_local.chat.message import Image, Message, Part, Text, ToolCall
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation import ChatRequest
from interns1_local.server.image_urls import OFF
from interns1_local.server.json_body import Fields
from interns1_local.server.ollama_messages import decode_base64, read_logprobs, read_think, read_tools
from interns1_local.server.services import keep_alive_seconds
from interns1_local.store.model_store import StoredModel

_DATA_URI = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp|gif|bmp))?;base64,", re.IGNORECASE)
_OPTION_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "seed": "seed",
    "stop": "stop",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repeat_penalty",
    "repeat_penalty": "repeat_penalty",
}
_EFFORTS: dict[str, bool | str] = {
    "none": False,
    "minimal": "low",
    "low": "low",
    "medium": "medium",
    "high": "high",
    "max": "max",
    "xhigh": "max",
    "ultra": "max",
}


def read_chat(fields: Fields, model: StoredModel) -> ChatRequest:
    """The whole request. What is absent stays with the model's own defaults."""
    messages = fields.children("messages", "openai.Message")
    if not messages:
        raise BadRequest("[] is too short - 'messages'")
    _check_unsupported(fields)
    limit = fields.integer("max_completion_tokens")
    kwargs = dict(fields.object("chat_template_kwargs") or {})
    if (enabled := fields.flag("enable_thinking")) is not None:
        kwargs.setdefault("enable_thinking", enabled)
    return ChatRequest(
        model=model,
        name=fields.text("model"),
        messages=[_message(message) for message in messages],
        tools=_tools(fields),
        think=read_effort(fields),
        options=_options(fields),
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
        template_kwargs=kwargs,
        max_tokens=fields.integer("max_tokens") if limit is None else limit,
        logprobs=read_logprobs(fields),
        logit_bias=_logit_bias(fields),
    )


def _check_unsupported(fields: Fields) -> None:
    if (fields.integer("n") or 1) != 1:
        raise BadRequest("n must be 1: ask once for each answer that you want")
    wanted = fields.child("response_format", "openai.ResponseFormat")
    if wanted is not None and wanted.text("type") not in ("", "text"):
        raise Unsupported("structured output (response_format) is not supported yet by this version; leave it out")


def _tools(fields: Fields) -> list[dict[str, Any]]:
    tools, choice = read_tools(fields), fields.get("tool_choice")
    if choice == "none":
        return []
    if choice in (None, "auto") or not tools:
        return tools
    raise Unsupported(f'tool_choice {json.dumps(choice)} is not supported yet by this version; use "auto" or "none"')


def read_effort(fields: Fields) -> bool | str | None:
    reasoning = fields.child("reasoning", "openai.Reasoning")
    effort = fields.text("reasoning_effort") or (reasoning.text("effort") if reasoning else "")
    if not effort:
        return read_think(fields)
    if effort not in _EFFORTS:
        known = ", ".join(f'"{name}"' for name in _EFFORTS)
        raise BadRequest(f'invalid reasoning value: "{effort}" (must be one of {known})')
    return _EFFORTS[effort]


def _options(fields: Fields) -> dict[str, Any]:
    """`options` as Ollama names them, then OpenAI's own fields."""
    given = {ours: fields.get(theirs) for theirs, ours in _OPTION_NAMES.items()}
    return {**(fields.object("options") or {}), **{name: value for name, value in given.items() if value is not None}}


def _logit_bias(fields: Fields) -> dict[int, float]:
    try:
        return {int(token): float(bias) for token, bias in (fields.object("logit_bias") or {}).items()}
    except (ValueError, TypeError):
        raise BadRequest("logit_bias must map token ids to numbers") from None


def _message(fields: Fields) -> Message:
    role = fields.text("role").lower()
    calls = tuple(_tool_call(call) for call in fields.children("tool_calls", "openai.ToolCall") or [])
    content = _content(fields)
    if not content and fields.get("content") is None and not calls:
        raise BadRequest(f"invalid message content type: {role or 'a message'} has neither content nor tool_calls")
    return Message(
        role="system" if role == "developer" else role,
        content=content,
        reasoning=fields.text("reasoning") or fields.text("reasoning_content") or None,
        tool_calls=calls,
        name=fields.text("name") or None,
        tool_call_id=fields.text("tool_call_id") or None,
    )


def _content(fields: Fields) -> tuple[Part, ...]:
    """A text, or parts in their order."""
    value = fields.get("content")
    if value is None:
        return ()
    if isinstance(value, str):
        return (Text(value),) if value else ()
    return tuple(_part(part) for part in fields.children("content", "openai.Content") or [])


def _part(fields: Fields) -> Part:
    kind = fields.text("type")
    if kind == "text":
        return Text(fields.text("text"))
    if kind == "image_url":
        value = fields.get("image_url")
        url = value.get("url") if isinstance(value, dict) else value
        return Image(image_bytes(url))
    raise BadRequest(f'invalid content part type "{kind}": text and image_url are supported')


def image_bytes(url: Any) -> bytes:
    if not isinstance(url, str):
        raise BadRequest("invalid image input")
    if url.lower().startswith(("http://", "https://")):
        raise BadRequest(OFF)
    head = _DATA_URI.match(url)
    if head is None:
        raise BadRequest("invalid image input")
    try:
        return decode_base64(url[head.end() :])
    except BadRequest:
        raise BadRequest("invalid image input") from None


def _tool_call(fields: Fields) -> ToolCall:
    function = fields.child("function", "openai.ToolCallFunction")
    if function is None:
        raise BadRequest("a tool call needs a function")
    try:
        arguments = json.loads(function.text("arguments") or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest("invalid tool call arguments")
    return ToolCall(function.text("name"), arguments, fields.text("id") or None)
