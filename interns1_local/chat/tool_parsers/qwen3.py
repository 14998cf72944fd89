"""Qwen3 (the Hermes form): `<tool_call>` JSON `</tool_call>`, one block for each call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interns1_local.chat.message import ToolCall
from interns1_local.chat.tool_parsers.json_call import PartialJsonCall, read_call

OPEN = "<tool_call>"
CLOSE = "</tool_call>"
_ARGUMENTS = ("arguments", "parameters")


def parse_call(body: str, schemas: Mapping[str, Mapping[str, Any]]) -> ToolCall | None:
    return read_call(body, _ARGUMENTS)


def partial_call(schemas: Mapping[str, Mapping[str, Any]]) -> PartialJsonCall:
    return PartialJsonCall(_ARGUMENTS)
