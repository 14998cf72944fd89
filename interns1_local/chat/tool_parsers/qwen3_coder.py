"""Qwen3-Coder and Intern-S2: XML in `<tool_call>`, one block for each call, values typed by the tools' schemas.

    <tool_call>
    <function=name>
    <parameter=key>
    value
    </parameter>
    </function>
    </tool_call>

One line break before and one after a value belong to the grammar.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from interns1_local.chat.message import ToolCall
from interns1_local.chat.suffix import ambiguous_suffix
from interns1_local.chat.tool_parsers.json_text import string_body, write_json
from interns1_local.chat.tool_parsers.parameter_types import is_text, parameter_types, read_value

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
FUNCTION = "<function="
_KEY_BEGINS = "<parameter="
_VALUE_ENDS = "</parameter>"
_ENDS = "</function>"
_HEAD = re.compile(rf"\s*{FUNCTION}([^>\s]+)>\s*")
_KEY = re.compile(rf"{_KEY_BEGINS}([^>\n]+)>")
_PARAMETER = re.compile(rf"{_KEY.pattern}(.*?){_VALUE_ENDS}\s*", re.DOTALL)
_TAIL = re.compile(rf"{_ENDS}\s*\Z")

Schemas = Mapping[str, Mapping[str, Any]]


def parse_call(body: str, schemas: Schemas) -> ToolCall | None:
    head = _HEAD.match(body)
    if head is None:
        return None
    schema, arguments, place = schemas.get(head[1], {}), dict[str, Any](), head.end()
    while found := _PARAMETER.match(body, place):
        if found[1] in arguments:
            return None
        arguments[found[1]] = read_value(_inner(found[2]), parameter_types(schema, found[1]))
        place = found.end()
    return ToolCall(head[1], arguments) if _TAIL.match(body, place) else None


def partial_call(schemas: Schemas) -> PartialXmlCall:
    return PartialXmlCall(schemas)


class PartialXmlCall:
    """Texts are streamed; values of other types come whole."""

    def __init__(self, schemas: Schemas) -> None:
        self.name: str | None = None
        self._schemas = schemas
        self._function = ""
        self._held = ""
        self._keys: set[str] = set()
        self._types: frozenset[str] | None = None  # of the value that is being read
        self._in_text = False
        self._over = False

    def decode(self, text: str) -> str:
        self._held += text
        written: list[str] = []
        while not self._over and self._advance(written):
            pass
        return "".join(written)

    def _advance(self, written: list[str]) -> bool:
        """Read the next part; False when more must come first."""
        if not self._function:
            return self._read_head()
        if self._types is None:
            return self._read_tag(written)
        return self._read_text(written) if is_text(self._types) else self._read_value(written)

    def _read_head(self) -> bool:
        head = _HEAD.match(self._held)
        if head is None:
            return False
        self._function, self._held = head[1], self._held[head.end() :]
        return True

    def _read_tag(self, written: list[str]) -> bool:
        """The beginning of a parameter, or the end of the call."""
        self._held = self._held.lstrip()
        if self._held.startswith(_ENDS):
            written.append("}" if self._keys else "{}")
            self.name, self._over = self._function, True
            return True
        found = _KEY.match(self._held)
        if found is None or found[1] in self._keys:
            may_come = found is None and (self._held.startswith(_KEY_BEGINS) or _is_beginning(self._held))
            self._over = not may_come
            return False
        written.append((", " if self._keys else "{") + write_json(found[1]) + ": ")
        self.name = self._function
        self._keys.add(found[1])
        self._types = parameter_types(self._schemas.get(self._function, {}), found[1])
        self._held = self._held[found.end() :]
        return True

    def _read_value(self, written: list[str]) -> bool:
        value, end, rest = self._held.partition(_VALUE_ENDS)
        if not end:
            return False
        written.append(write_json(read_value(_inner(value), self._types or frozenset())))
        self._types, self._held = None, rest
        return True

    def _read_text(self, written: list[str]) -> bool:
        if not self._in_text:
            if not self._held:
                return False
            self._in_text = True
            self._held = self._held.removeprefix("\n")
            written.append('"')
        text, end, rest = self._held.partition(_VALUE_ENDS)
        if end:
            written.append(string_body(text.removesuffix("\n")) + '"')
            self._types, self._in_text, self._held = None, False, rest
            return True
        keep = max(ambiguous_suffix(text, mark) for mark in (_VALUE_ENDS, f"\n{_VALUE_ENDS}"))
        written.append(string_body(text[: len(text) - keep]))
        self._held = text[len(text) - keep :]
        return False


def _inner(value: str) -> str:
    return value.removeprefix("\n").removesuffix("\n")


def _is_beginning(text: str) -> bool:
    """Whether `text` may still become a tag."""
    return _KEY_BEGINS.startswith(text) or _ENDS.startswith(text)
