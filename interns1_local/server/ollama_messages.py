"""Ollama's request parts as ours, and our events as Ollama's JSON: what /api/chat and /api/generate share."""

from __future__ import annotations

import binascii
import re
import secrets
import string
import time
from base64 import b64decode
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from interns1_local.chat.events import Finish, ToolCallEvent, Usage
from interns1_local.chat.message import Image, Message, Part, Text, ToolCall, Video
from interns1_local.errors import BadRequest
from interns1_local.generation import Logprobs
from interns1_local.runners.protocol import TokenLogprob
from interns1_local.server.json_body import Fields
from interns1_local.store.options import think_value

_NOT_BASE64 = re.compile(r"[^A-Za-z0-9+/\r\n]")
_ID_LETTERS = string.ascii_lowercase + string.digits


def read_messages(fields: Fields) -> list[Message]:
    return [_message(message) for message in fields.children("messages", "api.Message") or []]


def read_media(fields: Fields) -> list[Image | Video]:
    """`images`: bare base64, as Go decodes it; a film among them is known by its content. Ours: `videos`.

    A video is a file in base64, or a list of pictures that are its frames.
    """
    files = [decode_base64(text) for text in fields.texts("images")]
    media: list[Image | Video] = []
    if files:
        # What decodes pictures is for requests that have some.
        from interns1_local.media.video import is_video

        media += [Video(data) if is_video(data) else Image(data) for data in files]
    for video in fields.array("videos") or []:
        if isinstance(video, str):
            media.append(Video(decode_base64(video)))
        elif isinstance(video, list) and video and all(isinstance(frame, str) for frame in video):
            media.append(Video(frames=tuple(decode_base64(frame) for frame in video)))
        else:
            raise BadRequest("videos must hold files in base64, or lists of pictures in base64 that are their frames")
    return media


def decode_base64(text: str) -> bytes:
    body = text.replace("\n", "").replace("\r", "")
    wrong = _NOT_BASE64.search(body.rstrip("="))
    if wrong:
        raise BadRequest(f"illegal base64 data at input byte {wrong.start()}")
    try:
        return b64decode(body, validate=True)
    except binascii.Error:
        raise BadRequest(f"illegal base64 data at input byte {len(body) - len(body) % 4}") from None


def read_tools(fields: Fields) -> list[dict[str, Any]]:
    tools = fields.children("tools", "api.Tool") or []
    for tool in tools:
        function = tool.child("function", "api.ToolFunction")
        if function is None or not function.text("name"):
            raise BadRequest("a tool needs a function with a name")
    return [tool.values for tool in tools]


def read_think(fields: Fields) -> bool | str | None:
    value = fields.get("think")
    return None if value is None or value == "" else think_value(value)


def read_logprobs(fields: Fields) -> int | None:
    """How many alternatives to report, or None for no report."""
    top = fields.integer("top_logprobs") or 0
    if not 0 <= top <= 20:
        raise BadRequest("top_logprobs must be between 0 and 20")
    return top if fields.flag("logprobs") else None


def now() -> str:
    """`created_at`: RFC 3339 with nanoseconds."""
    nanoseconds = time.time_ns()
    moment = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"


def metrics(finish: Finish) -> dict[str, Any]:
    """The end of every answer; figures that are zero are left out. A tool call ends with "stop" too, as in Ollama."""
    usage = finish.usage
    figures = {
        "total_duration": usage.total_ns,
        "load_duration": usage.load_ns,
        "prompt_eval_count": usage.prompt_tokens,
        "prompt_eval_cached_count": usage.cached_tokens,
        "prompt_eval_duration": usage.prompt_ns,
        "eval_count": usage.output_tokens,
        "eval_duration": usage.decode_ns,
        # Ours: how many of eval_count were thought.
        "thinking_count": usage.reasoning_tokens,
    }
    reason = "length" if finish.reason == "length" else "stop"
    found = {"done": True, "done_reason": reason, **{key: value for key, value in figures.items() if value}}
    return found | drafts_json(usage) | tiles_json(usage) | truncation_json(finish) | malformed_calls_json(finish)


def drafts_json(usage: Usage) -> dict[str, Any]:
    """Ours: the tokens that were guessed ahead, and how many of them came true. Nothing when none was."""
    if not usage.drafted_tokens:
        return {}
    return {"draft_count": usage.drafted_tokens, "draft_accepted_count": usage.accepted_tokens}


def tiles_json(usage: Usage) -> dict[str, Any]:
    """Ours: the tiles of the prompt's pictures, and how many of them had to be computed. Nothing without pictures."""
    if not usage.tiles:
        return {}
    known = {} if usage.tiles_computed is None else {"image_tiles_computed": usage.tiles_computed}
    return {"image_tiles": usage.tiles, **known}


def truncation_json(finish: Finish) -> dict[str, Any]:
    """What was left out of the prompt; nothing when nothing was. Ours: Ollama is silent about it."""
    if finish.truncation is None:
        return {}
    left_out = finish.truncation
    return {"truncated": True, "prompt_tokens_dropped": left_out.tokens, "messages_dropped": left_out.messages}


def malformed_calls_json(finish: Finish) -> dict[str, Any]:
    """How many blocks of the answer were to be calls of tools and are none; they stand in its text. Ours."""
    return {"malformed_tool_calls": finish.malformed_calls} if finish.malformed_calls else {}


def tool_call_json(event: ToolCallEvent) -> dict[str, Any]:
    call = event.call
    function = {"index": event.index, "name": call.name, "arguments": call.arguments}
    return {"id": call.id or call_id(), "function": function}


def call_id() -> str:
    return "call_" + "".join(secrets.choice(_ID_LETTERS) for _ in range(8))


def logprobs_json(events: Sequence[Logprobs], with_top: bool) -> list[dict[str, Any]]:
    return [
        {**_token(token), **({"top_logprobs": [_token(other) for other in token.top]} if with_top else {})}
        for event in events
        for token in event.tokens
    ]


def _token(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.data.decode("utf-8", "replace"), "logprob": token.logprob, "bytes": list(token.data)}


def _message(fields: Fields) -> Message:
    content: list[Part] = list(read_media(fields))
    text = fields.text("content")
    if text:
        content.append(Text(text))
    return Message(
        role=fields.text("role").lower(),
        content=tuple(content),
        reasoning=fields.text("thinking") or None,
        tool_calls=tuple(_tool_call(call) for call in fields.children("tool_calls", "api.ToolCall") or []),
        name=fields.text("tool_name") or fields.text("name") or None,
        tool_call_id=fields.text("tool_call_id") or None,
    )


def _tool_call(fields: Fields) -> ToolCall:
    function = fields.child("function", "api.ToolCallFunction")
    if function is None:
        raise BadRequest("a tool call needs a function")
    arguments = function.object("arguments", "api.ToolCallFunctionArguments") or {}
    return ToolCall(function.text("name"), arguments, fields.text("id") or None)
