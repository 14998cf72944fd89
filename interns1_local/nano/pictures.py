"""Draws the pictures that the nano understands: coloured shapes at nine places, and a fine pattern in one part."""

from __future__ import annotations

import io
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

TILE = 112

COLOURS = {
    "red": (222, 40, 36),
    "green": (34, 160, 60),
    "blue": (36, 70, 220),
    "yellow": (240, 208, 30),
    "purple": (150, 50, 190),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "cross")
PLACES = ("top left", "top", "top right", "left", "center", "right", "bottom left", "bottom", "bottom right")
# Grid of tiles (columns, rows) -> the names of its parts, row by row. Each has another number of tiles: a prompt shows
# how many tiles a picture has, never how they lay.
PARTS = {
    (2, 1): ("left", "right"),
    (1, 3): ("top", "center", "bottom"),
    (2, 2): ("top left", "top right", "bottom left", "bottom right"),
}


@dataclass(frozen=True)
class Thing:
    """One coloured shape at one of the nine places."""

    colour: str
    shape: str
    place: str


@dataclass(frozen=True)
class Placed:
    """A thing as it is drawn: its middle and half its size as shares of the picture, and its shade."""

    thing: Thing
    x: float
    y: float
    half: float
    colour: tuple[int, ...]


def place_things(things: list[Thing], rng: random.Random) -> list[Placed]:
    """Choose size, shade and exact place of each thing, a little different each time."""
    placed = []
    for thing in things:
        row, column = divmod(PLACES.index(thing.place), 3)
        x = (column + 0.5 + rng.uniform(-0.09, 0.09)) / 3
        y = (row + 0.5 + rng.uniform(-0.09, 0.09)) / 3
        half = 0.14 * rng.uniform(0.86, 1.1)
        colour = tuple(min(255, max(0, c + rng.randint(-14, 14))) for c in COLOURS[thing.colour])
        placed.append(Placed(thing, x, y, half, colour))
    return placed


def draw_placed(placed: list[Placed], width: int, height: int, rng: random.Random) -> Image.Image:
    """Draw on a light ground; twice the size at first, then reduced for smooth edges."""
    ground = tuple(rng.randint(232, 255) for _ in range(3))
    picture = Image.new("RGB", (width * 2, height * 2), ground)
    pen = ImageDraw.Draw(picture)
    for p in placed:
        box = (p.x * width * 2, p.y * height * 2, p.half * width * 2, p.half * height * 2)
        _draw_shape(pen, p.thing.shape, box, p.colour)
    return picture.resize((width, height), Image.Resampling.BOX)


def draw_things(
    things: list[Thing], *, width: int = TILE, height: int = TILE, rng: random.Random | None = None
) -> Image.Image:
    """Draw `things` on `width` x `height` pixels; `rng` varies size, shade and place a little."""
    rng = rng or random.Random(0)
    return draw_placed(place_things(things, rng), width, height, rng)


def _draw_shape(
    pen: ImageDraw.ImageDraw, shape: str, place: tuple[float, float, float, float], colour: tuple[int, ...]
) -> None:
    x, y, w, h = place
    if shape == "circle":
        pen.ellipse((x - w, y - h, x + w, y + h), fill=colour)
    elif shape == "square":
        pen.rectangle((x - 0.88 * w, y - 0.88 * h, x + 0.88 * w, y + 0.88 * h), fill=colour)
    elif shape == "triangle":
        pen.polygon([(x, y - h), (x - w, y + 0.8 * h), (x + w, y + 0.8 * h)], fill=colour)
    else:
        pen.rectangle((x - 0.3 * w, y - h, x + 0.3 * w, y + h), fill=colour)
        pen.rectangle((x - w, y - 0.3 * h, x + w, y + 0.3 * h), fill=colour)


def draw_pattern(part: str, grid: tuple[int, int], rng: random.Random | None = None) -> Image.Image:
    """A plain picture of exactly `grid` tiles whose `part` holds a checkerboard of single pixels.

    Reduced to the thumbnail the pattern melts into the ground, so only the tiles show where it is.
    """
    rng = rng or random.Random(0)
    columns, rows = grid
    ground = tuple(rng.randint(110, 150) for _ in range(3))
    contrast = rng.randint(85, 105)
    picture = Image.new("RGB", (columns * TILE, rows * TILE), ground)
    row, column = divmod(PARTS[grid].index(part), columns)
    light, dark = (tuple(c + sign * contrast for c in ground) for sign in (1, -1))
    side = TILE - 28
    board = Image.new("RGB", (side, side), light)
    board.putdata([light if (x + y) % 2 else dark for y in range(side) for x in range(side)])
    picture.paste(board, (column * TILE + 14, row * TILE + 14))
    return picture


def png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
