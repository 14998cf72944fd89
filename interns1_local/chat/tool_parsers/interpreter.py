"""InternLM's code interpreter: `<|action_start|><|interpreter|>`, code between Markdown fences, `<|action_end|>`.

InternLM's chat format gives such a block no name. Here it is a call of the tool `interpreter` with the argument `code`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers.json_text import string_body

NAME = "interpreter"
OPEN = "<|action_start|><|interpreter|>"
CLOSE = "<|action_end|>"
_FENCE = re.compile(r"\s*```[^\n`]*\n")
# The closing fence, if nothing but white space follows; and what may still become one.
_END = re.compile(r"\n?```\s*\Z")
_MAY_END = re.compile(r"\n?(?:`{0,2}|```\s*)\Z")


def parse_call(body: str, schemas: Mapping[str, Mapping[str, Any]]) -> ToolCall | None:
    fence = _FENCE.match(body)
    end = _END.search(body, fence.end()) if fence else None
    if fence is None or end is None:
        return None
    return ToolCall(NAME, {"code": body[fence.end() : end.start()]})


def partial_call(schemas: Mapping[str, Mapping[str, Any]]) -> PartialCode:
    return PartialCode()


class PartialCode:
    """The code is a JSON string from its first line on."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._held = ""

    def decode(self, text: str) -> str:
        self._held += text
        begin = ""
        if self.name is None:
            fence = _FENCE.match(self._held)
            if fence is None:
                return ""
            self.name = NAME
            self._held = self._held[fence.end() :]
            begin = '{"code": "'
        end = _MAY_END.search(self._held)
        keep = end.start() if end else len(self._held)
        code, self._held = self._held[:keep], self._held[keep:]
        return begin + string_body(code)
