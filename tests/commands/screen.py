"""A terminal's screen, as far as our own escape codes go: what a person sees after everything was written."""

from __future__ import annotations

import re

from prompt_toolkit.utils import get_cwidth

_CODE = re.compile(r"\x1b\[(\d*(?:;\d+)*)([A-Za-z])|\r|\n|[^\x1b\r\n]")


class Screen:
    """`lines()` is the text; `styled()` names the codes of every character that has some, such as `1:x`."""

    def __init__(self, columns: int) -> None:
        self._columns = columns
        self._rows: list[list[tuple[str, str]]] = [[]]
        self._row = self._column = 0
        self._style = ""

    def write(self, text: str) -> None:
        position = 0
        for found in _CODE.finditer(text):
            assert found.start() == position, f"unknown code at {text[position : position + 20]!r}"
            position = found.end()
            if found.group(2):
                self._act(found.group(1), found.group(2))
            elif found.group() == "\n":
                # The terminal's driver adds the carriage return.
                self._row, self._column = self._row + 1, 0
            elif found.group() == "\r":
                self._column = 0
            else:
                self._put(found.group())
        assert position == len(text)
        self._fill()

    def lines(self) -> list[str]:
        return ["".join(character for character, _ in row).rstrip() for row in self._rows]

    def styled(self) -> list[str]:
        """Runs of one style in each line: `1:bold` for a bold one, text alone for a plain one."""
        shown = []
        for row in self._rows:
            runs: list[list[str]] = []
            for character, style in row:
                if runs and runs[-1][0] == style:
                    runs[-1][1] += character
                else:
                    runs.append([style, character])
            shown.append("|".join(f"{style}:{text}" if style else text for style, text in runs))
        return shown

    def _act(self, given: str, action: str) -> None:
        number = int(given.split(";")[0] or "0")
        if action == "m":
            self._style = "" if given in ("", "0") else given
        elif action == "A":
            self._row = max(0, self._row - max(1, number))
        elif action == "J":
            del self._rows[self._row + 1 :]
            del self._rows[self._row][self._column :]
        elif action == "K":
            del self._rows[self._row][self._column :]
        else:
            raise AssertionError(f"unknown code {given}{action}")

    def _put(self, character: str) -> None:
        cells = get_cwidth(character)
        if cells and self._column + cells > self._columns:
            self._row, self._column = self._row + 1, 0
        self._fill()
        row = self._rows[self._row]
        if not cells and row:
            row[-1] = (row[-1][0] + character, row[-1][1])
            return
        row += [(" ", "")] * (self._column - len(row))
        row[self._column : self._column + cells] = [(character, self._style), *[("", self._style)] * (cells - 1)]
        self._column += cells

    def _fill(self) -> None:
        while len(self._rows) <= self._row:
            self._rows.append([])
