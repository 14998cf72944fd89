# See LEAD_NOTE.txt in this folder.
"""What an answer is held to while it is generated: how long a thought may be, and a grammar for what follows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from interns1_local.engine.grammar import Mask, Matcher, apply_mask
from interns1_local.engine.sampling import Logits

OPEN, CLOSE = b"<think>", b"</think>"
# Line ends that a model was trained to write between a thought and its answer.
MAX_LINE_ENDS = 3


@dataclass(frozen=True, slots=True)
class ThoughtRules:
    """How an answer's thought is treated.

    Args:
        starts_inside: the prompt has opened the thought.
        may_open: the answer may begin with a thought of its own.
        budget: tokens after which the thought is closed; None is no limit.
        max_answer_tokens: tokens that may follow the thought; None is no limit.
    """

    starts_inside: bool = False
    may_open: bool = False
    budget: int | None = None
    max_answer_tokens: int | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Marks:
    """What the tokens of a vocabulary mean to a guide: made once for a model.

    Args:
        pieces: the bytes of each id.
        opening: ids that are the mark of a thought's beginning.
        line_ends: bool[n vocabulary], ids that are line ends and nothing else.
        closing: the ids that end a thought whose budget is spent.
    """

    pieces: Sequence[bytes]
    opening: frozenset[int]
    line_ends: Mask
    closing: tuple[int, ...]

    @classmethod
    def of(cls, pieces: Sequence[bytes], closing: Sequence[int]) -> Marks:
        opening = frozenset(token for token, piece in enumerate(pieces) if piece == OPEN)
        line_ends = np.array([bool(piece) and not piece.strip(b"\r\n") for piece in pieces])
        return cls(pieces, opening, line_ends, tuple(closing))


class Guide:
    """One answer's state: ask `forced` and `restrict` before a token is chosen, and tell `accept` which one it was."""

    def __init__(self, rules: ThoughtRules, marks: Marks, matcher: Matcher | None = None) -> None:
        self._rules = rules
        self._marks = marks
        self._matcher = matcher
        self._inside = self._thought = rules.starts_inside
        self._tail = b""
        self._forced: deque[int] = deque()
        self._answer_tokens = 0
        self._line_ends_seen = 0
        self._begun = False
        self.thought_tokens = 0  # the end mark included

    @property
    def finished(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self._matcher is not None and self._begun and self._matcher.finished

    @property
    def cut(self) -> bool:
        """Whether the answer has all the tokens that it may have after its thought."""
        limit = self._rules.max_answer_tokens
        return limit is not None and not self._inside and self._answer_tokens >= limit

    def forced(self) -> int | None:
        """The token that has to come next, whatever the model thinks."""
        budget = self._rules.budget
        if self._inside and not self._forced and budget is not None and self.thought_tokens >= budget:
            self._forced.extend(self._marks.closing)
        return self._forced[0] if self._forced else None

    def restrict(self, row: Logits) -> None:
        """Forbid, in place, what the grammar does not allow now. Raises BadRequest when it cannot be followed."""
        if self._matcher is None or self._inside:
            return
        mask = self._matcher.allowed()
        if self._may_end_lines():
            mask = mask | self._marks.line_ends
        if self._may_open():
            mask[list(self._marks.opening)] = True
        apply_mask(row, mask)

    def accept(self, token: int) -> None:
        """Take notice of the token that was chosen."""
        if self._forced and self._forced[0] == token:
            self._forced.popleft()
        if self._inside:
            self.thought_tokens += 1
            self._look_for_end(self._marks.pieces[token])
        elif token in self._marks.opening and self._may_open():
            self.thought_tokens += 1
            self._inside = self._thought = True
        else:
            self._answer_tokens += 1
            if self._matcher is not None:
                self._follow(self._matcher, token)

    def _follow(self, matcher: Matcher, token: int) -> None:
        if self._may_end_lines() and self._marks.line_ends[token] and not matcher.allowed()[token]:
            self._line_ends_seen += 1
            return
        self._begun = True
        matcher.consume(token)

    def _look_for_end(self, piece: bytes) -> None:
        """The mark is a token of its own in most vocabularies, but a model may spell it."""
        text = self._tail + piece
        self._inside = CLOSE not in text
        self._tail = text[-len(CLOSE) + 1 :]

    def _may_open(self) -> bool:
        return self._rules.may_open and not self._thought and self._answer_tokens == 0

    def _may_end_lines(self) -> bool:
        return self._thought and not self._begun and self._line_ends_seen < MAX_LINE_ENDS
