"""A picture file to the tiles that the vision tower sees, as the Hugging Face processor makes them.

The grid follows the picture's shape alone; the picture is stretched over it, cut row by row, and shown whole last.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from interns1_local.errors import MediaError
from interns1_local.media.wishes import TileSpec

# Below the size at which Pillow warns.
MAX_PIXELS = 89_000_000
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Intern-S1 was trained with at most 12 in all; a larger choice only costs memory.
MAX_PATCHES = 100
_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)


@dataclass(frozen=True, slots=True)
class PictureCost:
    """The grid of a picture, its tiles with the whole picture, and the tokens of these; two more open and close it."""

    columns: int
    rows: int
    tiles: int
    tokens: int


def load_image(data: bytes) -> Image.Image:
    """Decode a file to RGB, the right way up; the first frame of a moving picture."""
    with _opened(data) as image:
        image.load()
        # In place: a large picture is in memory once, not three times.
        ImageOps.exif_transpose(image, in_place=True)
        return _to_rgb(image)


def count_tokens(data: bytes, spec: TileSpec, tokens_per_tile: int) -> PictureCost:
    """What a picture will cost, from the head of its file: nothing is decoded."""
    with _opened(data) as image:
        width, height = image.size
        if image.getexif().get(_ORIENTATION) in _TURNED:
            width, height = height, width
    columns, rows = choose_grid(width, height, spec)
    tiles = count_tiles(width, height, spec)
    return PictureCost(columns, rows, tiles, tiles * tokens_per_tile)


def limited(spec: TileSpec, max_patches: int | None = None, budget: int | None = None, pictures: int = 1) -> TileSpec:
    """`spec` with other limits: `max_patches` for a picture, `budget` for all `pictures` of a request in equal shares.

    The shares are those of the training, max(1, budget // pictures). Raises MediaError for a limit that is none.
    """
    if max_patches is not None and not 1 <= max_patches <= MAX_PATCHES:
        raise MediaError(f"max_patches must be between 1 and {MAX_PATCHES}; it is {max_patches}")
    if budget is not None and budget < 1:
        raise MediaError(f"max_total_patches must be at least 1; it is {budget}")
    most = spec.max_patches if max_patches is None else max_patches
    if budget is not None:
        most = min(most, max(1, budget // max(pictures, 1)))
    return replace(spec, min_patches=min(spec.min_patches, most), max_patches=most)


def tile_image(image: Image.Image, spec: TileSpec) -> NDArray[np.uint8]:
    """uint8 [tiles, size, size, 3]: the grid's tiles row by row, then the whole picture if there are several."""
    columns, rows = choose_grid(*image.size, spec)
    canvas = stretch(image, spec.size * columns, spec.size * rows)
    grid = canvas.reshape(rows, spec.size, columns, spec.size, 3)
    tiles = grid.swapaxes(1, 2).reshape(rows * columns, spec.size, spec.size, 3)
    if spec.thumbnail and len(tiles) > 1:
        tiles = np.concatenate([tiles, stretch(image, spec.size, spec.size)[None]])
    return np.ascontiguousarray(tiles)


def count_tiles(width: int, height: int, spec: TileSpec) -> int:
    """How many tiles `tile_image` makes of a picture of this size."""
    columns, rows = choose_grid(width, height, spec)
    tiles = columns * rows
    return tiles + (1 if spec.thumbnail and tiles > 1 else 0)


def choose_grid(width: int, height: int, spec: TileSpec) -> tuple[int, int]:
    """(columns, rows) of the grid nearest in shape; among equals, the larger while the picture fills half of it."""
    if spec.max_patches <= 1:
        return 1, 1
    shape = width / height
    best, best_distance = (1, 1), float("inf")
    for columns, rows in _grids(spec.min_patches, spec.max_patches):
        distance = abs(shape - columns / rows)
        fills_half = width * height > 0.5 * spec.size * spec.size * columns * rows
        if distance < best_distance or (distance == best_distance and fills_half):
            best, best_distance = (columns, rows), distance
    return best


@lru_cache(maxsize=32)
def _grids(smallest: int, largest: int) -> tuple[tuple[int, int], ...]:
    sides = range(1, largest + 1)
    grids = [(columns, rows) for columns in sides for rows in sides if smallest <= columns * rows <= largest]
    return tuple(sorted(grids, key=lambda grid: grid[0] * grid[1]))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """The picture with its head read; what Pillow raises meanwhile becomes MediaError."""
    if not data:
        raise MediaError("the image is empty")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(*image.size)
            yield image
    except UnidentifiedImageError:
        raise MediaError("the image is not a PNG, JPEG, WebP, GIF, BMP or TIFF file") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise MediaError(f"the image is larger than the limit of {MAX_PIXELS} pixels") from None
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, OverflowError) as error:
        # Pillow raises any of these for a file that is cut short or damaged.
        raise MediaError(f"the image is damaged or cut short: {error}") from error


def stretch(image: Image.Image, width: int, height: int) -> NDArray[np.uint8]:
    """uint8 [height, width, 3]: the whole picture at another size, bicubic with antialiasing."""
    resized = image if image.size == (width, height) else image.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(resized, dtype=np.uint8)


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow clips 16-bit grey to 255 instead of scaling it, which leaves a white picture.
    if image.mode.startswith("I;16") or (image.mode == "I" and np.asarray(image).max() > 255):
        grey = np.asarray(image, dtype=np.float64) / 257.0
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    if rgb.info.get("transparency") is None:
        return rgb
    # The reference drops an alpha channel, and shows the colours under it; a transparent colour it paints white.
    white = Image.new("RGBA", rgb.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, rgb.convert("RGBA")).convert("RGB")


def _check_size(width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise MediaError(f"the image has no pixels: it is {width}x{height}")
    if width * height > MAX_PIXELS:
        raise MediaError(f"the image has {width}x{height} pixels; the limit is {MAX_PIXELS} in all")
