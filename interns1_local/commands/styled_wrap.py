"""Word wrap of styled text that arrives in pieces, on a terminal whose width may change."""

from __future__ import annotations

from collections.abc import Callable

# What may not begin a line in Chinese and Japanese text.
_CLOSING = frozenset("。，、；：！？）】》」』”’…")


class StyledWrap:
    """Writes lines of `columns()` columns; 0 leaves lines as they are. `paint(text, style)` adds the escape codes."""

    def __init__(
        self, write: Callable[[str], None], columns: Callable[[], int], paint: Callable[[str, str], str]
    ) -> None:
        self._write = write
        self._columns = columns
        self._paint = paint
        self._word: list[tuple[str, str]] = []
        self._word_cells = self._column = self._space = self._hanging = 0
        self._space_style = ""
        self._ends_wide = self._goes_on = False
        self._width = columns()

    def begin(self, hanging: int) -> None:
        """A new line has begun; those that it is broken into are indented by `hanging` columns."""
        self._width = self._columns()
        self._hanging = hanging if hanging < self._width // 2 else 0
        self._column = 0

    def put(self, text: str, style: str = "") -> None:
        """Write `text`; its last word waits, as more of it may come."""
        if not self._width:
            self._write(self._paint(text, style))
            return
        for character in text:
            if character == "\n":
                self.end(more=True)
            elif character.isspace() and character != "\u00a0":
                self._flush()
                self._goes_on = False
                self._space += 1
                self._space_style = style
            elif not character.isascii() and self._cells(character) > 1 and character not in _CLOSING:
                # Chinese text may break anywhere else.
                self._flush()
                self._goes_on = False
                self._append(character, style)
            else:
                if self._ends_wide and character not in _CLOSING:
                    self._flush()
                self._append(character, style)

    def end(self, *, more: bool = False) -> None:
        """End the line; with `more`, the next one is a continuation."""
        self._flush()
        self._goes_on = False
        self._write("\n" + " " * (self._hanging if more else 0))
        self._width = self._columns()
        self._column, self._space = (self._hanging if more else 0), 0

    def _append(self, character: str, style: str) -> None:
        if self._word and self._word[-1][1] == style:
            self._word[-1] = (self._word[-1][0] + character, style)
        else:
            self._word.append((character, style))
        cells = self._cells(character)
        self._word_cells += cells
        self._ends_wide = not character.isascii() and cells > 1
        if self._word_cells >= self._width:
            # Too long for any line: it is shown as it comes.
            self._flush(more=True)

    def _flush(self, *, more: bool = False) -> None:
        """The waiting word, on a line where it fits; spaces at a line's end are left out."""
        if not self._word:
            return
        at_start = self._column + self._space <= self._hanging
        goes_on, self._goes_on = self._goes_on and not self._space, more
        if not at_start and not goes_on and self._column + self._space + self._word_cells > self._width:
            self._write("\n" + " " * self._hanging)
            self._column = self._hanging
            # Whoever makes the window narrower meanwhile sees it at the next line.
            self._width = self._columns()
        elif self._space:
            self._write(self._paint(" " * self._space, self._space_style))
            self._column += self._space
        for text, style in self._word:
            self._write(self._paint(text, style))
        self._column += self._word_cells
        if self._column > self._width:
            # The terminal has broken a word that is longer than a line; no line end of ours may come into it.
            self._column = (self._column - 1) % self._width + 1
        self._word, self._word_cells, self._space, self._ends_wide = [], 0, 0, False

    @staticmethod
    def _cells(character: str) -> int:
        if " " <= character <= "~":
            return 1
        from prompt_toolkit.utils import get_cwidth

        return get_cwidth(character)
