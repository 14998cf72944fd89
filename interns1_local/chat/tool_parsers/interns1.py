"""Intern-S1 and InternLM: `<|action_start|><|plugin|>` JSON `<|action_end|>`, one block for each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers.json_call import PartialJsonCall, read_call

OPEN = "<|action_start|><|plugin|>"
CLOSE = "<|action_end|>"
_ARGUMENTS = ("parameters", "arguments")


def parse_call(body: str, schemas: Mapping[str, Mapping[str, Any]]) -> ToolCall | None:
    return read_call(body, _ARGUMENTS)


def partial_call(schemas: Mapping[str, Mapping[str, Any]]) -> PartialJsonCall:
    return PartialJsonCall(_ARGUMENTS)
