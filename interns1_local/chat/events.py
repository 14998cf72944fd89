"""What comes out of a generation, free of any protocol: reasoning, content, tool calls, and the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from interns1_local.chat.message import ToolCall

FinishReason = Literal["stop", "length", "tool_calls", "cancelled"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """A piece of the answer. A malformed call is the whole text of a block that was to be a call and is none."""

    text: str
    malformed_call: bool = False


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a call before it is whole: first its name, then its arguments' JSON, piece by piece.

    The pieces of one `index` joined are the JSON of the arguments of the `ToolCallEvent` that ends them. If none comes,
    the call broke off and a malformed Content follows; its index is not used again.
    """

    index: int
    name: str | None = None
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class ToolCallEvent:
    """A whole call; `index` counts the calls of one answer from 0. All its pieces came before as `ToolCallDelta`."""

    index: int
    call: ToolCall


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens and nanoseconds of one generation. `output_tokens` include `reasoning_tokens`."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    load_ns: int = 0
    prompt_ns: int = 0
    decode_ns: int = 0
    total_ns: int = 0
    # Tiles of pictures in the prompt, and how many of them the vision tower computed (None: not known).
    tiles: int = 0
    tiles_computed: int | None = None
    # Tokens that were guessed ahead, and how many of them the model then chose.
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Truncation:
    """What was left out of a prompt so that it fits: whole messages, the oldest first."""

    messages: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Finish:
    """The last event of every generation. `stop` is the stop string that ended it."""

    reason: FinishReason
    usage: Usage
    truncation: Truncation | None = None
    stop: str | None = None
    malformed_calls: int = 0


Event = Reasoning | Content | ToolCallDelta | ToolCallEvent | Finish

T = TypeVar("T")


def joined(events: Iterable[T]) -> list[T]:
    """Neighbouring pieces of one kind as one piece. What is no event of this module stays as it is."""
    passed: list[Any] = []
    for event in events:
        match passed[-1] if passed else None, event:
            case Content(first, malformed_call=False), Content(second, malformed_call=False):
                passed[-1] = Content(first + second)
            case Reasoning(first), Reasoning(second):
                passed[-1] = Reasoning(first + second)
            case ToolCallDelta(index, None, first), ToolCallDelta(same, None, second) if index == same:
                passed[-1] = ToolCallDelta(index, None, first + second)
            case _:
                passed.append(event)
    return passed
