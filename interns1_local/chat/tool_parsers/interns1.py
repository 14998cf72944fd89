"""Intern-S1 and InternLM: `<|action_start|><|plugin|>` JSON `<|action_end|>`, one block for each call."""

from __future__ import annotations

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers.json_call import read_call

OPEN = "<|action_start|><|plugin|>"
CLOSE = "<|action_end|>"


def parse_call(body: str) -> ToolCall | None:
    """The call that a block holds."""
    return read_call(body, ("parameters", "arguments"))
