"""JSON as models write it: read whole, or rewritten as it arrives. Repaired only where no other meaning is possible.

Two repairs: a backslash that begins no escape, as SMILES has them, stands for itself; a raw control character in a
string, such as a line break, is that character. A key that stands twice in an object has no certain meaning.
"""

from __future__ import annotations

import json
import math
import re
from enum import Enum, auto
from typing import Any, NoReturn

_LONE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')
_PLAIN = re.compile(r'[^"\\]+')
_ESCAPE = re.compile(
    r"""\\(?: ["\\/bfnrt]
      | u (?P<high> [dD][89abAB][0-9a-fA-F]{2}) (?: \\u (?P<low> [dD][c-fC-F][0-9a-fA-F]{2}) )?
      | u [0-9a-fA-F]{4}
      | (?P<lone> [^"\\/bfnrtu] | u (?! [0-9a-fA-F]{0,3}\Z ) ) )""",
    re.VERBOSE,
)
_LOW_HALF = (r"\\", "u", "[dD]", "[c-fC-F]", "[0-9a-fA-F]", "[0-9a-fA-F]")
_SCALAR = re.compile(r"[-+.0-9A-Za-z]+")
_SPACE = re.compile(r"[ \t\n\r]+")
MAX_SCALAR = 4000
MAX_DEPTH = 200


class _Wants(Enum):
    """What may come next; STRING is the rest of one."""

    OBJECT = auto()
    KEY = auto()
    KEY_OR_END = auto()
    COLON = auto()
    VALUE = auto()
    VALUE_OR_END = auto()
    COMMA = auto()
    STRING = auto()


_BEFORE_VALUE = (_Wants.VALUE, _Wants.VALUE_OR_END)
_BEFORE_STRING = (_Wants.KEY, _Wants.KEY_OR_END, *_BEFORE_VALUE)
_BEFORE_END = (_Wants.COMMA, _Wants.KEY_OR_END, _Wants.VALUE_OR_END)


def read_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is; None if it is anything else."""
    for candidate in (text, _escape_lone_backslashes(text)):
        found, value = read_json(candidate)
        if found:
            return value if isinstance(value, dict) else None
    return None


def read_json(text: str) -> tuple[bool, Any]:
    """Whether `text` is JSON as it stands, and its value."""
    try:
        return True, _load(text)
    except (ValueError, RecursionError):
        return False, None


def write_json(value: Any) -> str:
    """The one way in which arguments are written, whole or in pieces."""
    return json.dumps(value, ensure_ascii=False)


def string_body(text: str) -> str:
    """`text` as it stands between the quotes of a JSON string."""
    return write_json(text)[1:-1]


class ObjectRewriter:
    """Rewrites one JSON object, which comes in pieces, as `write_json` would write it whole.

    Nothing is held but an unfinished escape, number or word. `done` once the object is closed; `broken` from the first
    character on that no object can have there. Text behind either is not read.
    """

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._text = ""
        self._at = 0
        self._open: list[str] = []
        self._wants = _Wants.OBJECT
        self._in_key = False

    def decode(self, text: str) -> str:
        """The next piece of the rewritten object, as far as `text` makes it certain."""
        self._text, self._at = self._text[self._at :] + text, 0
        written: list[str] = []
        while self._at < len(self._text) and not (self.done or self.broken):
            end = self._read_string(written) if self._wants is _Wants.STRING else self._read_mark(written)
            if end is None:
                break
            self._at = end
        return "".join(written)

    def _read_mark(self, written: list[str]) -> int | None:
        """Read white space, a mark, or a number or word; where it ends, or None when more must come first."""
        if space := _SPACE.match(self._text, self._at):
            return space.end()
        mark, wants = self._text[self._at], self._wants
        inside = self._open[-1] if self._open else ""
        if mark == '"' and wants in _BEFORE_STRING:
            self._in_key = wants not in _BEFORE_VALUE
            self._wants = _Wants.STRING
            written.append(mark)
        elif mark == "{" and (wants is _Wants.OBJECT or wants in _BEFORE_VALUE) and len(self._open) < MAX_DEPTH:
            self._begin(mark, _Wants.KEY_OR_END, written)
        elif mark == "[" and wants in _BEFORE_VALUE and len(self._open) < MAX_DEPTH:
            self._begin(mark, _Wants.VALUE_OR_END, written)
        elif inside + mark in ("{}", "[]") and wants in _BEFORE_END:
            self._open.pop()
            written.append(mark)
            self._end_value()
        elif mark == "," and wants is _Wants.COMMA:
            self._wants = _Wants.KEY if inside == "{" else _Wants.VALUE
            written.append(", ")
        elif mark == ":" and wants is _Wants.COLON:
            self._wants = _Wants.VALUE
            written.append(": ")
        else:
            return self._read_scalar(written) if wants in _BEFORE_VALUE else self._break()
        return self._at + 1

    def _begin(self, mark: str, wants: _Wants, written: list[str]) -> None:
        self._open.append(mark)
        self._wants = wants
        written.append(mark)

    def _read_scalar(self, written: list[str]) -> int | None:
        found = _SCALAR.match(self._text, self._at)
        if found is None or len(found.group()) > MAX_SCALAR:
            return self._break()
        if found.end() == len(self._text):
            return None
        is_json, value = read_json(found.group())
        if not is_json:
            return self._break()
        written.append(write_json(value))
        self._end_value()
        return found.end()

    def _read_string(self, written: list[str]) -> int | None:
        if plain := _PLAIN.match(self._text, self._at):
            written.append(string_body(plain.group()))
            return plain.end()
        if self._text[self._at] == "\\":
            return self._read_escape(written)
        written.append('"')
        if self._in_key:
            self._wants = _Wants.COLON
        else:
            self._end_value()
        return self._at + 1

    def _read_escape(self, written: list[str]) -> int | None:
        found = _ESCAPE.match(self._text, self._at)
        if found is None:
            return None
        if found["lone"]:
            written.append("\\\\")
            return self._at + 1
        end = found.end()
        if found["high"] and not found["low"] and _may_become_low_half(self._text[end : end + 6]):
            return None
        written.append(string_body(json.loads(f'"{found.group()}"')))
        return end

    def _end_value(self) -> None:
        self._wants = _Wants.COMMA
        self.done = not self._open

    def _break(self) -> int:
        self.broken = True
        return self._at


def _may_become_low_half(rest: str) -> bool:
    """Whether the second half of a surrogate pair may still come."""
    return len(rest) < len(_LOW_HALF) and all(map(re.match, _LOW_HALF, rest))


def _load(text: str) -> Any:
    return json.loads(
        text,
        strict=False,
        parse_constant=_refuse_constant,
        parse_float=_finite,
        object_pairs_hook=_without_duplicates,
    )


def _escape_lone_backslashes(text: str) -> str:
    return _LONE.sub(lambda found: found.group() if found.group(1) else r"\\", text)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a key stands twice")
    return fields


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
