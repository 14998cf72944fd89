"""POST /api/tiles: what a picture or a film costs a model, and the very tiles that it will see."""

from __future__ import annotations

import asyncio
import base64
import io
from typing import Any

import numpy as np
from PIL import Image as Pillow
from starlette.requests import Request
from starlette.responses import Response

from interns1_local.chat.message import Image, Message, Video
from interns1_local.errors import Unsupported
from interns1_local.generation import abilities
from interns1_local.generation.media_parts import media_parts
from interns1_local.generation.prompt import Parts, countable
from interns1_local.media.image import count_tokens, limited
from interns1_local.media.video import is_video
from interns1_local.runners.model_spec import ModelFacts, VisionFacts
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import Fields, read_fields
from interns1_local.server.ollama_messages import decode_base64
from interns1_local.server.ollama_models import model_name
from interns1_local.server.services import Services, services_of
from interns1_local.server.streaming import until_disconnect
from interns1_local.store.model_store import StoredModel
from interns1_local.store.options import check_options

# Tiles that an answer holds as pictures; a request to a model may have more.
MAX_SHOWN = 104
# A picture's tiles stand between a token that opens it and one that closes it.
_MARKS = 2


async def tiles(request: Request) -> Response:
    """`{model, image, pictures}` -> `{kind, tiles, tokens, ...}`, with the tiles as PNG files in base64 on demand.

    `image` is a picture or a film in base64. The count of a picture is read from the head of its file; a film is
    decoded, and its model loaded, as the words between its frames are counted too.
    """
    services = services_of(request)
    fields = await read_fields(request, "TilesRequest")
    data = decode_base64(fields.required("image"))
    model = await services.model(model_name(fields))
    facts = await asyncio.to_thread(lambda: abilities(model).facts)
    if facts.vision is None:
        raise Unsupported(f"model '{model.name.short}' does not take pictures; choose one with the capability vision")
    options = check_options({**model.params, **(fields.object("options") or {})})
    shown = bool(fields.flag("pictures"))
    if is_video(data):
        answer = await until_disconnect(request, _film(services, model, facts, fields, data, options, shown))
    else:
        answer = await until_disconnect(request, _picture(facts, facts.vision, data, options, shown))
    return GoJSONResponse({"model": model.name.short, "tile_size": facts.vision.tile_size, **answer})


async def _picture(
    facts: ModelFacts, vision: VisionFacts, data: bytes, options: dict[str, Any], shown: bool
) -> dict[str, Any]:
    spec = limited(vision.tile_spec, options.get("max_patches"), options.get("max_total_patches"))
    cost = await asyncio.to_thread(count_tokens, data, spec, vision.tokens_per_tile)
    counted = {
        "kind": "image",
        "tiles": cost.tiles,
        "tokens": cost.tokens + _MARKS,
        "columns": cost.columns,
        "rows": cost.rows,
        "thumbnail": cost.tiles > cost.columns * cost.rows,
    }
    if not shown:
        return counted
    return counted | await asyncio.to_thread(_pictures, await _parts(Image(data), facts, options))


async def _film(
    services: Services,
    model: StoredModel,
    facts: ModelFacts,
    fields: Fields,
    data: bytes,
    options: dict[str, Any],
    shown: bool,
) -> dict[str, Any]:
    parts = await _parts(Video(data), facts, options)
    async with services.scheduler.acquire(model.name.short, fields.object("options") or {}) as lease:
        tokens = int(await lease.runner.count(countable(parts)))
    count = sum(len(part) for part in parts if not isinstance(part, str))
    pictures = await asyncio.to_thread(_pictures, parts) if shown else {}
    return {"kind": "video", "tiles": count, "tokens": tokens, "frames": count} | pictures


async def _parts(medium: Image | Video, facts: ModelFacts, options: dict[str, Any]) -> Parts:
    return (await media_parts([Message("user", (medium,))], facts, options))[id(medium)]


def _pictures(parts: Parts) -> dict[str, Any]:
    found = [tile for part in parts if not isinstance(part, str) for tile in part]
    shown = {"pictures": [_png(tile) for tile in found[:MAX_SHOWN]]}
    return shown | ({"left_out": len(found) - MAX_SHOWN} if len(found) > MAX_SHOWN else {})


def _png(tile: np.ndarray[Any, np.dtype[np.uint8]]) -> str:
    out = io.BytesIO()
    Pillow.fromarray(tile).save(out, "PNG", compress_level=1)
    return base64.b64encode(out.getvalue()).decode("ascii")
