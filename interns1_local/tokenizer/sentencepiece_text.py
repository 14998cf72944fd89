"""InternLM's text: added tokens are cut out, SentencePiece encodes what is between, as the reference does.

A GGUF file holds the pieces, not the model that the library reads, so the model is written again from them. llama.cpp's
own encoder knows no rules of added tokens, finds visible ones inside of words, and begins anew after each.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from interns1_local.errors import LoadError
from interns1_local.tokenizer.added_tokens import AddedTokenSplitter
from interns1_local.tokenizer.detokenizer import BYTE, CONTROL, UNKNOWN, UNUSED
from interns1_local.tokenizer.vocabulary import AddedToken

_BPE = 2


class SentencePieceText:
    """Text to ids for one vocabulary, with no token added around them."""

    def __init__(self, model_proto: bytes, added_tokens: Sequence[AddedToken]) -> None:
        # Most models have no such vocabulary.
        import sentencepiece

        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model_proto)
        except (RuntimeError, ValueError, TypeError) as error:
            raise LoadError(f"the file's vocabulary is not one of SentencePiece: {error}") from error
        self._splitter = AddedTokenSplitter(added_tokens)

    def encode(self, text: str) -> list[int]:
        """Each part between added tokens is a text of its own, with the space before it that the model may want."""
        ids: list[int] = []
        for part in self._splitter.split(text):
            token = self._splitter.tokens.get(part)
            if token is not None:
                ids.append(token.id)
            elif part:
                ids.extend(self._model.EncodeAsIds(part.encode("utf-16", "surrogatepass").decode("utf-16", "replace")))
        return ids


def model_proto(
    fields: Mapping[str, Any], tokens: Sequence[str], types: Sequence[int], added: Collection[int]
) -> bytes:
    """The vocabulary of a GGUF file as SentencePiece stores it (sentencepiece_model.proto, in protobuf's wire format).

    Ids in `added` are control pieces here, which no text can spell.
    """
    scores = fields.get("tokenizer.ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise LoadError("the file's vocabulary has no score for each token")
    out = bytearray()
    for id, (token, kind, score) in enumerate(zip(tokens, types, scores, strict=True)):
        shown = CONTROL if id in added and kind not in (UNKNOWN, UNUSED) else kind
        entry = _field(1, token.encode("utf-8", "replace")) + b"\x15" + struct.pack("<f", score) + _number(3, shown)
        out += _field(1, entry)
    trainer = _number(3, _BPE) + _number(35, int(BYTE in types))
    prefix = fields.get("tokenizer.ggml.add_space_prefix", True)
    shortened = fields.get("tokenizer.ggml.remove_extra_whitespaces", True)
    normalizer = _field(1, b"identity") + _number(3, int(prefix)) + _number(4, int(shortened)) + _number(5, 1)
    return bytes(out) + _field(2, trainer) + _field(3, normalizer)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)
