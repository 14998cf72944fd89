"""Films on their way into a prompt: decoded beside other work, given up when nobody waits, and decoded once."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pictures

from interns1_local.chat.message import Image, Message, Video
from interns1_local.errors import MediaError
from interns1_local.generation.media_parts import media_parts
from interns1_local.media.frame_cache import FrameCache
from interns1_local.media.video import Film, FrameChoice
from interns1_local.runners.model_spec import ModelFacts, read_model_facts
from tests.media import films
from tests.server.fake_runner import write_gguf, write_mmproj


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    folder = tmp_path_factory.mktemp("facts")
    return read_model_facts(write_gguf(folder / "model.gguf"), write_mmproj(folder / "mmproj.gguf"))


@pytest.fixture(scope="module")
def slow_film() -> bytes:
    """One keyframe, so that all that stands before a frame has to be decoded."""
    pictures = [np.kron(films.frame(number), np.ones((10, 10, 1), np.uint8)) for number in range(64)]
    buffer = io.BytesIO()
    films.write_film(buffer, (pictures[number % 64] for number in range(600)), codec="libx264", gop=100_000)
    return buffer.getvalue()


def png() -> bytes:
    buffer = io.BytesIO()
    Pictures.new("RGB", (64, 64)).save(buffer, "PNG")
    return buffer.getvalue()


def user(part: Image | Video) -> list[Message]:
    return [Message("user", (part,))]


def test_pictures_do_not_wait_for_films(facts: ModelFacts, slow_film: bytes) -> None:
    async def run() -> None:
        wishes = [{"num_frames": count} for count in range(40, 46)]
        waiting = [asyncio.create_task(media_parts(user(Video(slow_film)), facts, wish)) for wish in wishes]
        await asyncio.sleep(0)
        await media_parts(user(Image(png())), facts, {})
        assert not any(task.done() for task in waiting)
        # Those who asked leave; the film that comes next has a thread again.
        for task in waiting:
            task.cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert all(isinstance(result, asyncio.CancelledError) for result in results)
        [parts] = (await media_parts(user(Video(films.film(12))), facts, {"num_frames": 2})).values()
        assert [part if isinstance(part, str) else part.shape for part in parts] == [
            "Frame1: ",
            (1, 56, 56, 3),
            "\nFrame2: ",
            (1, 56, 56, 3),
        ]

    asyncio.run(run())


def test_a_film_is_decoded_once(tmp_path: Path) -> None:
    data = films.film(12)
    cache = FrameCache(10 * 2**20)
    first = cache.frames(Film(data, FrameChoice(3), 56))
    again = Film(data, FrameChoice(3), 56)
    # It can be decoded no more, and need not be.
    again.stop()
    assert cache.frames(again) is first
    assert len(cache.frames(Film(data, FrameChoice(4), 56))) == 4
    assert len(cache.frames(Film(data, FrameChoice(3), 28))[0]) == 28
    path = tmp_path / "film.mp4"
    path.write_bytes(data)
    assert cache.frames(Film(path, FrameChoice(3), 56)) is first


def test_remembered_frames_are_bounded() -> None:
    data = films.film(12)
    one = 3 * 56 * 56 * 3
    cache = FrameCache(one)
    cache.frames(Film(data, FrameChoice(3), 56))
    cache.frames(Film(data, FrameChoice(2), 56))
    forgotten = Film(data, FrameChoice(3), 56)
    forgotten.stop()
    with pytest.raises(MediaError):
        cache.frames(forgotten)
    # Larger than the whole cache: given, not kept.
    assert len(cache.frames(Film(data, FrameChoice(12), 56))) == 12
