"""Token ids back to text: the bytes of every id, and bytes to text as they arrive."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from interns1_local.tokenizer.sentencepiece_domain import DomainModel
from interns1_local.tokenizer.vocabulary import Domain

# Special tokens that a reader needs: the parsers of reasoning and tool calls look for them in the text.
VISIBLE = (
    "<think>",
    "</think>",
    "<|action_start|>",
    "<|action_end|>",
    "<|plugin|>",
    "<|interpreter|>",
    "<tool_call>",
    "</tool_call>",
)

# Values of tokenizer.ggml.token_type.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


class Detokenizer:
    """The bytes of one token at a time; a character may be spread over several tokens."""

    def __init__(self, pieces: Sequence[bytes] | Pieces, special: Collection[int], visible: Collection[int]) -> None:
        self._pieces = pieces
        self._hidden = frozenset(special) - frozenset(visible)

    def token_bytes(self, id: int, skip_special: bool = True) -> bytes:
        """What the token adds to the text. A token outside the vocabulary adds nothing."""
        if not 0 <= id < len(self._pieces) or (skip_special and id in self._hidden):
            return b""
        return self._pieces[id]


class IncrementalText:
    """UTF-8 as it arrives: text is given out as soon as its characters are whole."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def decode(self, data: bytes) -> str:
        """The characters that are complete now."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left; an unfinished character becomes U+FFFD."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text


class Pieces:
    """The bytes of every id, from the arrays of a GGUF file and its science vocabularies; made when asked for."""

    def __init__(
        self,
        tokens: Sequence[str],
        token_types: Sequence[int] | npt.NDArray[np.int64],
        domains: Mapping[str, Domain],
        model: Literal["gpt2", "llama"],
    ) -> None:
        self._tokens, self._types = tokens, token_types
        self._bytes_of = _sentencepiece_bytes if model == "llama" else _byte_level_bytes
        # A later vocabulary has the ids that two of them claim.
        self._domains = [DomainModel(name, domain) for name, domain in reversed(list(domains.items()))]
        ends = (vocabulary.offset + len(vocabulary.pieces) for vocabulary in self._domains)
        self._count = max(len(tokens), *ends) if domains else len(tokens)
        self._known: dict[int, bytes] = {}

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[bytes]:
        return (self[id] for id in range(self._count))

    def __getitem__(self, id: int) -> bytes:
        if not 0 <= id < self._count:
            raise IndexError(f"token {id} is not one of {self._count}")
        found = self._known.get(id)
        if found is None:
            found = self._known[id] = self._made(id)
        return found

    def _made(self, id: int) -> bytes:
        for vocabulary in self._domains:
            if vocabulary.offset <= id < vocabulary.offset + len(vocabulary.pieces):
                return vocabulary.piece_bytes(id - vocabulary.offset)
        return self._bytes_of(self._tokens[id], int(self._types[id])) if id < len(self._tokens) else b""


@cache
def byte_alphabet() -> dict[str, int]:
    """Character -> byte of the byte-level alphabet that GPT-2 vocabularies are written in."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {chr(byte): byte for byte in shown}
    # The other bytes, in order, take the characters from U+0100 on.
    hidden = (byte for byte in range(256) if chr(byte) not in alphabet)
    return alphabet | {chr(0x100 + place): byte for place, byte in enumerate(hidden)}


def _byte_level_bytes(token: str, kind: int) -> bytes:
    if kind == UNUSED:
        return b""
    if kind in (CONTROL, USER_DEFINED, UNKNOWN):
        return token.encode("utf-8", "replace")
    alphabet = byte_alphabet()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:
        # A vocabulary that was not written in the alphabet throughout: such a token stands for itself.
        return token.encode("utf-8", "replace")


def _sentencepiece_bytes(token: str, kind: int) -> bytes:
    if kind == UNUSED:
        return b""
    if kind == BYTE and len(token) == 6:
        return bytes([int(token[3:5], 16)])
    if kind in (CONTROL, UNKNOWN):
        return token.encode("utf-8", "replace")
    return token.replace("\u2581", " ").encode("utf-8", "replace")
