"""The molecules of an answer, drawn below it where the terminal can show pictures."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import Literal, cast

import click

from interns1_local.commands import terminal_style
from interns1_local.errors import InternS1Error

Graphics = Literal["kitty", "sixel", "blocks", "off"]

MAX_SHOWN = 8
# Of a terminal that does not say the pixels of a character.
_CELL = (8, 16)
_CELLS = (40, 12)
_BLOCKS = (80, 60)
# Darker than this is a dark ground.
_HALF_LIGHT = 128


class MoleculeView:
    """How this terminal shows molecules; it is asked when that is first needed."""

    def __init__(self, wish: str = "auto", environ: Mapping[str, str] = os.environ) -> None:
        """`wish` is what the settings say: auto, kitty, sixel, blocks or off."""
        self._environ = environ
        self._wish = wish
        self._graphics: Graphics | None = None
        self._ground: tuple[int, int, int] | None = None
        self._hinted = False

    def prepare(self) -> None:
        """Ask the terminal now, while nobody types."""
        if self._graphics is None and self._shows():
            self._ask()

    def show(self, text: str) -> None:
        """Draw what `text` holds. Nothing is written where pictures cannot be shown, to a pipe least of all."""
        if not self._shows():
            return
        from interns1_local.tokenizer.shown_science import find_science

        molecules = (found.value for found in find_science(text) if found.kind == "smiles")
        found = list(dict.fromkeys(molecules))[:MAX_SHOWN]
        if not found:
            return
        from interns1_local.media.molecule_drawing import HINT, can_draw

        self.prepare()
        if self._graphics == "off":
            return
        if can_draw():
            self._draw(found)
        else:
            self._hint(HINT)

    def _shows(self) -> bool:
        return self._wish != "off" and self._graphics != "off" and terminal_style.shows_styles(self._environ)

    def _ask(self) -> None:
        from interns1_local.commands.terminal_query import ask_terminal

        answer = ask_terminal(self._environ)
        self._ground = answer.ground
        automatic = "kitty" if answer.kitty else "sixel" if answer.sixel else "off"
        self._graphics = cast(Graphics, automatic if self._wish == "auto" else self._wish)

    def _hint(self, hint: str) -> None:
        if not self._hinted:
            click.echo(terminal_style.paint(f"({hint})", "dim"))
        self._hinted = True

    def _draw(self, found: list[str]) -> None:
        from interns1_local.commands.picture_codes import half_blocks, kitty, sixel
        from interns1_local.media.molecule_drawing import DrawingStyle, draw_molecules

        columns = min(_CELLS[0], terminal_style.columns() - 1)
        cell = _cell_size()
        dark = self._ground is None or sum(self._ground) / 3 < _HALF_LIGHT
        # Sixel has no half-transparent pixels: lines are drawn on the ground that they will stand on.
        ground = (self._ground or (0, 0, 0)) if self._graphics == "sixel" else None
        width, height = columns * cell[0], _CELLS[1] * cell[1]
        if self._graphics == "blocks":
            # Letters need some ten pixels of height to be read.
            width, height = max(20, min(_BLOCKS[0], terminal_style.columns() - 1)), _BLOCKS[1]
        codes: Callable[[bytes], str] = {
            "kitty": kitty, "sixel": sixel, "blocks": lambda png: half_blocks(png, width)
        }[self._graphics or "off"]  # fmt: skip
        try:
            drawings = draw_molecules(found, DrawingStyle("png", width, height, dark, ground))
        except InternS1Error as error:
            self._hint(str(error))
            return
        for drawing in drawings:
            if drawing.data:
                click.echo(f"\n{codes(drawing.data)}\n{terminal_style.paint(_short(drawing.smiles), 'dim')}")


def _short(smiles: str) -> str:
    shown, most = terminal_style.without_controls(smiles), terminal_style.columns() - 1
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def _cell_size() -> tuple[int, int]:
    """Pixels of one character, as the terminal's driver knows them."""
    try:
        import fcntl
        import struct
        import termios

        packed = fcntl.ioctl(sys.stdout.fileno(), termios.TIOCGWINSZ, b"\0" * 8)
        rows, columns, width, height = struct.unpack("HHHH", packed)
    except (ImportError, OSError, ValueError):
        return _CELL
    if not (rows and columns and width and height):
        return _CELL
    # On a screen of very fine pixels a drawing stays below what one may ask for.
    return min(40, max(4, width // columns)), min(80, max(8, height // rows))
