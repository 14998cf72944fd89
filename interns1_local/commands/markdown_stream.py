"""Markdown on a terminal while it is being written: what is decided is written at once, and never taken back.

Only two things are drawn again, within their own lines: the open line of a code block, to colour it, and a table that
still fits on the screen, to widen it. So the same text gives the same screen, however it is cut into pieces.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from interns1_local.commands.latex_text import latex_to_text
from interns1_local.commands.markdown_code import CodeBlock
from interns1_local.commands.markdown_inline import MATH, InlineReader
from interns1_local.commands.markdown_table import TableBlock, is_delimiter_row
from interns1_local.commands.styled_wrap import StyledWrap
from interns1_local.commands.terminal_style import paint, without_controls

Kind = Literal["text", "heading", "item", "quote", "fence", "rule", "table", "math", "blank"]

_FENCE = re.compile(r"( *)(`{3,}|~{3,})\s*([^`]*)")
_HEADING = re.compile(r" {0,3}(#{1,6})[ \t]+")
_QUOTE = re.compile(r" {0,3}>[ \t]?(?=[^> \t])")
_RULE = re.compile(r" {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*")
_ITEM = re.compile(r"( *)([-*+]|\d{1,9}[.)])[ \t]+(?=\S)")
_MATH = re.compile(r"\s*(\$\$|\\\[)")
# Beginnings of lines that may still become any of them.
_OPEN = re.compile(
    r" *(?:#{0,6}|>[> \t]*|[-_*](?:[ \t]*[-_*])*[ \t]*|[-*+][ \t]*|\d{1,9}(?:[.)][ \t]*)?|`{1,2}|~{1,2}|\$|\\)?"
)
_MATH_ENDS = {"$$": "$$", "\\[": "\\]"}
_BULLETS = ("•", "◦", "▪")


class LineStart(NamedTuple):
    """What a line begins with: its kind, how much of it that takes, and what is written in its place."""

    kind: Kind
    taken: int = 0
    prefix: str = ""
    style: str = ""


class MarkdownStream:
    """`feed` takes an answer in pieces, `close` ends it. `size()` is the terminal's columns (0: no wrap), rows."""

    def __init__(self, write: Callable[[str], None], size: Callable[[], tuple[int, int]]) -> None:
        self._write = write
        self._size = size
        self._wrap = StyledWrap(write, lambda: size()[0], paint)
        self._line = ""
        self._start: LineStart | None = None
        self._inline = InlineReader()
        self._code: CodeBlock | None = None
        self._fence = ""
        self._table: TableBlock | None = None
        self._header = ""
        self._math_end = ""
        self._blanks = 0
        self._begun = False

    def feed(self, text: str) -> None:
        """The next piece of the answer."""
        first, *others = without_controls(text).split("\n")
        self._more(first)
        for part in others:
            self._end_line()
            self._more(part)

    def close(self) -> None:
        """The answer is complete: what waits is written, and the line is ended."""
        if self._line:
            self._end_line()
        self._drop_header()

    def _more(self, text: str) -> None:
        if not text:
            return
        self._line += text
        if self._code:
            # A line of the fence's sign alone may still become the end.
            if self._line.strip().strip(self._fence[0]):
                self._code.more(self._line)
        elif self._math_end:
            return
        elif self._start is not None:
            self._put(self._inline.feed(text))
        elif (start := line_start(self._line, complete=False)) is not None:
            self._begin(start, self._line)

    def _end_line(self) -> None:
        line, self._line = self._line, ""
        if self._code:
            mark = line.strip()
            if len(mark) >= len(self._fence) and not mark.strip(self._fence[0]):
                self._write(paint(mark, "dim") + "\n")
                self._code = None
            else:
                self._code.end_line(line)
        elif self._math_end and not line.strip():
            # No formula holds a blank line: the sign that began it was something else.
            self._math_end = ""
            self._blanks += 1
        elif self._math_end:
            self._end_math_line(line)
        elif self._start is not None:
            self._finish_text()
        else:
            self._whole_line(line)

    def _whole_line(self, line: str) -> None:
        """A line that could not be begun before it was complete."""
        start = line_start(line, complete=True)
        assert start is not None
        if start.kind == "table" and self._table:
            self._table.add(line)
        elif self._header and is_delimiter_row(line):
            header, self._header = self._header, ""
            self._new_block()
            self._table = TableBlock(header, line, self._write, self._size)
        elif start.kind == "table":
            self._drop_header()
            self._header = line
        elif start.kind == "blank":
            self._drop_header()
            self._table = None
            self._blanks += 1
        else:
            self._begin(start, line)
            if self._start is not None:
                self._finish_text()

    def _begin(self, start: LineStart, line: str) -> None:
        """The kind of `line`, or of what has come of it, is known."""
        self._drop_header()
        self._table = None
        self._new_block()
        if start.kind == "fence":
            found = _FENCE.match(line)
            assert found is not None
            self._fence = found.group(2)
            self._write(paint(line.strip(), "dim") + "\n")
            self._code = CodeBlock((found.group(3).split() or [""])[0], self._write, lambda: self._size()[0])
        elif start.kind == "rule":
            self._write(paint("─" * (min(self._size()[0], 40) or 40), "dim") + "\n")
        elif start.kind == "math":
            found = _MATH.match(line)
            assert found is not None
            self._math_end = _MATH_ENDS[found.group(1)]
            self._end_math_line(line[found.end() :])
        else:
            self._begin_text(start, line)

    def _begin_text(self, start: LineStart, line: str) -> None:
        self._start = start
        self._inline = InlineReader()
        self._wrap.begin(len(start.prefix))
        self._wrap.put(start.prefix, "dim" if start.kind == "quote" else "")
        self._put(self._inline.feed(line[start.taken :]))

    def _write_text(self, line: str) -> None:
        """A whole line that turned out to be only text."""
        self._begin_text(LineStart("text"), line)
        self._finish_text()

    def _finish_text(self) -> None:
        self._put(self._inline.finish())
        self._wrap.end()
        self._start = None

    def _put(self, pieces: list[tuple[str, str]]) -> None:
        style = self._start.style if self._start else ""
        for text, own in pieces:
            self._wrap.put(text, f"{style} {own}".strip())

    def _end_math_line(self, line: str) -> None:
        inner, ended, after = line.partition(self._math_end)
        for part in latex_to_text(inner).split("\n"):
            if part.strip():
                self._write("  " + paint(part.strip(), MATH) + "\n")
        if ended:
            self._math_end = ""
            if after.strip(" .,;"):
                self._write_text(after.lstrip())

    def _drop_header(self) -> None:
        """What looked like a table's first row is only text."""
        if self._header:
            header, self._header = self._header, ""
            self._new_block()
            self._write_text(header)

    def _new_block(self) -> None:
        """Blank lines are written when something follows them."""
        self._write("\n" * self._blanks if self._begun else "")
        self._blanks = 0
        self._begun = True


def line_start(line: str, *, complete: bool) -> LineStart | None:
    """What `line` begins with; None while that is not decided."""
    if not line.strip():
        return LineStart("blank") if complete else None
    if line.lstrip(" ").startswith("|"):
        return LineStart("table") if complete else None
    if _FENCE.match(line):
        return (LineStart("fence") if _FENCE.fullmatch(line) else _text(line)) if complete else None
    if _MATH.match(line):
        return LineStart("math") if complete else None
    if complete and _RULE.fullmatch(line):
        return LineStart("rule")
    if not complete and _OPEN.fullmatch(line):
        return None
    if found := _HEADING.match(line):
        return LineStart("heading", found.end(), "", "bold" if len(found.group(1)) > 2 else "bold underline")
    if found := _QUOTE.match(line):
        return LineStart("quote", found.end(), "│ ", "italic")
    if found := _ITEM.match(line):
        return _item(found)
    return _text(line)


def _item(found: re.Match[str]) -> LineStart:
    indent, mark = found.groups()
    if not mark[0].isdigit():
        mark = _BULLETS[min(len(indent) // 2, len(_BULLETS) - 1)]
    return LineStart("item", found.end(), f"{indent}{mark} ")


def _text(line: str) -> LineStart:
    indent = len(line) - len(line.lstrip(" "))
    return LineStart("text", indent, " " * indent)
