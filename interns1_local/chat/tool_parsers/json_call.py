"""A call written as a JSON object: `{"name": ..., "parameters": {...}}`."""

from __future__ import annotations

import re
from typing import Any

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers.json_text import ObjectRewriter, read_object

# Names are short: what has not become a head by now is read when it is whole.
MAX_HEAD = 2000
_HEAD = r"""
    [ \t\n\r]* \{{ [ \t\n\r]*
    ("name" [ \t\n\r]* : [ \t\n\r]* "(?:[^"\\]|\\.)+") [ \t\n\r]* ,
    [ \t\n\r]* "(?:{})" [ \t\n\r]* : [ \t\n\r]* (?=\{{)
"""


def read_call(body: str, argument_names: tuple[str, ...]) -> ToolCall | None:
    """The call with the arguments under the first key that is one of `argument_names`; None if it is no call."""
    fields = read_object(body)
    if fields is None:
        return None
    name = fields.get("name")
    arguments: Any = next((fields[key] for key in fields if key in argument_names), {})
    if arguments is None:
        arguments = {}
    elif isinstance(arguments, str):
        arguments = read_object(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ToolCall(name, arguments)


class PartialJsonCall:
    """Streams the arguments when the name stands before them, and they are an object; others come whole."""

    def __init__(self, argument_names: tuple[str, ...]) -> None:
        self.name: str | None = None
        self._head = re.compile(_HEAD.format("|".join(argument_names)), re.DOTALL | re.VERBOSE)
        self._held = ""
        self._arguments: ObjectRewriter | None = None

    def decode(self, text: str) -> str:
        if self._arguments is not None:
            return self._arguments.decode(text)
        if len(self._held) > MAX_HEAD:
            return ""
        self._held += text
        found = self._head.match(self._held)
        fields = read_object("{" + found[1] + "}") if found else None
        if found is None or fields is None:
            return ""
        self.name = fields["name"]
        self._arguments = ObjectRewriter()
        return self._arguments.decode(self._held[found.end() :])
