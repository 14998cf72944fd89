"""Pictures and films of a conversation to what stands in their places in the prompt: tiles, and texts between them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from interns1_local.chat.message import Image, Message, Video
from interns1_local.errors import MediaError, Unsupported
from interns1_local.generation.prompt import Parts
from interns1_local.media.frame_cache import FrameCache
from interns1_local.media.image import limited
from interns1_local.media.tile_cache import TileCache
from interns1_local.media.video import Film, FrameChoice, Frames, frame_texts, stretch_frames
from interns1_local.runners.model_spec import ModelFacts, VisionFacts

# More than any context of these models holds, and memory that a server can spare.
MAX_TILES = 512
_NO_IMAGES = (
    "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj, "
    "the model's vision file, as a second FROM line"
)
# Films have threads of their own, so that the pictures of others do not wait for them.
_FILMS = ThreadPoolExecutor(2, thread_name_prefix="film")
# A conversation brings its films and pictures along every time.
_RECENT = FrameCache(128 * 2**20)
_RECENT_PICTURES = TileCache(64 * 2**20)


async def media_parts(messages: Sequence[Message], facts: ModelFacts, options: Mapping[str, Any]) -> dict[int, Parts]:
    """The parts of the prompt that each picture and film becomes, by the identity of its part of a message.

    Options: `max_patches` for a picture, `max_total_patches` for all of them together, `num_frames` or `fps` and
    `frame_prefix` for films. Raises MediaError and Unsupported.
    """
    media = [part for message in messages for part in message.media]
    if not media:
        return {}
    if facts.vision is None:
        raise Unsupported(_NO_IMAGES)
    images = [part for part in media if isinstance(part, Image)]
    parts = await asyncio.to_thread(_tiles, images, facts.vision, options)
    for part in media:
        if isinstance(part, Video):
            parts[id(part)] = await _video(part, facts.vision, options)
    count = sum(len(piece) for pieces in parts.values() for piece in pieces if not isinstance(piece, str))
    _check(count)
    return parts


def _tiles(images: Sequence[Image], vision: VisionFacts, options: Mapping[str, Any]) -> dict[int, Parts]:
    parts: dict[int, Parts] = {}
    count = 0
    for image in images:
        most = image.max_patches if image.max_patches is not None else options.get("max_patches")
        spec = limited(vision.tile_spec, most, options.get("max_total_patches"), len(images))
        tiles = _RECENT_PICTURES.tiles(image.data, spec)
        count += len(tiles)
        _check(count)
        parts[id(image)] = [tiles]
    return parts


async def _video(video: Video, vision: VisionFacts, options: Mapping[str, Any]) -> Parts:
    prefix = str(options.get("frame_prefix", vision.frame_prefix))
    choice = _choice(video, vision, options)
    frames = await _frames(video, choice, vision.tile_size)
    texts = frame_texts(prefix, len(frames))
    return [piece for text, frame in zip(texts, frames, strict=True) for piece in (text, frame[None])]


def _choice(video: Video, vision: VisionFacts, options: Mapping[str, Any]) -> FrameChoice:
    """The film's own wish, else the request's, else the checkpoint's. Frames sent as pictures are chosen already."""
    if video.num_frames is not None or video.fps is not None:
        return FrameChoice(video.num_frames, video.fps)
    if video.frames:
        return FrameChoice()
    if options.get("num_frames") is not None or options.get("fps") is not None:
        return FrameChoice(options.get("num_frames"), options.get("fps"))
    return FrameChoice(vision.num_frames, vision.fps)


async def _frames(video: Video, choice: FrameChoice, size: int) -> Frames:
    loop = asyncio.get_running_loop()
    if video.frames:
        return await loop.run_in_executor(_FILMS, stretch_frames, video.frames, choice, size)
    film = Film(video.data, choice, size)
    try:
        return await loop.run_in_executor(_FILMS, _RECENT.frames, film)
    finally:
        # The client may have left.
        film.stop()


def _check(tiles: int) -> None:
    if tiles > MAX_TILES:
        raise MediaError(
            f"the pictures of this request make more than {MAX_TILES} tiles; send fewer, or lower max_patches "
            "or num_frames"
        )
