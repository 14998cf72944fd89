"""Pictures on the server: what they cost, who limits them, and that no tile is computed twice."""

from __future__ import annotations

import base64
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import ollama
import openai
import pytest
from PIL import Image

from interns1_local.config import load_settings
from interns1_local.engine.llama import Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sequence import Tile
from interns1_local.media.image import count_tokens, load_image, tile_image
from interns1_local.media.wishes import TileSpec
from interns1_local.nano.pictures import TILE, Thing, draw_things, png
from tests.nano.conftest import Converted

GREEDY = {"temperature": 0, "num_predict": 24}


def picture(seed: int, width: int = TILE, height: int = TILE) -> bytes:
    things = [Thing("blue", "square", "center"), Thing("red", "circle", "top left")]
    return png(draw_things(things, width=width, height=height, rng=random.Random(seed)))


@pytest.fixture(scope="module")
def ask(server: str, served: Callable[[str], str]) -> Iterator[Callable[..., dict[str, Any]]]:
    """`ask(question, pictures, options)` -> the answer of /api/chat."""
    with httpx.Client(base_url=server, timeout=120) as client:

        def post(question: str, pictures: list[bytes], before: str = "", **options: Any) -> dict[str, Any]:
            images = [base64.b64encode(data).decode() for data in pictures]
            messages = [{"role": "user", "content": question, "images": images}]
            if before:
                messages.insert(0, {"role": "system", "content": before})
            body = {"model": served("F32"), "messages": messages, "options": {**GREEDY, **options}, "think": False}
            answer = client.post("/api/chat", json={**body, "stream": False})
            assert answer.status_code == 200, answer.text
            found: dict[str, Any] = answer.json()
            return found

        yield post


def test_a_second_question_computes_no_tile(ask: Callable[..., dict[str, Any]]) -> None:
    data = picture(1, 300, 200)
    tiles = tile_image(load_image(data), TileSpec(TILE))
    # Parts that show nothing but the ground are alike.
    different = len({tile.tobytes() for tile in tiles})
    first = ask("What is in the center?", [data])
    assert (first["image_tiles"], first["image_tiles_computed"]) == (7, different)
    second = ask("Which shape is at the top left?", [data])
    assert (second["image_tiles"], second["image_tiles_computed"]) == (7, 0)
    # The picture stands before the question, so its places were still in the context.
    assert second["prompt_eval_cached_count"] > 7 * 16
    # Behind other words its places have to be filled again, yet the tower has nothing to do.
    third = ask("What is in the center?", [data], before="Say it in few words.")
    assert third["image_tiles_computed"] == 0
    assert third.get("prompt_eval_cached_count", 0) < 7 * 16


def test_the_same_picture_in_another_file_format(ask: Callable[..., dict[str, Any]]) -> None:
    """Tiles are known by their pixels."""
    data = picture(2)
    bmp = io.BytesIO()
    Image.open(io.BytesIO(data)).save(bmp, "BMP")
    assert ask("What is in the center?", [data])["image_tiles_computed"] == 1
    assert ask("What is in the center?", [bmp.getvalue()])["image_tiles_computed"] == 0


def test_costs_are_known_before(ask: Callable[..., dict[str, Any]]) -> None:
    data = picture(3, 400, 300)
    without = ask("What is in the center?", [])["prompt_eval_count"]
    for most in (1, 4, 12):
        cost = count_tokens(data, TileSpec(TILE, 1, most), 16)
        answer = ask("What is in the center?", [data], max_patches=most)
        assert answer["image_tiles"] == cost.tiles
        # Two tokens around the picture, and the end of its line.
        assert answer["prompt_eval_count"] == without + cost.tokens + 3


def test_a_budget_is_shared(ask: Callable[..., dict[str, Any]]) -> None:
    pictures = [picture(seed, 400, 300) for seed in (4, 5)]
    assert ask("What?", pictures)["image_tiles"] == 26
    assert ask("What?", pictures, max_total_patches=12)["image_tiles"] == 2 * 7
    assert ask("What?", pictures, max_total_patches=2)["image_tiles"] == 2
    assert ask("What?", pictures, max_total_patches=12, max_patches=1)["image_tiles"] == 2


def test_an_option_of_the_modelfile(server: str, served: Callable[[str], str]) -> None:
    with ollama.Client(server) as client:
        client.create("nano-few-tiles", from_=served("F32"), parameters={"max_patches": 1, "frame_prefix": "No. {i}: "})
        message = {"role": "user", "content": "What?", "images": [picture(6, 400, 300)]}
        answer = httpx.post(
            f"{server}/api/chat",
            json={
                "model": "nano-few-tiles",
                "messages": [{**message, "images": [base64.b64encode(message["images"][0]).decode()]}],
                "options": GREEDY,
                "stream": False,
            },
            timeout=120,
        ).json()
    assert answer["image_tiles"] == 1


@pytest.mark.parametrize(
    ("image", "extra", "tiles"),
    [
        ({}, {}, 13),
        ({"detail": "high"}, {}, 13),
        ({"detail": "low"}, {}, 1),
        ({"max_patches": 4}, {}, 5),
        ({"detail": "low", "max_patches": 4}, {}, 5),
        ({}, {"mm_processor_kwargs": {"max_patches": 2}}, 3),
        ({}, {"options": {"max_patches": 2}}, 3),
    ],
)
def test_openai(
    image: dict[str, Any], extra: dict[str, Any], tiles: int, server: str, served: Callable[[str], str]
) -> None:
    url = "data:image/png;base64," + base64.b64encode(picture(7, 400, 301)).decode()
    content: Any = [{"type": "image_url", "image_url": {"url": url, **image}}, {"type": "text", "text": "What?"}]
    with openai.OpenAI(base_url=f"{server}/v1", api_key="none") as client:
        answer = client.chat.completions.create(
            model=served("F32"),
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=4,
            extra_body=extra,
        )
    assert answer.usage and answer.usage.prompt_tokens_details
    details = answer.usage.prompt_tokens_details.model_dump()
    expected = tiles if tiles != 3 else count_tokens(picture(7, 400, 301), TileSpec(TILE, 1, 2), 16).tiles
    assert details["image_tiles"] == expected


def test_what_is_remembered_is_bounded(nano_gguf: Callable[..., Converted]) -> None:
    model_path, mmproj_path = nano_gguf("F32", "F32")
    model = Model(model_path, ON_CPU)
    pixels = np.random.default_rng(0).integers(0, 256, (4, TILE, TILE, 3), dtype=np.uint8)
    size = 16 * model.n_embd * 4
    # Room for two: of four tiles taken twice in order none is found again, the last two are.
    for room, order, computed in (
        (2 * size, "01230123", 8),
        (2 * size, "0123323", 4),
        (0, "0011", 2),
        (9 * size, "01230123", 4),
    ):
        encoder = VisionEncoder(mmproj_path, model, 1, use_gpu=False, cache_bytes=room)
        tiles = [Tile.of(tile, 16) for tile in pixels]
        first = {name: encoder.encode(tiles[int(name)]).copy() for name in sorted(set(order))}
        encoder = _anew(encoder, mmproj_path, model, room)
        for name in order:
            assert np.array_equal(encoder.encode(tiles[int(name)]), first[name])
        assert encoder.n_computed == computed, order
        encoder.close()
    model.close()


def _anew(encoder: VisionEncoder, path: Path, model: Model, room: int) -> VisionEncoder:
    encoder.close()
    return VisionEncoder(path, model, 1, use_gpu=False, cache_bytes=room)


def test_the_setting() -> None:
    assert load_settings({}).image_cache == 256
    assert load_settings({"INTERNS1_IMAGE_CACHE": "64"}).image_cache == 64
