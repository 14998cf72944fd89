# See LEAD_NOTE.txt in this folder.
"""Grammars in the worker, by llguidance: which tokens may come next.

llama.cpp's own grammar sampler is not used: on a whole vocabulary it is hundreds of times slower, and some grammars
end the process or never end.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from interns1_local.engine.sampling import Logits
from interns1_local.errors import BadRequest

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

CACHED_GRAMMARS = 64
# A grammar that allows blanks between its words allows any number of them; a model may take it at its word.
MAX_BLANK_BYTES = 96

Mask = npt.NDArray[np.bool_]


class GrammarCompiler:
    """Grammars over one vocabulary: the bytes of each id, the ids that are no text, and those that end an answer."""

    def __init__(self, pieces: Sequence[bytes], special: Collection[int], eog: Collection[int]) -> None:
        self._pieces = pieces
        self._special = sorted(special)
        self._eog = sorted(eog)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._blank: Mask | None = None

    def matcher(self, grammar: str) -> Matcher:
        """A matcher at the start of `grammar`. Raises BadRequest for what is no grammar or is beyond the limits."""
        found = self._compiled.get(grammar)
        if found is None:
            found = self._compile(grammar)
            self._compiled[grammar] = found
            while len(self._compiled) > CACHED_GRAMMARS:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(grammar)
        return Matcher(found.deep_copy(), self._pieces, self._blanks())

    def _compile(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher

        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._pieces, self._special, self._eog)
        matcher = LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            raise BadRequest(f"the grammar cannot be used: {matcher.get_error()[:500]}")
        return matcher

    def _blanks(self) -> Mask:
        """The tokens that are white space and nothing else."""
        if self._blank is None:
            self._blank = np.array([bool(piece) and not piece.strip() for piece in self._pieces])
        return self._blank


class Matcher:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: LLMatcher, pieces: Sequence[bytes], blank: Mask) -> None:
        self._matcher = matcher
        self._pieces = pieces
        self._blank = blank
        self._blank_bytes = 0

    @property
    def finished(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> Mask:
        """bool[n vocabulary]: the tokens that may come next. Raises BadRequest when the grammar became too complex."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        if self._matcher.is_error():
            raise BadRequest(f"the grammar cannot be followed: {self._matcher.get_error()[:500]}")
        mask = np.unpackbits(packed, count=len(self._pieces), bitorder="little").view(np.bool_)
        if self._blank_bytes >= MAX_BLANK_BYTES and (others := mask & ~self._blank).any():
            return np.asarray(others)
        return mask

    def consume(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise BadRequest(f"the grammar cannot be followed: {self._matcher.get_error()[:500]}")
        piece = self._pieces[token]
        self._blank_bytes = 0 if piece.strip() else self._blank_bytes + len(piece)


def apply_mask(row: Logits, mask: Mask) -> None:
    """Forbid, in place, every token of `row` that `mask` does not allow."""
    row[: len(mask)][~mask[: len(row)]] = -np.inf
    row[len(mask) :] = -np.inf


def _tokenizer(pieces: Sequence[bytes], special: Sequence[int], eog: Sequence[int]) -> LLTokenizer:
    """About a second for 150,000 tokens."""
    from llguidance import LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

    return LLTokenizer(TokenizerWrapper(_Vocabulary(pieces, special, eog[0])), n_vocab=len(pieces), eos_token=list(eog))


class _Vocabulary:
    """What llguidance asks of a tokenizer."""

    def __init__(self, pieces: Sequence[bytes], special: Sequence[int], eos: int) -> None:
        self.tokens = list(pieces)
        self.special_token_ids = list(special)
        self.eos_token_id = eos
        self.bos_token_id = None

    def __call__(self, text: Any) -> list[int]:
        # Only hints depend on how text is cut into tokens; they are not used.
        return []
