"""Image URLs in a request, replaced by the pictures themselves when the server is allowed to fetch them."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from interns1_local.config import Settings
from interns1_local.errors import BadRequest

if TYPE_CHECKING:
    from interns1_local.media.fetch import FetchRules

MAX_URLS = 32
OFF = (
    "image URLs are not currently supported, please use base64 encoded data instead "
    "(the server fetches them when INTERNS1_IMAGE_URLS is set)"
)


async def inline_image_urls(values: dict[str, Any], settings: Settings) -> None:
    """Put a data URI where an `image_url` (OpenAI) or a `source` of type url (Anthropic) names an http(s) address."""
    places = list(_places(values.get("messages"))) + list(_places(values.get("input")))
    if not places:
        return
    rules = fetch_rules(settings.image_urls)
    if rules.off:
        raise BadRequest(OFF)
    if len(places) > MAX_URLS:
        raise BadRequest(f"the request names {len(places)} image URLs; at most {MAX_URLS} are fetched")
    from interns1_local.media.fetch import fetch_image

    for holder, key in places:
        holder[key] = f"data:;base64,{b64encode(await fetch_image(holder[key], rules)).decode()}"
        await asyncio.sleep(0)


def fetch_rules(text: str) -> FetchRules:
    """INTERNS1_IMAGE_URLS: empty or 0 is off, 1 is any public address, else hosts with commas between them."""
    names = [part.strip().lower() for part in text.split(",") if part.strip()]
    public = any(name in ("1", "true", "on", "public") for name in names)
    hosts = frozenset(name for name in names if name not in ("1", "true", "on", "public", "0", "false", "off"))
    # An HTTP client is for the few requests that come so far.
    from interns1_local.media.fetch import FetchRules

    return FetchRules(public, hosts)


def _places(messages: Any) -> Iterator[tuple[dict[str, Any], str]]:
    for message in messages if isinstance(messages, list) else []:
        parts = message.get("content") if isinstance(message, dict) else None
        for part in parts if isinstance(parts, list) else []:
            if not isinstance(part, dict):
                continue
            if _is_url(part.get("image_url")):
                yield part, "image_url"
            for holder in (part.get("image_url"), part.get("source")):
                if isinstance(holder, dict) and _is_url(holder.get("url")):
                    yield holder, "url"


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))
