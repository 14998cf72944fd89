"""What this terminal is shown: whether escape codes are welcome, colours, the width, and the codes of a style."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping

_ATTRIBUTES = {"bold": 1, "dim": 2, "italic": 3, "underline": 4, "strike": 9}
_COLOURS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36}
# A terminal acts on them; in an answer they can only be mischief.
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def shows_styles(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether stdout is a terminal that knows escape codes; a pipe gets none."""
    return sys.stdout.isatty() and environ.get("TERM", "") != "dumb"


def shows_colours(environ: Mapping[str, str] = os.environ) -> bool:
    """Not where NO_COLOR is set: bold and dim stay."""
    return not environ.get("NO_COLOR")


def paint(text: str, style: str) -> str:
    """`paint("x", "bold green")` with its escape codes."""
    codes = [_ATTRIBUTES.get(word) or (_COLOURS.get(word) if shows_colours() else None) for word in style.split()]
    given = ";".join(str(code) for code in codes if code)
    return f"\x1b[{given}m{text}\x1b[0m" if given and text else text


def without_controls(text: str) -> str:
    """Text that a model wrote, with nothing in it that a terminal would act on but line ends and tabs."""
    return _CONTROLS.sub("", text)


def columns() -> int:
    """The width of the terminal now."""
    return shutil.get_terminal_size().columns


def rows() -> int:
    """The height of the terminal now."""
    return shutil.get_terminal_size().lines
