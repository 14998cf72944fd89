"""Pictures and films in OpenAI's content parts: data URIs, and how many tiles or frames they may become."""

from __future__ import annotations

import re
from typing import Any

from interns1_local.chat.message import Image, Video
from interns1_local.errors import BadRequest
from interns1_local.server.image_urls import OFF
from interns1_local.server.json_body import Fields
from interns1_local.server.ollama_messages import decode_base64

# What vLLM's clients send beside a request, by the names of our options.
PROCESSOR_OPTIONS = ("max_patches", "max_total_patches", "num_frames", "fps", "frame_prefix")

_IMAGE_URI = re.compile(r"data:(?:image/(?:jpeg|jpg|png|webp|gif|bmp|tiff))?;base64,", re.IGNORECASE)
_VIDEO_URI = re.compile(r"data:(?:video/([\w.+-]+))?;base64,", re.IGNORECASE)
_NO_VIDEO_URLS = (
    "video URLs are not supported, please use base64 encoded data instead: "
    '{"type": "video_url", "video_url": {"url": "data:video/mp4;base64,..."}}'
)


def image_part(fields: Fields) -> Image:
    """A part of type image_url or input_image. Detail "low" is one tile; `max_patches` says it exactly."""
    value = fields.get("image_url")
    holder = Fields(value, "openai.ImageURL") if isinstance(value, dict) else fields
    url = value.get("url") if isinstance(value, dict) else value
    low = holder.text("detail").lower() == "low"
    most = holder.integer("max_patches")
    return Image(image_bytes(url), 1 if low and most is None else most)


def video_part(fields: Fields) -> Video:
    """A part of type video_url: a film, or with `data:video/jpeg` its frames as pictures with commas between them."""
    value = fields.get("video_url")
    holder = Fields(value, "openai.VideoURL") if isinstance(value, dict) else fields
    url = value.get("url") if isinstance(value, dict) else value
    num_frames, fps = holder.integer("num_frames"), holder.number("fps")
    if not isinstance(url, str):
        raise BadRequest("invalid video input")
    head = _VIDEO_URI.match(url)
    if head is None:
        raise BadRequest(_NO_VIDEO_URLS)
    try:
        files = [decode_base64(text) for text in url[head.end() :].split(",")]
    except BadRequest:
        raise BadRequest("invalid video input") from None
    if (head.group(1) or "").lower() in ("jpeg", "jpg", "png", "webp"):
        return Video(frames=tuple(files), num_frames=num_frames, fps=fps)
    return Video(files[0], num_frames=num_frames, fps=fps)


def processor_options(fields: Fields) -> dict[str, Any]:
    """The options in `mm_processor_kwargs`; others there belong to processors of other models."""
    given = fields.object("mm_processor_kwargs") or {}
    return {name: given[name] for name in PROCESSOR_OPTIONS if given.get(name) is not None}


def image_bytes(url: Any) -> bytes:
    """The file in a data URI."""
    if not isinstance(url, str):
        raise BadRequest("invalid image input")
    if url.lower().startswith(("http://", "https://")):
        raise BadRequest(OFF)
    head = _IMAGE_URI.match(url)
    if head is None:
        raise BadRequest("invalid image input")
    try:
        return decode_base64(url[head.end() :])
    except BadRequest:
        raise BadRequest("invalid image input") from None
