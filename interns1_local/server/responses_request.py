"""OpenAI's Responses request as ours: input items to messages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from interns1_local.chat.message import Message, Part, Text, ToolCall
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation import ChatRequest
from interns1_local.server.answer_fields import budgets, text_format, tool_choice, truncates
from interns1_local.server.json_body import Fields
from interns1_local.server.openai_media import image_part
from interns1_local.server.openai_messages import read_effort, read_template_kwargs
from interns1_local.server.services import keep_alive_seconds
from interns1_local.store.model_store import StoredModel

_OPTION_NAMES = ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "adapter", "adapter_scale")


def read_request(fields: Fields, model: StoredModel, history: Sequence[Message]) -> ChatRequest:
    """The whole request, after the messages of the response that it continues."""
    given = {name: value for name in _OPTION_NAMES if (value := fields.get(name)) is not None}
    # Instructions hold for one response: those of the one before are not carried over.
    instructions = fields.text("instructions")
    system = [Message("system", (Text(instructions),))] if instructions else []
    return ChatRequest(
        model=model,
        name=fields.text("model"),
        messages=[*system, *history, *read_input(fields)],
        think=read_effort(fields),
        options={**(fields.object("options") or {}), **given},
        keep_alive=keep_alive_seconds(fields.get("keep_alive")),
        template_kwargs=read_template_kwargs(fields),
        max_tokens=fields.integer("max_output_tokens"),
        format=text_format(fields),
        truncate=truncates(fields, default=False),
        **tool_choice(fields, read_tools(fields)),
        **budgets(fields),
    )


def read_input(fields: Fields) -> list[Message]:
    value = fields.get("input")
    if isinstance(value, str):
        return [Message("user", (Text(value),))]
    items = fields.children("input", "openai.ResponsesInputItem")
    if not items:
        raise BadRequest("input is required: a text or a list of items")
    messages: list[Message] = []
    for item in items:
        message = _item(item)
        # A thought, words and calls of the assistant are items of their own here, and one turn in a template.
        if message.role == "assistant" and messages and messages[-1].role == "assistant":
            message = _joined(messages.pop(), message)
        messages.append(message)
    return messages


def read_tools(fields: Fields) -> list[dict[str, Any]]:
    tools = []
    for tool in fields.children("tools", "openai.ResponsesTool") or []:
        kind = tool.text("type")
        if kind != "function":
            raise Unsupported(f'tools of type "{kind}" run on OpenAI\'s servers; send tools of type "function"')
        if not tool.text("name"):
            raise BadRequest("a tool needs a name")
        names = ("name", "description", "parameters")
        tools.append({"type": "function", "function": {n: v for n in names if (v := tool.get(n)) is not None}})
    return tools


def _item(item: Fields) -> Message:
    match item.text("type") or "message":
        case "message":
            role = item.text("role").lower()
            return Message("system" if role == "developer" else role, tuple(_content(item, "content")))
        case "function_call":
            call = ToolCall(item.text("name"), _arguments(item), item.text("call_id") or None)
            return Message("assistant", tool_calls=(call,))
        case "function_call_output":
            return Message("tool", tuple(_content(item, "output")), tool_call_id=item.text("call_id") or None)
        case "reasoning":
            parts = [*(item.children("content", "openai.Content") or [])]
            parts = parts or [*(item.children("summary", "openai.Content") or [])]
            return Message("assistant", reasoning="".join(part.text("text") for part in parts))
        case kind:
            raise BadRequest(
                f'invalid input item type "{kind}": message, function_call, function_call_output, reasoning'
            )


def _joined(before: Message, after: Message) -> Message:
    return replace(
        before,
        content=before.content + after.content,
        reasoning="".join(text for text in (before.reasoning, after.reasoning) if text) or None,
        tool_calls=before.tool_calls + after.tool_calls,
    )


def _content(item: Fields, name: str) -> list[Part]:
    value = item.get(name)
    if value is None or isinstance(value, str):
        return [Text(value)] if value else []
    return [_part(part) for part in item.children(name, "openai.Content") or []]


def _part(part: Fields) -> Part:
    kind = part.text("type")
    if kind in ("input_text", "output_text", "text", "refusal"):
        return Text(part.text("text") or part.text("refusal"))
    if kind == "input_image":
        return image_part(part)
    raise BadRequest(f'invalid content part type "{kind}": input_text, output_text and input_image are supported')


def _arguments(item: Fields) -> dict[str, Any]:
    try:
        arguments = json.loads(item.text("arguments") or "{}")
    except ValueError:
        arguments = None
    if not isinstance(arguments, dict):
        raise BadRequest("invalid function call arguments: they must be a JSON object in a text")
    return arguments
