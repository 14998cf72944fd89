"""Markdown inside a line, as it comes: emphasis, code, links, LaTeX, science tags. Pieces of (text, style) come out.

What may begin a span waits until it is closed, until the line ends, or for MAX_SPAN characters; then it is only text.
Between letters a mark stays what it is: `2*3*4`, `C[C@H](N)C(=O)O` and `snake_case` are no Markdown to a scientist.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from interns1_local.commands.latex_text import latex_to_text, lowered, raised

MAX_SPAN = 400
MAX_RUN = 16

Piece = tuple[str, str]
# The pieces of a span and where it ends; None while it is not decided.
Span = tuple[list[Piece], int] | None

CODE, LINK, MATH, MARK = "bold cyan", "underline", "italic", "dim"
SCIENCE = {"SMILES": "green", "IUPAC": "cyan", "FASTA": "magenta", "MOLFORMULA": "green"}

_SPECIAL = re.compile(r"[*_`~$\[!\\<]")
_ESCAPABLE = frozenset("*_`~$#|")
_SCHEMES = ("(https://", "(http://", "(mailto:")
_SCRIPTS: dict[str, Callable[[str], str]] = {"sub": lowered, "sup": raised}
_OPEN_TAGS = [f"<{name}>" for name in (*SCIENCE, *_SCRIPTS)]


class InlineReader:
    """One line. `feed(text)` gives what is decided; `finish()` the rest."""

    def __init__(self) -> None:
        self._waiting = ""
        self._before = ""
        self._tag = ""

    def feed(self, text: str) -> list[Piece]:
        return self._read(text, complete=False)

    def finish(self) -> list[Piece]:
        return self._read("", complete=True)

    def _read(self, more: str, *, complete: bool) -> list[Piece]:
        text = self._waiting + more
        pieces: list[Piece] = []
        position = 0
        while position < len(text):
            span = self._next(text, position, complete)
            if span is None:
                break
            pieces += [piece for piece in span[0] if piece[0]]
            position = span[1]
            self._before = text[position - 1]
        self._waiting = text[position:]
        return pieces

    def _next(self, text: str, start: int, complete: bool) -> Span:
        if self._tag:
            return self._tagged(text, start, complete)
        found = _SPECIAL.search(text, start)
        if found is None:
            return [(text[start:], "")], len(text)
        if found.start() > start:
            return [(text[start : found.start()], "")], found.start()
        if name := next((name for name in SCIENCE if text.startswith(f"<{name}>", start)), ""):
            self._tag = name
            return [(f"<{name}>", MARK)], start + len(name) + 2
        before = text[start - 1] if start else self._before
        return _READERS[text[start]](text, start, before, complete)

    def _tagged(self, text: str, start: int, complete: bool) -> Span:
        """Nothing inside a science tag is Markdown."""
        close = f"</{self._tag}>"
        style = SCIENCE[self._tag]
        if text.startswith(close, start):
            self._tag = ""
            return [(close, MARK)], start + len(close)
        end = text.find("<", start + 1)
        if text[start] == "<" and not complete and close.startswith(text[start:]):
            return None
        end = len(text) if end < 0 else end
        return [(text[start:end], style)], end


def read_inline(text: str) -> list[Piece]:
    """All of a line."""
    reader = InlineReader()
    return reader.feed(text) + reader.finish()


def _styled(text: str, style: str) -> list[Piece]:
    return [(inner, f"{style} {own}".strip()) for inner, own in read_inline(text)]


def _literal(text: str, start: int, count: int = 1) -> Span:
    return [(text[start : start + count], "")], start + count


def _run(text: str, start: int) -> int:
    end, most = start, min(len(text), start + MAX_RUN)
    while end < most and text[end] == text[start]:
        end += 1
    return end - start


def _close(pattern: str, text: str, start: int, complete: bool) -> int | None:
    """Where the mark that closes a span begins; -1: nowhere; None: not decided."""
    for found in re.compile(pattern).finditer(text, start):
        if found.start() - start > MAX_SPAN:
            break
        if found.end() == len(text) and not complete:
            return None
        if found.start() > start:
            return found.start()
    return -1 if complete or len(text) - start > MAX_SPAN + 10 else None


def _closed(
    pattern: str, text: str, start: int, count: int, complete: bool, inner: Callable[[str], list[Piece]]
) -> Span:
    """The span from a mark of `count` characters to one that `pattern` finds; without that, the mark is only text."""
    end = _close(pattern, text, start + count, complete)
    if end is None:
        return None
    return _literal(text, start, count) if end < 0 else (inner(text[start + count : end]), end + count)


def _emphasis(text: str, start: int, before: str, complete: bool) -> Span:
    count, mark = _run(text, start), text[start]
    inside = start + count
    if inside == len(text) and not complete:
        return None
    word = r"\w" if mark == "_" else r"[0-9A-Za-z]"
    between_letters = re.match(word, before) and (mark == "_" or count == 1)
    if count > 3 or inside == len(text) or text[inside].isspace() or between_letters:
        return _literal(text, start, count)
    sign = re.escape(mark)
    after = rf"(?![{sign}])" + (f"(?!{word})" if mark == "_" or count == 1 else "")
    behind = rf"(?<![\s\\{sign}])" if count == 1 else r"(?<![\s\\])"
    style = ("italic", "bold", "bold italic")[count - 1]
    pattern = rf"{behind}{sign}{{{count}}}{after}"
    return _closed(pattern, text, start, count, complete, lambda inner: _styled(inner, style))


def _struck(text: str, start: int, before: str, complete: bool) -> Span:
    count = _run(text, start)
    if start + count == len(text) and not complete:
        return None
    if count != 2:
        return _literal(text, start, count)
    return _closed(r"(?<!\s)~~(?!~)", text, start, 2, complete, lambda inner: _styled(inner, "strike"))


def _code(text: str, start: int, before: str, complete: bool) -> Span:
    count = _run(text, start)
    if start + count == len(text) and not complete:
        return None
    return _closed(rf"(?<!`)`{{{count}}}(?!`)", text, start, count, complete, _code_inside)


def _code_inside(inner: str) -> list[Piece]:
    if inner[0] == inner[-1] == " " and inner.strip():
        inner = inner[1:-1]
    return [(inner, CODE)]


def _dollars(text: str, start: int, before: str, complete: bool) -> Span:
    count = _run(text, start)
    if start + count == len(text) and not complete:
        return None
    inside = start + count
    money = count == 1 and re.match(r"\w", before)
    if count > 2 or inside == len(text) or money or (text[inside].isspace() and count == 1):
        return _literal(text, start, count)
    # Dollars of money: a space before the second one, or a digit after it.
    pattern = r"\$\$" if count == 2 else r"(?<![\s\\$])\$(?![\d$])"
    return _closed(pattern, text, start, count, complete, lambda inner: [(latex_to_text(inner), MATH)])


def _backslash(text: str, start: int, before: str, complete: bool) -> Span:
    if start + 1 == len(text):
        return _literal(text, start) if complete else None
    after = text[start + 1]
    if after in "([":
        end = _close(r"\\\)" if after == "(" else r"\\\]", text, start + 2, complete)
        if end is None:
            return None
        if end > 0:
            return [(latex_to_text(text[start + 2 : end]), MATH)], end + 2
    if after in _ESCAPABLE:
        return [(after, "")], start + 2
    # Nothing else of Markdown escapes here: a backslash is a bond in SMILES.
    return _literal(text, start, 2 if after == "[" else 1)


def _link(text: str, start: int, before: str, complete: bool) -> Span:
    bracket = text.find("]", start, start + MAX_SPAN)
    if bracket < 0:
        return _literal(text, start) if complete or len(text) - start >= MAX_SPAN else None
    end = _address_end(text, bracket + 1)
    if end is None and not complete:
        return None
    if end is None or end < 0:
        return _literal(text, start)
    label, target = text[start + 1 : bracket], text[bracket + 2 : end - 1]
    if not label or label == target:
        return [(target, LINK)], end
    return [*_styled(label, LINK), (f" ({target})", MARK)], end


def _address_end(text: str, start: int) -> int | None:
    """Past the `)` of `(https://...)`; -1: it is none; None: not decided."""
    head = text[start : start + 9]
    if not any(scheme.startswith(head) or head.startswith(scheme) for scheme in _SCHEMES):
        return -1
    depth = 0
    for place in range(start, min(len(text), start + MAX_SPAN)):
        if text[place].isspace():
            return -1
        depth += {"(": 1, ")": -1}.get(text[place], 0)
        if depth == 0:
            return place + 1
    return -1 if len(text) - start >= MAX_SPAN else None


def _picture(text: str, start: int, before: str, complete: bool) -> Span:
    if start + 1 == len(text):
        return _literal(text, start) if complete else None
    if text[start + 1] != "[":
        return _literal(text, start)
    span = _link(text, start + 1, before, complete)
    # A `[` that is no link stays to be read by itself.
    return span if span is None or span[1] > start + 2 else _literal(text, start)


def _tag(text: str, start: int, before: str, complete: bool) -> Span:
    for name, script in _SCRIPTS.items():
        if text.startswith(f"<{name}>", start):
            inside = start + len(name) + 2
            end = _close(f"</{name}>", text, inside, complete)
            if end is None or end < 0:
                return None if end is None else _literal(text, start)
            return [(script(text[inside:end]), "")], end + len(name) + 3
    undecided = not complete and any(tag.startswith(text[start:]) for tag in _OPEN_TAGS)
    return None if undecided else _literal(text, start)


_READERS: dict[str, Callable[[str, int, str, bool], Span]] = {
    "*": _emphasis,
    "_": _emphasis,
    "~": _struck,
    "`": _code,
    "$": _dollars,
    "\\": _backslash,
    "[": _link,
    "!": _picture,
    "<": _tag,
}
