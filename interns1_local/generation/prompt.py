"""A conversation's prompt: rendered, with its pictures cut, shortened by whole messages where that was asked for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interns1_local.chat.events import Truncation
from interns1_local.chat.message import Message
from interns1_local.chat.template import ChatTemplate, MediaRef, ends_in_think
from interns1_local.errors import ContextOverflow

# What a shortened prompt leaves free for the answer at least, if the answer may be that long.
ANSWER_ROOM = 512

Parts = list[Any]  # texts, and pictures as uint8[tiles, size, size, 3]
Count = Callable[[Sequence[str | int]], Awaitable[int]]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    """How the messages of one request become a prompt. `media` holds what each picture becomes, by its identity."""

    template: ChatTemplate
    tools: Sequence[Mapping[str, Any]]
    think: bool | str | None
    kwargs: Mapping[str, Any]
    media: Mapping[int, Parts]

    def render(self, messages: Sequence[Message]) -> tuple[Parts, bool]:
        """The prompt's parts, and whether it has opened a thought."""
        prompt = self.template.render(messages, tools=self.tools or None, think=self.think, kwargs=self.kwargs)
        media = [self.media[id(part)] for message in messages for part in message.media]
        parts = [piece for part in prompt for piece in (media[part.index] if isinstance(part, MediaRef) else [part])]
        return parts, ends_in_think(prompt)


def countable(parts: Parts) -> list[str | int]:
    """A prompt's parts as the worker counts them: texts, and how many tiles a picture has."""
    return [part if isinstance(part, str) else len(part) for part in parts]


async def fit(
    prompt: ChatPrompt, messages: Sequence[Message], count: Count, context_length: int, answer_tokens: int | None
) -> tuple[list[Message], Truncation | None]:
    """The messages that fit, and what was left out.

    System messages and everything from the last user's message on stay; a call of tools goes with its results. Raises
    ContextOverflow when even that is too long. The prompt is counted a few times, not once for each message.
    """
    room = min(ANSWER_ROOM, context_length // 4, max(1, answer_tokens if answer_tokens is not None else ANSWER_ROOM))
    limit = context_length - room

    async def size(kept: Sequence[Message]) -> int:
        parts, _ = prompt.render(kept)
        return await count(countable(parts))

    whole = await size(messages)
    # A prompt that fits as it is stays as it is, however little room it leaves.
    if whole < context_length:
        return list(messages), None
    groups = droppable(messages)
    smallest, largest = 1, len(groups)
    best: tuple[list[Message], int] | None = None
    while smallest <= largest:
        middle = (smallest + largest) // 2
        gone = {index for group in groups[:middle] for index in group}
        kept = [message for index, message in enumerate(messages) if index not in gone]
        tokens = await size(kept)
        # When nothing else can go, any room for an answer has to do.
        if tokens <= (limit if middle < len(groups) else context_length - 1):
            best, largest = (kept, tokens), middle - 1
        else:
            smallest = middle + 1
    if best is None:
        raise ContextOverflow(
            f"request ({whole} tokens) exceeds the available context size ({context_length} tokens) even without its "
            "older messages, try increasing it"
        )
    kept, tokens = best
    return kept, Truncation(len(messages) - len(kept), whole - tokens)


def droppable(messages: Sequence[Message]) -> list[list[int]]:
    """The messages that may go, oldest first; those that go together are a group."""
    last_user = max(
        (index for index, message in enumerate(messages) if message.role == "user"), default=len(messages) - 1
    )
    groups: list[list[int]] = []
    for index, message in enumerate(messages[:last_user]):
        if message.role == "system":
            continue
        if message.role in ("tool", "environment") and groups and groups[-1][-1] == index - 1:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
