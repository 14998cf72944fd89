"""Pictures: grids and pixels against the Hugging Face processor, every file format, and files that lie."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from interns1_local.errors import MediaError
from interns1_local.media.image import MAX_PIXELS, choose_grid, count_tiles, load_image, tile_image
from interns1_local.media.wishes import TileSpec
from tests.media.pictures import encoded, picture

INTERNS1 = TileSpec(448)


@pytest.mark.parametrize(
    ("size", "grid", "tiles"),
    [
        ((224, 224), (1, 1), 1),
        ((448, 448), (1, 1), 1),
        ((200, 400), (1, 2), 3),
        ((400, 300), (4, 3), 13),
        ((100, 1200), (1, 12), 13),
        ((449, 449), (1, 1), 1),
        ((512, 512), (1, 1), 1),
        ((640, 480), (4, 3), 13),
        ((800, 600), (4, 3), 13),
        ((1024, 768), (4, 3), 13),
        ((1024, 1024), (3, 3), 10),
        ((1280, 720), (4, 2), 9),
        ((1920, 1080), (4, 2), 9),
        ((2480, 3508), (2, 3), 7),
        ((3000, 2000), (3, 2), 7),
        ((4032, 3024), (4, 3), 13),
        ((720, 1280), (2, 4), 9),
        ((900, 450), (2, 1), 3),
        ((1, 1), (1, 1), 1),
        ((1, 10_000), (1, 12), 13),
        ((10_000, 1), (12, 1), 13),
    ],
)
def test_grids_of_interns1(size: tuple[int, int], grid: tuple[int, int], tiles: int) -> None:
    assert choose_grid(*size, INTERNS1) == grid
    assert count_tiles(*size, INTERNS1) == tiles


def processor(spec: TileSpec) -> Any:
    module = pytest.importorskip("transformers.models.got_ocr2.image_processing_pil_got_ocr2")
    size = {"height": spec.size, "width": spec.size}
    return module.GotOcr2ImageProcessorPil(
        size=size, resample=3, crop_to_patches=True, min_patches=spec.min_patches, max_patches=spec.max_patches
    )


@pytest.mark.parametrize("spec", [TileSpec(112), TileSpec(56, 1, 6), TileSpec(56, 2, 4), TileSpec(56, 1, 1)], ids=str)
def test_tiles_are_those_of_hugging_face(spec: TileSpec) -> None:
    reference = processor(spec)
    sizes = [(1, 1), (30, 90), (112, 112), (113, 112), (300, 200), (200, 300), (400, 301), (17, 640), (250, 250)]
    for seed, (width, height) in enumerate(sizes):
        image = picture(width, height, seed)
        result = reference(image, do_rescale=False, do_normalize=False, return_tensors="np")
        expected: NDArray[np.uint8] = result["pixel_values"].transpose(0, 2, 3, 1)
        tiles = tile_image(image, spec)
        assert tiles.shape == expected.shape
        assert tiles.dtype == np.uint8 and tiles.flags.c_contiguous
        assert np.abs(tiles.astype(int) - expected.astype(int)).max() <= 1
        assert count_tiles(width, height, spec) == len(tiles)


def test_tiles_go_row_by_row_and_the_whole_picture_comes_last() -> None:
    spec = TileSpec(4, 1, 6)
    image = Image.fromarray(np.repeat(np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3), 4, 0), 4, 1)).convert("RGB")
    tiles = tile_image(image, spec)
    assert [int(tile[0, 0, 0]) for tile in tiles[:6]] == [0, 1, 2, 3, 4, 5]
    assert len(tiles) == 7
    assert (
        len(tile_image(image, TileSpec(4, 1, 6, thumbnail=False))) == 6 == count_tiles(12, 8, TileSpec(4, 1, 6, False))
    )


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_formats(format: str) -> None:
    image = load_image(encoded(Image.new("RGB", (9, 5), (200, 100, 50)), format))
    assert (image.mode, image.size) == ("RGB", (9, 5))
    assert np.abs(np.asarray(image)[2, 4].astype(int) - (200, 100, 50)).max() <= 8


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I;16", "I", "F"])
def test_modes(mode: str) -> None:
    format = {"CMYK": "JPEG", "YCbCr": "JPEG", "I": "TIFF", "F": "TIFF"}.get(mode, "PNG")
    data = encoded(Image.new("L", (6, 4), 255).convert(mode), format)
    assert load_image(data).mode == "RGB"


def test_sixteen_bits_are_scaled_not_cut_off() -> None:
    grey = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    assert np.asarray(load_image(encoded(Image.fromarray(grey), "PNG")))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_hidden_colours_of_transparent_pixels_show_as_in_hugging_face() -> None:
    image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
    assert np.asarray(load_image(encoded(image, "PNG")))[0, 0].tolist() == [10, 20, 30]


def test_a_photograph_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("RGB", (8, 4), "black")
    image.paste((255, 255, 255), (0, 0, 4, 4))
    upright = load_image(encoded(image, "JPEG", exif=exif, quality=95))
    assert upright.size == (4, 8)
    assert np.asarray(upright)[0].mean() > 200 > 50 > np.asarray(upright)[7].mean()


def test_the_first_frame_of_a_moving_picture() -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(load_image(data))[0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4", b"<svg/>", b"\xff\xd8\xff\xe0", b"GIF89a"]
)
def test_what_is_no_picture(data: bytes) -> None:
    with pytest.raises(MediaError, match="image"):
        load_image(data)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_file_that_is_cut_short(format: str) -> None:
    data = encoded(picture(64, 64), format)
    for part in (0.1, 0.5, 0.9):
        with pytest.raises(MediaError):
            load_image(data[: int(len(data) * part)])


def png_that_says(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "size", [(MAX_PIXELS // 1000 + 1, 1000), (10_000, 9_500), (50_000, 50_000), (2**31 - 1, 2**31 - 1)]
)
def test_a_picture_too_large_to_open(size: tuple[int, int]) -> None:
    with pytest.raises(MediaError, match="limit"):
        load_image(png_that_says(*size))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_damage_anywhere_is_an_error_or_a_picture() -> None:
    generator = np.random.default_rng(5)
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = bytearray(encoded(picture(16, 16), format))
        for place in generator.integers(0, len(data), 40):
            damaged = bytearray(data)
            damaged[place] ^= 0xFF
            try:
                assert load_image(bytes(damaged)).mode == "RGB"
            except MediaError:
                continue
