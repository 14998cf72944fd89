"""A response of /v1/responses as it grows, and the events that tell of each step."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any

from interns1_local.chat.events import Content, Finish, Reasoning, ToolCallDelta, ToolCallEvent, Usage
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
        self._call_places: dict[int, int] = {}
        self._usage: Usage | None = None
        self._error: Json | None = None

    def take(self, event: Any) -> Events:
        """Add one of our events; gives the events of the protocol that it makes."""
        match event:
            case Content(text) if text:
                return self._text("message", text)
            case Reasoning(text) if text:
                return self._text("reasoning", text)
            case ToolCallDelta(index, name, arguments):
                return self._call_piece(index, name or "", arguments)
            case ToolCallEvent(index, call):
                return self._call_end(index, call)
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

    def _call_piece(self, index: int, name: str, arguments: str) -> Events:
        """A piece of a call's arguments; with the first one the call begins."""
        events = self._call_begin(index, name) if index not in self._call_places else []
        item = self._output[self._call_places[index]]
        item["arguments"] += arguments
        place = {"item_id": item["id"], "output_index": self._call_places[index]}
        if arguments:
            events.append(("response.function_call_arguments.delta", {**place, "delta": arguments}))
        return events

    def _call_begin(self, index: int, name: str) -> Events:
        closed = self._close()
        item: Json = {"type": "function_call", "id": f"fc_{secrets.token_hex(12)}", "call_id": call_id(), "name": name}
        item |= {"arguments": "", "status": "in_progress"}
        self._call_places[index] = len(self._output)
        self._output.append(item)
        return [*closed, ("response.output_item.added", {"output_index": len(self._output) - 1, "item": dict(item)})]

    def _call_end(self, index: int, call: ToolCall) -> Events:
        events: Events = []
        if index not in self._call_places:
            events = self._call_piece(index, call.name, json.dumps(call.arguments, ensure_ascii=False))
        place = self._call_places[index]
        item = self._output[place]
        item |= {"status": "completed", "arguments": json.dumps(call.arguments, ensure_ascii=False)}
        self._calls.append(ToolCall(call.name, call.arguments, item["call_id"]))
        done = {"item_id": item["id"], "output_index": place, "name": call.name, "arguments": item["arguments"]}
        return [
            *events,
            ("response.function_call_arguments.done", done),
            ("response.output_item.done", {"output_index": place, "item": dict(item)}),
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
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.output_tokens,
    }
