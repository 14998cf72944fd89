"""Grammars in the worker, by llguidance: which tokens may come next.

llama.cpp's own grammar sampler is not used: on a whole vocabulary it is hundreds of times slower, and some grammars
end the process or never end.
"""

from __future__ import annotations

import re
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
# llguidance calls itself once for each rule on the way from the first to the last: a chain of references as long as a
# grammar may be would run over the stack of an ordinary thread, and that ends the process. Memory that is not used
# costs nothing.
STACK_BYTES = 512 << 20
# Without this llguidance insists on its own way to cut text that can only be one thing, which is not the model's.
_FREE_TOKENS = '\n%llguidance {"no_forcing": true}\n'

Mask = npt.NDArray[np.bool_]


class GrammarCompiler:
    """Grammars over one vocabulary: the bytes of each id, the ids that are no text, and those that end an answer.

    Compiling belongs to one thread, with a stack of STACK_BYTES.
    """

    def __init__(self, pieces: Sequence[bytes], special: Collection[int], eog: Collection[int]) -> None:
        self._pieces = pieces
        self._special = sorted(special)
        self._eog = sorted(eog)
        self._tokenizer: LLTokenizer | None = None
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()

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
        return Matcher(found.deep_copy(), len(self._pieces))

    def _compile(self, grammar: str) -> LLMatcher:
        from llguidance import LLMatcher, LLParserLimits

        if self._tokenizer is None:
            self._tokenizer = _tokenizer(self._pieces, self._special, self._eog)
        limits = LLParserLimits(verbose_errors=False)
        matcher = LLMatcher(self._tokenizer, grammar + _FREE_TOKENS, log_level=0, limits=limits)
        if not matcher.is_error():
            # The first mask is the dearest, and the first that finds out what nothing can satisfy.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise BadRequest(f"the format cannot be used: {reason(matcher.get_error())}")
        return matcher


class Matcher:
    """Where one answer is in its grammar."""

    def __init__(self, matcher: LLMatcher, n_tokens: int) -> None:
        self._matcher = matcher
        self._n_tokens = n_tokens

    @property
    def accepting(self) -> bool:
        """Whether the answer may end here."""
        return not self._matcher.is_error() and bool(self._matcher.is_accepting())

    @property
    def finished(self) -> bool:
        """Whether nothing but the end can follow."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    def allowed(self) -> Mask:
        """bool[n vocabulary]: the tokens that may come next. Raises BadRequest when the grammar became too complex."""
        packed = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._check()
        return np.unpackbits(packed, count=self._n_tokens, bitorder="little").view(np.bool_)

    def consume(self, token: int) -> None:
        """Go on by a token. Raises BadRequest when it is not allowed, or when the grammar became too complex."""
        self._matcher.consume_token(token)
        self._check()

    def forced_bytes(self) -> bytes:
        """What has to come next, whatever the tokens that spell it."""
        if self._matcher.is_error():
            return b""
        # Grammars with special tokens may end in an error here, which has to stay out of the answer.
        copy = self._matcher.deep_copy()
        forced = bytes(copy.compute_ff_bytes())
        return b"" if copy.is_error() else forced

    def restart(self) -> None:
        """Back to the start of the grammar."""
        self._matcher.reset()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise BadRequest(f"the format cannot be followed: {reason(self._matcher.get_error())}")


def apply_mask(row: Logits, mask: Mask) -> None:
    """Forbid, in place, every token of `row` that `mask` does not allow."""
    np.copyto(row[: len(mask)], -np.inf, where=~mask[: len(row)])
    row[len(mask) :] = -np.inf


def reason(message: str) -> str:
    """llguidance's message without its own source and state, which say nothing to who sent a schema."""
    if message.startswith("panic") or "NoExtensionBias" in message or not message:
        return "it is too complex, or nothing satisfies it"
    if keys := re.search(r"Unimplemented keys: \[(.*)\]", message):
        return f"these keywords of the JSON schema are not supported: {keys[1]}"
    if error := re.search(r"^error: (.*)$", message, re.MULTILINE):
        return f"regex: {error[1]}"
    first = next(line for line in message.splitlines() if line.strip()).removesuffix("<non-verbose/>")
    return re.sub(r"^at \d+\(\d+\): failed to compile (JSON schema: )", r"\1", first)[:500]


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
        # Asked for only where tokens are forced, which _FREE_TOKENS forbids.
        return []
