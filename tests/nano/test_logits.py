"""The F32 conversion computes what the Hugging Face reference computes: logits, image embeddings, greedy text."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest

from interns1_local.engine.llama import Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sequence import Tile
from interns1_local.media.image import load_image, tile_image
from interns1_local.media.wishes import TileSpec
from interns1_local.nano.pictures import PLACES, TILE, Thing, draw_things, png
from tests.nano import families
from tests.nano.conftest import Converted
from tests.nano.evaluate import exam
from tests.nano.reference import Reference, with_images
from tests.nano.stock_llama import StockModel, cosines

CLOSE = 0.9999
TEXT_FAMILIES = [*families.TEXT, *families.TOOLS]
PICTURE_FAMILIES = [*families.PICTURES, *families.TILES]


@pytest.fixture(scope="module")
def stock(nano_gguf: Callable[..., Converted]):
    model = StockModel(nano_gguf("F32", "F32")[0])
    yield model
    model.close()


@pytest.mark.parametrize("think", [True, False])
@pytest.mark.parametrize("family", TEXT_FAMILIES)
def test_text_logits(family: str, think: bool, reference: Reference, stock: StockModel) -> None:
    sample = exam(family, 1)[0]
    ids, _ = reference.prompt(sample.messages, [], sample.tools, enable_thinking=think)
    ids += reference.tokenizer.encode(sample.reply)
    ours, theirs = stock.logits([ids]), reference.logits(ids).numpy()
    assert cosines(ours, theirs).min() > CLOSE
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


def picture_embeddings(encoder: VisionEncoder, tiles: np.ndarray) -> np.ndarray:
    """Our vision path over tiles uint8 [n, side, side, 3] -> float32 [n * tokens, width]."""
    count = encoder.n_tokens(tiles.shape[1])
    return np.concatenate([encoder.encode(Tile.of(tile, count)) for tile in tiles])


@pytest.fixture(scope="module")
def encoder(nano_gguf: Callable[..., Converted]):
    model_path, mmproj_path = nano_gguf("F32", "F32")
    model = Model(model_path, ON_CPU)
    encoder = VisionEncoder(mmproj_path, model, n_threads=1, use_gpu=False)
    yield encoder
    encoder.close()
    model.close()


def our_tiles(sample: families.Sample) -> np.ndarray:
    spec = TileSpec(TILE, 1, 12)
    return np.concatenate([tile_image(load_image(png(image)), spec) for image in sample.images])


@pytest.mark.parametrize("family", PICTURE_FAMILIES)
def test_image_embeddings_and_logits(family: str, reference: Reference, stock: StockModel, encoder) -> None:
    sample = exam(family, 1)[0]
    ids, pixels = reference.prompt(with_images(sample.messages, 1), sample.images)
    theirs = reference.image_embeddings(pixels).flatten(0, 1).numpy()
    ours = picture_embeddings(encoder, our_tiles(sample))
    assert ours.shape == theirs.shape
    assert cosines(ours, theirs).min() > CLOSE

    first = ids.index(reference.config["image_token_id"])
    ids += reference.tokenizer.encode(sample.reply)
    got = stock.logits([ids[:first], ours, ids[first + len(ours) :]])
    assert cosines(got, reference.logits(ids, pixels).numpy()).min() > CLOSE


def test_tiles_in_another_order_mean_another_picture(reference: Reference, encoder) -> None:
    """The comparison above can tell: with the thumbnail first, embeddings no longer match."""
    sample = exam("tiles", 1)[0]
    _, pixels = reference.prompt(with_images(sample.messages, 1), sample.images)
    theirs = reference.image_embeddings(pixels).flatten(0, 1).numpy()
    ours = picture_embeddings(encoder, np.roll(our_tiles(sample), 1, axis=0))
    assert cosines(ours, theirs).min() < 0.99


def test_positions_matter(reference: Reference, encoder) -> None:
    """The same shape at nine places gives nine different embeddings: position rows are in use."""
    rng = random.Random(2)
    seen = []
    for place in PLACES:
        sample = families.ask("pictures", "?", "", "")
        sample.images = [draw_things([Thing("red", "circle", place)], rng=rng)]
        seen.append(picture_embeddings(encoder, our_tiles(sample)).ravel())
    matrix = np.stack(seen)
    norm = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    similar = norm @ norm.T - np.eye(len(PLACES))
    assert similar.max() < 0.9999
