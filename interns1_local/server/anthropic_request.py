"""Anthropic's Messages request as ours: blocks to parts, tool results to messages of their own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from interns1_local.chat.message import Image, Message, Part, Text, ToolCall
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation import ChatRequest, abilities
from interns1_local.server.answer_fields import tool_choice, truncates
from interns1_local.server.json_body import Fields
from interns1_local.server.ollama_messages import decode_base64
from interns1_local.server.services import keep_alive_seconds
from interns1_local.store.model_store import StoredModel

_DATA_URI = re.compile(r"data:[^,]*;base64,", re.IGNORECASE)
_OPTION_NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "stop_sequences": "stop",
    # Ours.
    "adapter": "adapter",
    "adapter_scale": "adapter_scale",
}
_EFFORTS = {"low": "low", "medium": "medium", "high": "high", "max": "max", "xhigh": "max"}


def read_request(fields: Fields, model: StoredModel) -> ChatRequest:
    """The whole request. What is absent stays with the model's own defaults."""
    if not fields.get("messages"):
        raise BadRequest("messages is required")
    options = {ours: value for theirs, ours in _OPTION_NAMES.items() if (value := fields.get(theirs)) is not None}
    return ChatRequest(
        model=model,
        name=fields.text("model"),
        messages=read_messages(fields),
        think=_think(fields, model),
        options={**(fields.object("options") or {}), **options},
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
        max_tokens=fields.integer("max_tokens"),
        think_budget=_budget(fields),
        truncate=truncates(fields, default=False),
        **tool_choice(fields, read_tools(fields)),
    )


def read_messages(fields: Fields) -> list[Message]:
    messages = []
    if system := _parts(fields, "system"):
        messages.append(Message("system", tuple(system)))
    for message in fields.children("messages", "anthropic.MessageParam") or []:
        role = message.text("role")
        if role not in ("user", "assistant", "system"):
            raise BadRequest(f'messages: role must be "user" or "assistant"; it is "{role}"')
        messages += _messages(message, role)
    return messages


def read_tools(fields: Fields) -> list[dict[str, Any]]:
    tools = []
    for tool in fields.children("tools", "anthropic.Tool") or []:
        kind = tool.text("type")
        if kind not in ("", "custom"):
            raise Unsupported(f"tools of type {kind} run on Anthropic's servers; send tools with an input_schema")
        if not tool.text("name"):
            raise BadRequest("tools: name is required")
        function: dict[str, Any] = {"name": tool.text("name")}
        if description := tool.text("description"):
            function["description"] = description
        function["parameters"] = tool.object("input_schema") or {"type": "object", "properties": {}}
        tools.append({"type": "function", "function": function})
    return tools


def _messages(fields: Fields, role: str) -> Iterator[Message]:
    """A turn of blocks: results of tools, which stand first, then the words."""
    if isinstance(fields.get("content"), str):
        yield Message(role, (Text(fields.text("content")),) if fields.text("content") else ())
        return
    content: list[Part] = []
    calls: list[ToolCall] = []
    reasoning = ""
    results = False
    for block in fields.children("content", "anthropic.ContentBlock") or []:
        match block.text("type"):
            case "tool_use":
                calls.append(ToolCall(block.text("name"), block.object("input") or {}, block.text("id") or None))
            case "tool_result":
                results = True
                yield Message("tool", tuple(_parts(block, "content")), tool_call_id=block.text("tool_use_id") or None)
            case "thinking":
                reasoning += block.text("thinking")
            case "redacted_thinking":
                pass
            case _:
                content.append(_part(block))
    if content or calls or reasoning or not results:
        yield Message(role, tuple(content), reasoning=reasoning or None, tool_calls=tuple(calls))


def _parts(fields: Fields, name: str) -> list[Part]:
    """A text, or blocks of text and pictures."""
    value = fields.get(name)
    if value is None or isinstance(value, str):
        return [Text(value)] if value else []
    return [_part(block) for block in fields.children(name, "anthropic.ContentBlock") or []]


def _part(block: Fields) -> Part:
    kind = block.text("type")
    if kind == "text":
        return Text(block.text("text"))
    if kind == "image":
        return Image(_image(block))
    raise BadRequest(f'invalid content block type "{kind}": text, image, tool_use, tool_result and thinking are known')


def _image(block: Fields) -> bytes:
    source = block.child("source", "anthropic.ImageSource")
    if source is None:
        raise BadRequest("an image needs a source")
    if source.text("type") == "base64":
        return decode_base64(source.text("data"))
    # A web address has become a data URI by now, where the server may fetch pictures.
    head = _DATA_URI.match(source.text("url"))
    if head is None:
        raise BadRequest('an image\'s source must be {"type": "base64", "media_type": ..., "data": ...}')
    return decode_base64(source.text("url")[head.end() :])


def _budget(fields: Fields) -> int | None:
    thinking = fields.child("thinking", "anthropic.ThinkingConfig")
    return thinking.integer("budget_tokens") if thinking else None


def _think(fields: Fields, model: StoredModel) -> bool | str | None:
    """A model that cannot think is not asked to: clients of this protocol ask every model alike."""
    thinking = fields.child("thinking", "anthropic.ThinkingConfig")
    output = fields.child("output_config", "anthropic.OutputConfig")
    effort = output.text("effort") if output else ""
    if effort and effort not in _EFFORTS:
        raise BadRequest(f"output_config.effort must be one of {', '.join(_EFFORTS)}; it is {json.dumps(effort)}")
    if "thinking" not in abilities(model).names or (thinking is None and not effort):
        return None
    kind = thinking.text("type") if thinking else "enabled"
    if kind not in ("enabled", "disabled", "adaptive"):
        raise BadRequest(f'thinking.type must be "enabled", "disabled" or "adaptive"; it is {json.dumps(kind)}')
    return False if kind == "disabled" else _EFFORTS.get(effort, True)
