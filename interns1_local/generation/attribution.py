"""Which part of an answer each token belongs to: the thought, the words, or neither, as marks and calls of tools do."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from interns1_local.chat.events import Content, Event, Reasoning, ToolCallEvent
from interns1_local.generation.requests import GenerationEvent, Logprobs, Part
from interns1_local.runners.protocol import TokenLogprob


@dataclass(slots=True)
class _Waiting:
    """Bytes that have not come out of the parser; `token` None: their token was reported with what came before."""

    token: TokenLogprob | None
    size: int


class Attribution:
    """Tokens wait here until the text that they make has come out of the parser; they leave in their order."""

    def __init__(self) -> None:
        self._waiting: deque[_Waiting] = deque()
        self._text = b""
        # Where the next text can begin: behind the marks that are known to be over.
        self._from = 0
        self._last = 0

    def add(self, token: TokenLogprob, data: bytes) -> None:
        """A token that was chosen, and what it adds to the text."""
        self._waiting.append(_Waiting(token, len(data)))
        self._last = len(self._text)
        self._text += data

    def place(self, events: Sequence[Event], *, begins: bool = False, ends: bool = False) -> list[GenerationEvent]:
        """`events` that the last token made certain, each after its tokens; a thought may begin or end with it."""
        placed: list[GenerationEvent] = []
        behind_mark, mark_is_last = begins, begins or ends
        for event in events:
            if isinstance(event, ToolCallEvent):
                behind_mark = mark_is_last = True
            elif isinstance(event, Reasoning | Content):
                behind_mark = behind_mark or (ends and isinstance(event, Content))
                placed += self._take(event, behind_mark)
                mark_is_last = mark_is_last and not behind_mark
            placed.append(event)
        if mark_is_last:
            self._from = len(self._text)
        return placed

    def rest(self) -> list[GenerationEvent]:
        """Tokens of which no text came out."""
        tokens = tuple(entry.token for entry in self._waiting if entry.token is not None)
        self._waiting.clear()
        return [Logprobs(tokens, "other")] if tokens else []

    def _take(self, event: Reasoning | Content, behind_mark: bool) -> list[GenerationEvent]:
        start, stop = self._find(event.text.encode(), behind_mark)
        part: Part = "content" if isinstance(event, Content) else "reasoning"
        before, inside = self._release(start, stop)
        self._text = self._text[stop:]
        self._from = max(0, self._from - stop)
        self._last = max(0, self._last - stop)
        found: list[GenerationEvent] = [Logprobs(tuple(before), "other")] if before else []
        return [*found, Logprobs(tuple(inside), part)] if inside else found

    def _find(self, data: bytes, behind_mark: bool) -> tuple[int, int]:
        if behind_mark:
            places = self._text.rfind(data, self._last), self._text.rfind(data)
        else:
            places = self._text.find(data, self._from), -1
        start = next((place for place in places if place >= 0), None)
        # Bytes that are no UTF-8 came out as another text.
        return (self._from, len(self._text)) if start is None else (start, start + len(data))

    def _release(self, start: int, stop: int) -> tuple[list[TokenLogprob], list[TokenLogprob]]:
        """The tokens that end by `start`, and those with bytes in [start, stop)."""
        before: list[TokenLogprob] = []
        inside: list[TokenLogprob] = []
        position = 0
        while self._waiting and position < stop:
            entry = self._waiting.popleft()
            position += entry.size
            if entry.token is not None:
                (inside if position > start else before).append(entry.token)
        if position > stop:
            self._waiting.appendleft(_Waiting(None, position - stop))
        return before, inside
