"""A block of code as it comes: the open line plainly, and again with its colours once it is complete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# Colours need the lines before; further back than this a string that is still open is not seen.
_CONTEXT_LINES = 50


class CodeBlock:
    """Between two fences. `more` and `end_line` take the text; `columns()` of 0 means: no limit."""

    def __init__(self, language: str, write: Callable[[str], None], columns: Callable[[], int]) -> None:
        self._write = write
        self._columns = columns
        self._highlight = _highlighter(language)
        self._lines: list[str] = []
        self._shown = 0

    def more(self, line: str) -> None:
        """The line so far. What fits into one row of the terminal is shown."""
        from prompt_toolkit.utils import get_cwidth

        limit = (self._columns() or 80) - 1
        end = self._shown
        while end < len(line) and get_cwidth(line[: end + 1]) < limit and "\t" not in line[: end + 1]:
            end += 1
        self._write(line[self._shown : end])
        self._shown = end

    def end_line(self, line: str) -> None:
        """The line is complete."""
        self._lines = [*self._lines[1 - _CONTEXT_LINES :], line]
        painted = self._highlight(self._lines)
        if self._shown:
            self._write(line[self._shown :] if painted == line else f"\r\x1b[K{painted}")
        else:
            self._write(painted)
        self._write("\n")
        self._shown = 0


def _highlighter(language: str) -> Callable[[list[str]], str]:
    """Gives the last line with its colours."""
    from interns1_local.commands.terminal_style import shows_colours

    if not language or not shows_colours():
        return _as_it_is
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console(force_terminal=True, color_system="standard", width=10_000, highlight=False)
    # Named colours only: what they look like is the terminal's choice, on light and on dark ground.
    syntax = Syntax("", language, theme="ansi_dark", background_color="default")
    if syntax.lexer is None:
        return _as_it_is

    def highlight(lines: list[str]) -> str:
        last = syntax.highlight("\n".join(lines)).split("\n", allow_blank=True)[len(lines) - 1]
        last.no_wrap = True
        return _rendered(console, last) if lines[-1].strip() else lines[-1]

    return highlight


def _rendered(console: Any, text: Any) -> str:
    segments = text.render(console, end="")
    return "".join(
        segment.style.render(segment.text, color_system=console._color_system) if segment.style else segment.text
        for segment in segments
    )


def _as_it_is(lines: list[str]) -> str:
    return lines[-1]
