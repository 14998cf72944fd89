"""A response of /v1/responses as it grows, and the events that tell of each step."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from interns1_local.chat.events import Content, Finish, Reasoning, ToolCallEvent, Usage
from interns1_local.chat.message import Message, Text, ToolCall
from interns1_local.server.ollama_messages import call_id

Json = dict[str, Any]
Events = list[tuple[str, Json]]


class ResponseObject:
    """`take` our events one by one; `to_json` is the response as it stands."""

    def __init__(self, model: str, echoed: Json) -> None:
        self.id = f"resp_{secrets.token_hex(16)}"
        self.status = "in_progress"
        self._model = model
        self._echoed = echoed
        self._created = int(time.time())
        self._output: list[Json] = []
        self._calls: list[ToolCall] = []
        self._usage: Usage | None = None
        self._error: Json | None = None

    def take(self, event: Any) -> Events:
        """Add one of our events; gives the events of the protocol that it makes."""
        match event:
            case Content(text) if text:
                return self._text("message", text)
            case Reasoning(text) if text:
                return self._text("reasoning", text)
            case ToolCallEvent():
                return self._close() + self._call(event.call)
            case Finish():
                closed = self._close()
                self._usage = event.usage
                self.status = "incomplete" if event.reason in ("length", "cancelled") else "completed"
                return closed
        return []

    def fail(self, message: str) -> None:
        self.status = "failed"
        self._error = {"code": "server_error", "message": message}

    def message(self) -> Message:
        """The answer as the turn that a later request continues."""
        texts = {item["type"]: _text_of(item) for item in self._output}
        content = (Text(texts["message"]),) if texts.get("message") else ()
        return Message("assistant", content, reasoning=texts.get("reasoning") or None, tool_calls=tuple(self._calls))

    def to_json(self) -> Json:
        incomplete = {"reason": "max_output_tokens"} if self.status == "incomplete" else None
        return {
            "id": self.id,
            "object": "response",
            "created_at": self._created,
            "status": self.status,
            "error": self._error,
            "incomplete_details": incomplete,
            "model": self._model,
            "output": [dict(item) for item in self._output],
            "usage": None if self._usage is None else _usage(self._usage),
            **self._echoed,
        }

    def _text(self, kind: str, text: str) -> Events:
        """A piece of the answer or of the thought."""
        events: Events = []
        if not self._open(kind):
            events = self._close() + self._begin(kind)
        part = self._part()
        part["text"] += text
        name = "response.output_text.delta" if kind == "message" else "response.reasoning_summary_text.delta"
        return [*events, (name, {**self._place(), "delta": text, **({"logprobs": []} if kind == "message" else {})})]

    def _begin(self, kind: str) -> Events:
        item: Json = {"type": kind, "id": f"{'msg' if kind == 'message' else 'rs'}_{secrets.token_hex(12)}"}
        if kind == "message":
            item |= {"status": "in_progress", "role": "assistant", "content": []}
        else:
            item |= {"summary": []}
        self._output.append(item)
        added = ("response.output_item.added", {"output_index": len(self._output) - 1, "item": _copy(item)})
        part = {"type": "output_text", "text": "", "annotations": []}
        name = "response.content_part.added"
        if kind == "reasoning":
            part, name = {"type": "summary_text", "text": ""}, "response.reasoning_summary_part.added"
        item["content" if kind == "message" else "summary"].append(part)
        return [added, (name, {**self._place(), "part": dict(part)})]

    def _close(self) -> Events:
        """The end of a message or thought that is open."""
        if not self._output or self._output[-1]["type"] == "function_call":
            return []
        item, part, place = self._output[-1], self._part(), self._place()
        index = len(self._output) - 1
        if item["type"] == "message":
            item["status"] = "completed"
            names = "response.output_text.done", "response.content_part.done"
        else:
            names = "response.reasoning_summary_text.done", "response.reasoning_summary_part.done"
        logprobs: Json = {"logprobs": []} if item["type"] == "message" else {}
        return [
            (names[0], {**place, "text": part["text"], **logprobs}),
            (names[1], {**place, "part": dict(part)}),
            ("response.output_item.done", {"output_index": index, "item": _copy(item)}),
        ]

    def _call(self, call: ToolCall) -> Events:
        name_id = call.id or call_id()
        self._calls.append(ToolCall(call.name, call.arguments, name_id))
        arguments = json.dumps(call.arguments, ensure_ascii=False)
        item = {"type": "function_call", "id": f"fc_{secrets.token_hex(12)}", "call_id": name_id, "name": call.name}
        index = len(self._output)
        self._output.append({**item, "arguments": arguments, "status": "completed"})
        place = {"item_id": item["id"], "output_index": index}
        begun = {**item, "arguments": "", "status": "in_progress"}
        return [
            ("response.output_item.added", {"output_index": index, "item": begun}),
            ("response.function_call_arguments.delta", {**place, "delta": arguments}),
            ("response.function_call_arguments.done", {**place, "name": call.name, "arguments": arguments}),
            ("response.output_item.done", {"output_index": index, "item": dict(self._output[-1])}),
        ]

    def _open(self, kind: str) -> bool:
        return bool(self._output) and self._output[-1]["type"] == kind

    def _part(self) -> Json:
        item = self._output[-1]
        part: Json = item["content" if item["type"] == "message" else "summary"][-1]
        return part

    def _place(self) -> Json:
        item = self._output[-1]
        index = "content_index" if item["type"] == "message" else "summary_index"
        return {"item_id": item["id"], "output_index": len(self._output) - 1, index: 0}


def _text_of(item: Json) -> str:
    return "".join(part["text"] for part in item.get("content") or item.get("summary") or [])


def _copy(item: Json) -> Json:
    """The item as it is now: its parts go on growing."""
    return {key: [dict(part) for part in value] if isinstance(value, list) else value for key, value in item.items()}


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
