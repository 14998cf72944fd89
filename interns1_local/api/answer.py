"""What a conversation gives back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from interns1_local.chat.events import Content, Finish, Reasoning, ToolCallEvent, Truncation, Usage
from interns1_local.chat.message import ToolCall
from interns1_local.generation import GenerationEvent, Logprobs
from interns1_local.runners.protocol import TokenLogprob


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. `str(answer)` is its content; `answer.message` is the turn to append to the conversation."""

    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    usage: Usage = field(default_factory=Usage)
    logprobs: tuple[TokenLogprob, ...] = ()
    truncation: Truncation | None = None

    def __str__(self) -> str:
        return self.content

    @property
    def message(self) -> dict[str, Any]:
        """As OpenAI writes an assistant's message, arguments as objects."""
        message: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.tool_calls:
            message["tool_calls"] = [
                {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": call.arguments}}
                for call in self.tool_calls
            ]
        return message


async def collect(events: AsyncIterator[GenerationEvent]) -> Answer:
    """All events of a generation as one answer."""
    content, reasoning = [], []
    calls: list[ToolCall] = []
    logprobs: list[TokenLogprob] = []
    finish = Finish("stop", Usage())
    async for event in events:
        match event:
            case Content(text):
                content.append(text)
            case Reasoning(text):
                reasoning.append(text)
            case ToolCallEvent():
                calls.append(event.call)
            case Logprobs(tokens):
                logprobs += tokens
            case Finish():
                finish = event
    return Answer(
        "".join(content),
        "".join(reasoning),
        tuple(calls),
        finish.reason,
        finish.usage,
        tuple(logprobs),
        finish.truncation,
    )
