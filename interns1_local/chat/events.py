"""What comes out of a generation, free of any protocol: reasoning, content, tool calls, and the end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from interns1_local.chat.message import ToolCall

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """A whole call; `index` counts the calls of one answer from 0."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and nanoseconds of one generation."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    decode_ns: int = 0
    total_ns: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of every generation."""

    reason: FinishReason
    usage: Usage


Event = Reasoning | Content | ToolCallEvent | Finish
