"""Qwen3 (the Hermes form): `<tool_call>` JSON `</tool_call>`, one block for each call."""

from __future__ import annotations

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers.json_call import read_call

OPEN = "<tool_call>"
CLOSE = "</tool_call>"


def parse_call(body: str) -> ToolCall | None:
    """The call that a block holds."""
    return read_call(body, ("arguments", "parameters"))
