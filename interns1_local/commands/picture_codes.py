"""A picture as what a terminal reads: kitty's graphics protocol, sixel, or text of half blocks."""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

_CHUNK = 4096
_COLOURS = 32
_BAND = 6


def kitty(png: bytes) -> str:
    """PNG bytes, shown where the cursor is; the terminal is asked not to answer."""
    data = base64.b64encode(png).decode("ascii")
    parts = [data[start : start + _CHUNK] for start in range(0, len(data), _CHUNK)]
    codes = []
    for place, part in enumerate(parts):
        head = "a=T,f=100,q=2," if place == 0 else ""
        codes.append(f"\x1b_G{head}m={int(place < len(parts) - 1)};{part}\x1b\\")
    return "".join(codes)


def sixel(png: bytes) -> str:
    """Bands of six rows; in each, one line for every colour that occurs in it."""
    picture = _open(png).convert("RGB").quantize(_COLOURS)
    width, height = picture.size
    pixels = picture.tobytes()
    palette = picture.getpalette() or []
    codes = [f'\x1bPq"1;1;{width};{height}']
    for colour in sorted(set(pixels)):
        red, green, blue = (round(part * 100 / 255) for part in palette[3 * colour : 3 * colour + 3])
        codes.append(f"#{colour};2;{red};{green};{blue}")
    for top in range(0, height, _BAND):
        bits: defaultdict[int, bytearray] = defaultdict(lambda: bytearray(width))
        for bit, row in enumerate(range(top, min(top + _BAND, height))):
            for column, colour in enumerate(pixels[row * width : (row + 1) * width]):
                bits[colour][column] |= 1 << bit
        lines = (f"#{colour}{_sixel_line(bits[colour])}" for colour in sorted(bits))
        codes.append("$".join(lines) + "-")
    return "".join(codes) + "\x1b\\"


def _sixel_line(bits: bytearray) -> str:
    """One colour of a band: six bits a column, runs of the same shortened."""
    runs = ((chr(63 + value), len(list(same))) for value, same in groupby(bits.rstrip(b"\0")))
    return "".join(f"!{count}{sign}" if count > 3 else sign * count for sign, count in runs)


def half_blocks(png: bytes, columns: int) -> str:
    """Two pixels to a character, in 24-bit colours; where the picture is transparent, so is the text."""
    picture = _open(png).convert("RGBA")
    bounds = picture.getbbox()
    if bounds is not None:
        picture = picture.crop(bounds)
    width = max(1, min(columns, picture.width))
    height = max(2, round(picture.height * width / picture.width))
    picture = picture.resize((width, height + height % 2))
    data = picture.tobytes()
    pixels = [
        [tuple(data[at : at + 4]) for at in range(start, start + 4 * width, 4)]
        for start in range(0, len(data), 4 * width)
    ]
    lines = []
    for row in range(0, picture.height, 2):
        cells = [_half_block(*pair) for pair in zip(pixels[row], pixels[row + 1], strict=True)]
        runs = ((code, "".join(sign for _, sign in same)) for code, same in groupby(cells, key=lambda cell: cell[0]))
        lines.append("".join(f"\x1b[{code}m{signs}" for code, signs in runs) + "\x1b[0m")
    return "\n".join(lines)


def _half_block(upper: tuple[int, ...], lower: tuple[int, ...]) -> tuple[str, str]:
    """The code of a character's colours, and the character."""
    over, under = upper[3] > 100, lower[3] > 100
    if over and under:
        return f"0;{_rgb(38, upper)};{_rgb(48, lower)}", "▀"
    if over or under:
        return f"0;{_rgb(38, upper if over else lower)}", "▀" if over else "▄"
    return "0", " "


def _rgb(ground: int, pixel: tuple[int, ...]) -> str:
    return f"{ground};2;{pixel[0]};{pixel[1]};{pixel[2]}"


def _open(png: bytes) -> Image:
    from PIL import Image

    return Image.open(io.BytesIO(png))
