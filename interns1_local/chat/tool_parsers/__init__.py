"""Grammars of tool calls. A grammar is a module with OPEN, CLOSE and `parse_call(body) -> ToolCall | None`."""

from __future__ import annotations

from typing import Protocol

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers import interns1, qwen3


class Grammar(Protocol):
    """What a module in this folder offers."""

    OPEN: str
    CLOSE: str

    def parse_call(self, body: str) -> ToolCall | None: ...


GRAMMARS: dict[str, Grammar] = {"interns1": interns1, "qwen3": qwen3}


def detect(template_source: str) -> str | None:
    """The grammar that a chat template teaches, or None if it teaches none that is known here."""
    if interns1.OPEN in template_source:
        return "interns1"
    # Templates with <function= write their calls as XML inside the same tags.
    if qwen3.OPEN in template_source and "<function=" not in template_source:
        return "qwen3"
    return None
