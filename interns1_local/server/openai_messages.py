"""OpenAI's chat request as ours: messages, parts, tools, and the options that Ollama's /v1 passes over."""

from __future__ import annotations

import json
from typing import Any

from interns1_local.chat.message import Message, Part, Text, ToolCall
from interns1_local.engine.sampling import MAX_BIAS
from interns1_local.errors import BadRequest
from interns1_local.generation import ChatRequest
from interns1_local.server.answer_fields import budgets, openai_format, tool_choice, truncates
from interns1_local.server.json_body import Fields
from interns1_local.server.ollama_messages import read_logprobs, read_think, read_tools
from interns1_local.server.openai_media import image_part, processor_options, video_part
from interns1_local.server.services import keep_alive_seconds
from interns1_local.store.model_store import StoredModel

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
    "adapter": "adapter",
    "adapter_scale": "adapter_scale",
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
    limit = fields.integer("max_completion_tokens")
    return ChatRequest(
        model=model,
        name=fields.text("model"),
        messages=read_messages(fields),
        think=read_effort(fields),
        options=read_options(fields),
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
        template_kwargs=read_template_kwargs(fields),
        max_tokens=fields.integer("max_tokens") if limit is None else limit,
        logprobs=read_logprobs(fields),
        logit_bias=read_logit_bias(fields),
        min_tokens=fields.integer("min_tokens") or 0,
        ignore_eos=bool(fields.flag("ignore_eos")),
        format=openai_format(fields),
        truncate=truncates(fields, default=False),
        **tool_choice(fields, read_tools(fields)),
        **budgets(fields),
    )


def read_template_kwargs(fields: Fields) -> dict[str, Any]:
    """`chat_template_kwargs`, and `enable_thinking` where LMDeploy's clients put it."""
    kwargs = dict(fields.object("chat_template_kwargs") or {})
    if kwargs.get("enable_thinking") is None:
        kwargs["enable_thinking"] = fields.flag("enable_thinking")
    return kwargs


def read_effort(fields: Fields) -> bool | str | None:
    reasoning = fields.child("reasoning", "openai.Reasoning")
    effort = fields.text("reasoning_effort") or (reasoning.text("effort") if reasoning else "")
    if not effort:
        return read_think(fields)
    if effort not in _EFFORTS:
        known = ", ".join(f'"{name}"' for name in _EFFORTS)
        raise BadRequest(f'invalid reasoning value: "{effort}" (must be one of {known})')
    return _EFFORTS[effort]


def read_options(fields: Fields) -> dict[str, Any]:
    """`options` as Ollama names them, then OpenAI's own fields."""
    given = {ours: fields.get(theirs) for theirs, ours in _OPTION_NAMES.items()}
    named = {name: value for name, value in given.items() if value is not None}
    return {**(fields.object("options") or {}), **processor_options(fields), **named}


def read_logit_bias(fields: Fields) -> dict[int, float]:
    """Token ids to numbers: -100 forbids a token, 100 all others."""
    try:
        biases = {int(token): float(bias) for token, bias in (fields.object("logit_bias") or {}).items()}
    except (ValueError, TypeError):
        raise BadRequest("logit_bias must map token ids to numbers") from None
    for token, bias in biases.items():
        if not -MAX_BIAS <= bias <= MAX_BIAS:
            raise BadRequest(f"logit_bias must be between -100 and 100; that of token {token} is {bias:g}")
    return biases


def read_messages(fields: Fields) -> list[Message]:
    return [_message(message) for message in fields.children("messages", "openai.Message") or []]


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
        return image_part(fields)
    if kind == "video_url":
        return video_part(fields)
    raise BadRequest(f'invalid content part type "{kind}": text, image_url and video_url are supported')


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
