"""A table as its rows come: drawn again in place while it fits on the screen, and further down once it does not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from interns1_local.commands.markdown_inline import read_inline
from interns1_local.commands.terminal_style import paint

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

Size = tuple[int, int]

_DELIMITERS = re.compile(r"\|?(\s*:?-+:?\s*\|)*\s*:?-+:?\s*\|?")
_CELL = re.compile(r"(?:\\.|`[^`]*`|[^|\\`]|[\\`])*")
_GAP = 2
_LEAST = 6


def is_delimiter_row(line: str) -> bool:
    """`|---|:--:|`: what makes a table of the line before it."""
    return "|" in line and _DELIMITERS.fullmatch(line.strip()) is not None


class TableBlock:
    """One table. `size()` gives the terminal's columns and rows now."""

    def __init__(self, header: str, delimiters: str, write: Callable[[str], None], size: Callable[[], Size]) -> None:
        self._write = write
        self._size = size
        self._justify = [_justify(cell) for cell in _cells(delimiters)]
        self._widest = [1] * len(self._justify)
        self._rows = [self._row(header)]
        self._drawn_lines = 0
        self._drawn_size = (0, 0)
        self._frozen = False
        self._draw()

    def add(self, line: str) -> None:
        """One more row."""
        self._rows.append(self._row(line))
        self._draw()

    def _draw(self) -> None:
        size = self._size()
        if not self._frozen and self._drawn_lines and (size != self._drawn_size or self._drawn_lines >= size[1] - 2):
            # What stands above the screen, or was broken by the terminal, cannot be drawn again.
            self._frozen = True
        widths = self._widths(size[0])
        if self._frozen:
            self._write("".join(self._lines(self._rows[-1:], widths)))
            return
        lines = self._lines(self._rows[:1], widths, bold=True)
        lines.append(paint("  ".join("─" * width for width in widths), "dim") + "\n")
        lines += self._lines(self._rows[1:], widths)
        back = f"\x1b[{self._drawn_lines}A\r\x1b[J" if self._drawn_lines else ""
        self._write(back + "".join(lines))
        self._drawn_lines, self._drawn_size = len(lines), size

    def _row(self, line: str) -> list[Text]:
        from rich.text import Text

        cells = [Text.assemble(*read_inline(re.sub(r"<br\s*/?>", "\n", cell))) for cell in _cells(line)]
        count = len(self._justify)
        cells = (cells + [Text("")] * count)[:count]
        for at, cell in enumerate(cells):
            self._widest[at] = max(self._widest[at], *(part.cell_len for part in cell.split(allow_blank=True)))
        return cells

    def _widths(self, limit: int) -> list[int]:
        """As wide as the widest cell of each column; the widest columns give way where the screen is too narrow."""
        widths = list(self._widest)
        room = (limit or 10_000) - _GAP * (len(widths) - 1) - 1
        while sum(widths) > room and max(widths) > _LEAST:
            widths[widths.index(max(widths))] -= 1
        return widths

    def _lines(self, rows: list[list[Text]], widths: list[int], *, bold: bool = False) -> list[str]:
        from rich.console import Console

        console = Console(width=10_000)
        out = []
        for row in rows:
            cells = [cell.wrap(console, width) for cell, width in zip(row, widths, strict=True)]
            for at in range(max(len(lines) for lines in cells)):
                parts = []
                for lines, width, justify in zip(cells, widths, self._justify, strict=True):
                    part = lines[at].copy() if at < len(lines) else lines[0].blank_copy()
                    part.align(justify, width)
                    if bold:
                        part.stylize("bold")
                    parts.append(_rendered(console, part))
                out.append((" " * _GAP).join(parts).rstrip() + "\n")
        return out


def _cells(line: str) -> list[str]:
    inner = line.strip()
    inner = inner[1:] if inner.startswith("|") else inner
    cells, position = [], 0
    while position < len(inner):
        found = _CELL.match(inner, position)
        assert found is not None
        cells.append(found.group().strip().replace("\\|", "|"))
        position = found.end() + 1
    return cells or [""]


def _justify(cell: str) -> Literal["left", "center", "right"]:
    if cell.endswith(":"):
        return "center" if cell.startswith(":") else "right"
    return "left"


def _rendered(console: Console, text: Text) -> str:
    shown = []
    for segment in text.render(console, end=""):
        style = segment.style
        words = [] if style is None else str(style).replace("none", "").split()
        shown.append(paint(segment.text, " ".join(words)))
    return "".join(shown)
