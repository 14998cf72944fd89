"""Files of every kind, through ours and through Hugging Face's own loader and processor: at most one level apart."""

from __future__ import annotations

import base64
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from transformers.image_utils import load_image as reference_load_image
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)

from interns1_local.errors import MediaError
from interns1_local.media.image import (
    MAX_PATCHES,
    PictureCost,
    TileSpec,
    choose_grid,
    count_tiles,
    count_tokens,
    limited,
    load_image,
    tile_image,
)
from tests.media.films import PEAK_UNIT
from tests.media.pictures import encoded

INTERNS1 = TileSpec(448)


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with fine detail: what rounding and filters show on."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    noise = generator.integers(-24, 25, (height, width, 3))
    return Image.fromarray(np.clip(smooth + noise, 0, 255).astype(np.uint8))


def png_of_16_bits(width: int, height: int) -> bytes:
    """RGB with 16 bits a channel, which Pillow reads but does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    pixels = np.random.default_rng(1).integers(0, 65536, (height, width, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def with_orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


def files() -> dict[str, bytes]:
    photo = photograph(150, 100)
    alpha = photo.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(photo.size))
    frames = [photograph(60, 40, seed) for seed in range(3)]
    palette = photo.quantize(32)
    found = {
        "png": encoded(photo, "PNG"),
        "png-rgba": encoded(alpha, "PNG"),
        "png-la": encoded(alpha.convert("LA"), "PNG"),
        "png-grey": encoded(photo.convert("L"), "PNG"),
        "png-1-bit": encoded(photo.convert("1"), "PNG"),
        "png-palette": encoded(palette, "PNG"),
        "png-palette-transparent": encoded(palette, "PNG", transparency=3),
        "png-palette-alpha": encoded(alpha.quantize(32), "PNG"),
        "png-transparent-colour": encoded(photo, "PNG", transparency=photo.getpixel((3, 3))),
        "png-transparent-grey": encoded(photo.convert("L"), "PNG", transparency=100),
        "png-16-bit": png_of_16_bits(90, 60),
        "jpeg": encoded(photo, "JPEG", quality=80),
        "jpeg-grey": encoded(photo.convert("L"), "JPEG"),
        "jpeg-progressive": encoded(photo, "JPEG", progressive=True),
        "jpeg-cmyk": encoded(photo.convert("CMYK"), "JPEG"),
        "webp": encoded(photo, "WEBP"),
        "webp-lossless-alpha": encoded(alpha, "WEBP", lossless=True),
        "webp-moving": encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
        "gif": encoded(photo, "GIF"),
        "gif-transparent": encoded(palette, "GIF", transparency=3),
        "gif-moving": encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bmp": encoded(photo, "BMP"),
        "tiff": encoded(photo, "TIFF"),
        "tiff-lzw-rgba": encoded(alpha, "TIFF", compression="tiff_lzw"),
        "tiff-cmyk": encoded(photo.convert("CMYK"), "TIFF"),
        "one-pixel": encoded(Image.new("RGB", (1, 1), (1, 2, 3)), "PNG"),
    }
    turned = {f"jpeg-exif-{n}": encoded(photo, "JPEG", exif=with_orientation(n)) for n in range(1, 9)}
    return found | turned | {"png-exif": encoded(photo, "PNG", exif=with_orientation(8))}


FILES = files()


def reference_tiles(data: bytes, spec: TileSpec) -> NDArray[np.uint8]:
    size = {"height": spec.size, "width": spec.size}
    processor = GotOcr2ImageProcessorPil(
        size=size, resample=3, crop_to_patches=True, min_patches=spec.min_patches, max_patches=spec.max_patches
    )
    image = reference_load_image(base64.b64encode(data).decode())
    result = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    pixels: NDArray[np.uint8] = result["pixel_values"].transpose(0, 2, 3, 1)
    return pixels


def assert_same(data: bytes, spec: TileSpec) -> None:
    expected, tiles = reference_tiles(data, spec), tile_image(load_image(data), spec)
    assert tiles.shape == expected.shape
    assert np.abs(tiles.astype(int) - expected.astype(int)).max() <= 1
    cost = count_tokens(data, spec, 256)
    assert (cost.tiles, cost.tokens) == (len(tiles), 256 * len(tiles))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency:UserWarning")
@pytest.mark.parametrize("kind", FILES)
def test_every_kind_of_file(kind: str) -> None:
    assert_same(FILES[kind], TileSpec(112))


@pytest.mark.parametrize(
    "size", [(1, 1), (30, 400), (448, 448), (449, 447), (640, 480), (512, 512), (900, 450), (1920, 1080), (100, 1200)]
)
def test_tiles_of_interns1(size: tuple[int, int]) -> None:
    assert_same(encoded(photograph(*size), "PNG"), INTERNS1)


@pytest.mark.parametrize("patches", [(1, 12), (1, 6), (2, 8), (1, 24), (1, 1), (3, 3)])
def test_grids_of_many_sizes(patches: tuple[int, int]) -> None:
    low, high = patches
    generator = random.Random(7)
    sizes = [(generator.randint(1, 6000), generator.randint(1, 6000)) for _ in range(1500)]
    sizes += [
        (448 * columns + off, 448 * rows) for columns in range(1, 8) for rows in range(1, 8) for off in (-1, 0, 1)
    ]
    spec = TileSpec(448, low, high)
    for width, height in sizes:
        expected = get_optimal_tiled_canvas((height, width), (448, 448), low, high) if high > 1 else (1, 1)
        assert choose_grid(width, height, spec) == expected, (width, height)


def test_sixteen_bits_of_grey_are_a_choice_of_ours() -> None:
    """The reference cuts them off at 255, so that nearly everything is white; ours is the picture as others show it."""
    ramp = np.linspace(0, 65535, 112 * 112).astype(np.uint16).reshape(112, 112)
    data = encoded(Image.fromarray(ramp), "PNG")
    assert (reference_tiles(data, TileSpec(112)) == 255).mean() > 0.99
    assert np.array_equal(tile_image(load_image(data), TileSpec(112))[0, ..., 0], np.rint(ramp / 257).astype(np.uint8))


def test_costs() -> None:
    assert count_tokens(encoded(photograph(400, 300), "PNG"), INTERNS1, 256) == PictureCost(4, 3, 13, 3328)
    assert count_tokens(encoded(photograph(448, 448), "PNG"), INTERNS1, 256) == PictureCost(1, 1, 1, 256)
    sideways = encoded(photograph(400, 200), "JPEG", exif=with_orientation(6))
    assert count_tokens(sideways, INTERNS1, 256) == PictureCost(1, 2, 3, 768)
    for data in (b"", b"x", FILES["png"][:20]):
        with pytest.raises(MediaError):
            count_tokens(data, INTERNS1, 256)


@pytest.mark.parametrize(
    ("most", "budget", "pictures", "expected"),
    [
        (None, None, 1, 12),
        (6, None, 1, 6),
        (40, None, 1, 40),
        (None, 12, 1, 12),
        (None, 12, 5, 2),
        (None, 12, 30, 1),
        (None, 100, 2, 12),
        (3, 12, 2, 3),
        (8, 12, 3, 4),
    ],
)
def test_limits(most: int | None, budget: int | None, pictures: int, expected: int) -> None:
    spec = limited(INTERNS1, most, budget, pictures)
    assert spec.max_patches == expected
    assert count_tiles(400, 300, spec) <= expected + 1


@pytest.mark.parametrize(("most", "budget"), [(0, None), (-1, None), (MAX_PATCHES + 1, None), (None, 0)])
def test_limits_that_are_none(most: int | None, budget: int | None) -> None:
    with pytest.raises(MediaError, match="max_"):
        limited(INTERNS1, most, budget)


def test_a_picture_of_40_megapixels_is_in_memory_once(tmp_path: Path) -> None:
    """Pillow holds four bytes a pixel; the reduced rows of the first pass come on top."""
    path = tmp_path / "large.jpg"
    photograph(96, 72).resize((7304, 5478)).save(path)
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from interns1_local.media.image import load_image, tile_image\n"
        "from interns1_local.media.wishes import TileSpec\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "data = Path(sys.argv[1]).read_bytes()\n"
        "tiles = tile_image(load_image(data), TileSpec(448))\n"
        "print(len(tiles), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    # The peak of a process begins with its parent's, so there is one between.
    command = [sys.executable, "-c", "import subprocess, sys; subprocess.run(sys.argv[1:], check=True)"]
    command += [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    tiles, peak = done.stdout.split()
    assert int(tiles) == 13
    assert int(peak) * PEAK_UNIT < 300 * 2**20
