"""Conversations as people write them in Python: a text, dicts as OpenAI has them, or messages of ours."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from interns1_local.api.arguments import Picture
from interns1_local.chat.message import Image, Message, Text, Video
from interns1_local.errors import BadRequest
from interns1_local.media.video import is_video
from interns1_local.server.json_body import Fields
from interns1_local.server.openai_messages import read_messages

Turn = Message | Mapping[str, Any]
Conversation = str | Sequence[Turn]


def is_batch(given: Any) -> bool:
    """Whether it is a list of conversations rather than one: its items are texts or lists themselves."""
    return (
        isinstance(given, Sequence)
        and not isinstance(given, str)
        and bool(given)
        and isinstance(given[0], str | list | tuple)
    )


def read_conversation(given: Conversation, images: Sequence[Picture] = ()) -> list[Message]:
    """The messages; `images` are put before the words of the last user's message."""
    if isinstance(given, str):
        messages = [Message("user", (Text(given),))]
    else:
        messages = [turn if isinstance(turn, Message) else _message(turn) for turn in given]
    if not messages:
        raise BadRequest("a conversation needs at least one message")
    if images:
        last = max((i for i, message in enumerate(messages) if message.role == "user"), default=-1)
        if last < 0:
            raise BadRequest("images belong to a user's message, and there is none")
        pictures = tuple(_picture(image) for image in images)
        messages[last] = replace(messages[last], content=(*pictures, *messages[last].content))
    return messages


def _message(turn: Mapping[str, Any]) -> Message:
    if not isinstance(turn, Mapping):
        raise BadRequest(f"a message is a dict with a role and a content; given was {type(turn).__name__}")
    values = dict(turn)
    pictures = values.pop("images", None) or ()
    if calls := values.get("tool_calls"):
        values["tool_calls"] = [_with_text_arguments(call) for call in calls]
    message = read_messages(Fields({"messages": [values]}, "Conversation"))[0]
    return replace(message, content=(*(_picture(image) for image in pictures), *message.content))


def _with_text_arguments(call: Any) -> Any:
    """OpenAI writes arguments as a text; an object is as good."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"])}}


def _picture(image: Picture) -> Image | Video:
    if isinstance(image, Image | Video):
        return image
    if isinstance(image, str | Path):
        path = Path(image).expanduser()
        if not path.is_file():
            raise BadRequest(f"there is no picture {path}")
        data = path.read_bytes()
    elif isinstance(image, bytes | bytearray):
        data = bytes(image)
    elif hasattr(image, "save"):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        data = buffer.getvalue()
    else:
        raise BadRequest(f"a picture is a path, bytes or a PIL image; given was {type(image).__name__}")
    return Video(data) if is_video(data) else Image(data)
