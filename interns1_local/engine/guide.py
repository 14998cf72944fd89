"""What an answer is held to while it is generated: how long a thought may be, and a grammar for what follows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from interns1_local.engine.grammar import Mask, Matcher, apply_mask
from interns1_local.engine.sampling import Logits
from interns1_local.errors import BadRequest

OPEN, CLOSE = b"<think>", b"</think>"
# Line ends that a model was trained to write between a thought and its answer.
MAX_LINE_ENDS = 3

Ids = npt.NDArray[np.int64]


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
        encode: the ids that the model would most likely spell a text with; for guesses only.
    """

    pieces: Sequence[bytes]
    opening: Ids
    line_ends: Mask
    closing: tuple[int, ...]
    encode: Callable[[bytes], Sequence[int]] = lambda data: ()
    _found: dict[tuple[str, bytes], Ids] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        pieces: Sequence[bytes],
        closing: Sequence[int],
        encode: Callable[[bytes], Sequence[int]] = lambda data: (),
    ) -> Marks:
        opening = np.array([token for token, piece in enumerate(pieces) if piece == OPEN], np.int64)
        line_ends = np.array([_is_line_ends(piece) and bool(piece) for piece in pieces])
        return cls(pieces, opening, line_ends, tuple(closing), encode)

    def openers(self, begun: bytes) -> Ids:
        """The ids that go on with the mark of a thought of which `begun` is there."""
        if len(self.opening):
            return self.opening if not begun else self.opening[:0]
        rest = OPEN[len(begun) :]
        return self._where("within", rest, lambda piece: bool(piece) and rest.startswith(piece))

    def completing(self, mark: bytes, tail: bytes) -> Ids:
        """The ids that would complete `mark` in a text that ends with `tail`."""
        found = [self._where("with", mark, lambda piece: mark in piece)]
        for rest in _rests(mark, tail):
            found.append(self._where("from", rest, lambda piece, rest=rest: piece.startswith(rest)))  # type: ignore[misc]
        return np.concatenate(found)

    def overrunning(self, mark: bytes, tail: bytes) -> Ids:
        """Those of them with more than line ends after the mark: a grammar could not see what that is."""
        found = [self._where("over", mark, lambda piece: not _is_line_ends(piece.partition(mark)[2]))]
        for rest in _rests(mark, tail):

            def goes_on(piece: bytes, rest: bytes = rest) -> bool:
                return piece.startswith(rest) and not _is_line_ends(piece[len(rest) :])

            found.append(self._where("past", rest, goes_on))
        return np.concatenate(found)

    def _where(self, kind: str, text: bytes, wanted: Callable[[bytes], bool]) -> Ids:
        found = self._found.get((kind, text))
        if found is None:
            found = np.array([token for token, piece in enumerate(self.pieces) if wanted(piece)], np.int64)
            self._found[kind, text] = found
        return found


class Guide:
    """One answer's state: ask `forced` and `restrict` before a token is chosen, and tell `accept` which one it was.

    Args:
        rules: how its thought is treated.
        marks: the model's vocabulary.
        matcher: the grammar of what follows the thought.
        after: the grammar holds only for what follows this mark, each time that it comes; all else is free.
        forbidden: a mark that may not come after the thought.
    """

    def __init__(
        self, rules: ThoughtRules, marks: Marks, matcher: Matcher | None = None, after: str = "", forbidden: str = ""
    ) -> None:
        self._rules = rules
        self._marks = marks
        self._matcher = matcher
        self._after = after.encode()
        self._forbidden = forbidden.encode()
        self._inside = self._thought = rules.starts_inside
        # What there is of the mark that opens a thought; None when it can no longer come.
        self._opening = b"" if rules.may_open and not rules.starts_inside else None
        self._strayed = False  # the opening's tokens are none of the grammar's
        self._in_block = False
        self._tail = b""
        self._forced: deque[int] = deque()
        self._answer_tokens = 0
        self._line_ends_seen = 0
        self._begun = False
        self._opened = 0  # tokens of the mark that opened the thought: no part of its budget
        self.thought_tokens = 0  # its marks included

    @property
    def finished(self) -> bool:
        """Whether the grammar allows nothing more."""
        return self._matcher is not None and not self._after and self._begun and self._matcher.finished

    @property
    def cut(self) -> bool:
        """Whether the answer has all the tokens that it may have after its thought."""
        limit = self._rules.max_answer_tokens
        return limit is not None and not self._inside and self._answer_tokens >= limit

    def forced(self) -> int | None:
        """The token that has to come next, whatever the model thinks."""
        budget = self._rules.budget
        if self._inside and not self._forced and budget is not None and self.thought_tokens - self._opened >= budget:
            self._force_closing()
        return self._forced[0] if self._forced else None

    def upcoming(self) -> list[int]:
        """Tokens that most likely come next, as nothing else is allowed; they may be spelled in another way."""
        if self._forced:
            return list(self._forced)
        matcher = None if self._inside or self._strayed or self._opening is not None else self._matcher
        if matcher is None or (self._after and not self._in_block) or self._may_end_lines():
            return []
        data = matcher.forced_bytes()
        ids = list(self._marks.encode(data)) if data else []
        # Some vocabularies begin every text with a space.
        return ids if b"".join(self._marks.pieces[token] for token in ids) == data else []

    def instead_of_end(self) -> int | None:
        """What comes when the model would end its answer: inside of a thought, before what a grammar asks for, the
        thought's end; else nothing."""
        if not self._inside or self._matcher is None or self._after:
            return None
        self._force_closing()
        return self._forced[0]

    def restrict(self, row: Logits) -> None:
        """Forbid, in place, what the grammar does not allow now. Raises BadRequest when it cannot be followed."""
        if self._inside:
            if self._matcher is not None or self._forbidden:
                row[self._marks.overrunning(CLOSE, self._tail)] = -np.inf
            return
        if self._matcher is not None:
            if not self._after or self._in_block:
                apply_mask(row, self._mask(self._matcher))
            else:
                row[self._marks.overrunning(self._after, self._tail)] = -np.inf
        if self._forbidden:
            row[self._marks.completing(self._forbidden, self._tail)] = -np.inf

    def accept(self, token: int) -> None:
        """Take notice of the token that was chosen."""
        piece = self._marks.pieces[token]
        was_forced = bool(self._forced) and self._forced[0] == token
        if was_forced:
            self._forced.popleft()
        if self._inside:
            self.thought_tokens += 1
            self._look_for_end(piece)
            return
        if was_forced:
            # A line end of the closing: it belongs neither to the thought nor to the answer.
            return
        # Line ends between a thought and its answer belong to neither.
        self._answer_tokens += self._answer_tokens > 0 or not (self._thought and self._marks.line_ends[token])
        if self._opening is not None:
            self._look_for_start(self._opening + piece)
        if self._inside:
            return
        if self._matcher is not None and (not self._after or self._in_block):
            self._follow(self._matcher, token)
        else:
            self._look_for_block(piece)

    def check_end(self) -> None:
        """Every token is forbidden. Raises BadRequest if that cannot be the end."""
        if self._matcher is not None and not self._inside and not self._matcher.accepting:
            raise BadRequest("no token is left that both the format and the request's logit_bias allow")

    def _force_closing(self) -> None:
        closing = self._marks.closing
        has_line_end = self._tail.endswith(b"\n") and _is_line_ends(self._marks.pieces[closing[0]])
        self._forced.extend(closing[1:] if has_line_end else closing)

    def _mask(self, matcher: Matcher) -> Mask:
        mask = np.zeros(len(self._marks.pieces), np.bool_) if self._strayed else matcher.allowed()
        if self._may_end_lines():
            mask |= self._marks.line_ends
        if self._opening is not None:
            mask[self._marks.openers(self._opening)] = True
        return mask

    def _follow(self, matcher: Matcher, token: int) -> None:
        if self._strayed:
            return
        is_line_end = self._may_end_lines() and bool(self._marks.line_ends[token])
        if (is_line_end or self._opening) and not matcher.allowed()[token]:
            self._line_ends_seen += is_line_end
            self._strayed = not is_line_end
            return
        self._begun = True
        matcher.consume(token)
        if self._in_block and matcher.finished:
            self._in_block, self._tail = False, b""

    def _look_for_block(self, piece: bytes) -> None:
        text = self._tail + piece
        if self._matcher is not None and self._after in text:
            self._matcher.restart()
            self._in_block = True
        self._tail = text[-max(len(self._after), len(self._forbidden), 1) :]

    def _look_for_start(self, text: bytes) -> None:
        """A thought is opened by the very first text. The mark is a token of its own, or it is spelled."""
        text = text.lstrip()
        if text.startswith(OPEN):
            self._inside = self._thought = True
            self._opening, self._strayed, self._begun, self._tail = None, False, False, b""
            self.thought_tokens = self._opened = self._answer_tokens
            self._answer_tokens = 0
            if self._matcher is not None:
                self._matcher.restart()
            self._look_for_end(text[len(OPEN) :])
        else:
            self._opening = text if OPEN.startswith(text) else None

    def _look_for_end(self, piece: bytes) -> None:
        text = self._tail + piece
        self._inside = CLOSE not in text
        self._tail = text[-len(CLOSE) + 1 :] if self._inside else b""

    def _may_end_lines(self) -> bool:
        return self._thought and not self._begun and not self._after and self._line_ends_seen < MAX_LINE_ENDS


def _is_line_ends(piece: bytes) -> bool:
    return not piece.strip(b"\r\n")


def _rests(mark: bytes, tail: bytes) -> list[bytes]:
    """What `mark` lacks, for each of its beginnings that `tail` ends with."""
    return [mark[length:] for length in range(1, len(mark)) if tail.endswith(mark[:length])]
