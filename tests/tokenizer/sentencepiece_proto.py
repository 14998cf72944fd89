"""Writes small SentencePiece models by hand, so that a piece can sit at exactly the id that a test states."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from tests.protobuf import field, number, varint

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def model_proto(pieces: Sequence[str]) -> bytes:
    """A unigram model without a dummy prefix; pieces 0, 1, 2 are <unk>, <s>, </s>. Fewer pieces score better."""
    kinds = {0: UNKNOWN, 1: CONTROL, 2: CONTROL}
    entries = ["<unk>", "<s>", "</s>", *pieces]
    body = b"".join(
        field(1, field(1, piece.encode()) + _float(2, -1.0) + number(3, _kind(piece, kinds.get(index, NORMAL))))
        for index, piece in enumerate(entries)
    )
    # byte_fallback: SentencePiece refuses byte pieces without it.
    trainer = number(3, 1) + number(35, int("<0x00>" in pieces))
    normalizer = field(1, b"identity") + number(3, 0) + number(4, 0) + number(5, 1)
    return body + field(2, trainer) + field(3, normalizer)


def model_with_pieces_at(places: Mapping[int, str], size: int) -> bytes:
    """A model of `size` pieces in which `places` says which piece sits where; the others are never used."""
    return model_proto([places.get(index, f"\ue000{index}") for index in range(3, size)])


def _kind(piece: str, default: int) -> int:
    return BYTE if piece.startswith("<0x") and len(piece) == 6 else default


def _float(number: int, value: float) -> bytes:
    return varint(number << 3 | 5) + struct.pack("<f", value)
