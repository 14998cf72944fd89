"""Byte-level byte pairs, word by word, as Qwen2's tokenizer has them; a word that was met before is only looked up.

llama.cpp's own encoder gives the same ids, but walks every word anew, and needs seconds for a megabyte without spaces.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import regex  # type: ignore[import-untyped, unused-ignore]
from tokenizers import models

from interns1_local.errors import LoadError
from interns1_local.tokenizer.detokenizer import byte_alphabet

# Words as Qwen2's tokenizer splits them. Its reference is this expression in this library, down to its Unicode tables.
WORD = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Bounds on the memory that remembered words take. Nothing depends on them but speed.
_MAX_WORDS = 1 << 16
_MAX_REMEMBERED = 64


class WordEncoder:
    """Text to ids for one vocabulary. It knows no added tokens and normalizes nothing."""

    def __init__(self, vocabulary: Mapping[str, int], merges: Sequence[str]) -> None:
        """`vocabulary` maps tokens in the byte-level alphabet to ids; `merges` are `left right`, best first."""
        try:
            pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
            self._bpe = models.BPE(dict(vocabulary), pairs, cache_capacity=0)
        except Exception as error:  # the library has no narrower class
            raise LoadError(f"the file's vocabulary and its merges do not fit together: {error}") from error
        self._letters = {byte: letter for letter, byte in byte_alphabet().items()}
        self._known: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, byte for byte: nothing is added, normalized or left out."""
        known, ids = self._known, []
        for word in WORD.findall(text):
            found = known.get(word)
            ids.extend(self._encode_word(word) if found is None else found)
        return ids

    def _encode_word(self, word: str) -> list[int]:
        letters = word.encode().decode("latin-1").translate(self._letters)
        ids = [token.id for token in self._bpe.tokenize(letters)]
        if len(word) <= _MAX_REMEMBERED:
            if len(self._known) >= _MAX_WORDS:
                self._known.clear()
            self._known[word] = ids
        return ids
