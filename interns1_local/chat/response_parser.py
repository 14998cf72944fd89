"""A model's text to typed events: first thinking is split off, then tool calls are taken out of the answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from interns1_local.chat.events import Content, Event, Reasoning, joined
from interns1_local.chat.reasoning_parser import ReasoningParser
from interns1_local.chat.tool_parser import ToolParser


class ResponseParser:
    """`decode` text as it comes, `flush` at the end. With no reasoning and no grammar, text passes as it is.

    `tools`, as the request has them, type the values of grammars that write all values as text.
    """

    def __init__(
        self,
        *,
        reasoning: bool,
        starts_in_reasoning: bool,
        tool_grammar: str | None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._reasoning = ReasoningParser(starts_in_reasoning=starts_in_reasoning) if reasoning else None
        self._tools = ToolParser(tool_grammar, tools) if tool_grammar else None

    @property
    def in_reasoning(self) -> bool:
        """Whether the model is thinking, as far as is known."""
        return self._reasoning is not None and self._reasoning.in_reasoning

    def decode(self, text: str) -> list[Event]:
        """The events that `text` makes certain; only what may still become a mark is held back."""
        if not text:
            return []
        return joined(self._through_tools(self._reasoning.decode(text) if self._reasoning else [Content(text)]))

    def flush(self) -> list[Event]:
        """The rest, when the text is over."""
        events = self._through_tools(self._reasoning.flush() if self._reasoning else [])
        if self._tools:
            events.extend(self._tools.flush())
        return joined(events)

    def _through_tools(self, events: Iterable[Reasoning | Content]) -> list[Event]:
        passed: list[Event] = []
        for event in events:
            if self._tools and isinstance(event, Content):
                passed.extend(self._tools.decode(event.text))
            else:
                passed.append(event)
        return passed
