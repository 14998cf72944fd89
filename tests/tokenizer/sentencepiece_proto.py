"""Writes small SentencePiece models by hand, so that a piece can sit at exactly the id that a test states."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def model_proto(pieces: Sequence[str]) -> bytes:
    """A unigram model without a dummy prefix; pieces 0, 1, 2 are <unk>, <s>, </s>. Fewer pieces score better."""
    kinds = {0: UNKNOWN, 1: CONTROL, 2: CONTROL}
    entries = ["<unk>", "<s>", "</s>", *pieces]
    body = b"".join(
        _field(1, _field(1, piece.encode()) + _float(2, -1.0) + _number(3, _kind(piece, kinds.get(index, NORMAL))))
        for index, piece in enumerate(entries)
    )
    # byte_fallback: SentencePiece refuses byte pieces without it.
    trainer = _number(3, 1) + _number(35, int("<0x00>" in pieces))
    normalizer = _field(1, b"identity") + _number(3, 0) + _number(4, 0) + _number(5, 1)
    return body + _field(2, trainer) + _field(3, normalizer)


def model_with_pieces_at(places: Mapping[int, str], size: int) -> bytes:
    """A model of `size` pieces in which `places` says which piece sits where; the others are never used."""
    return model_proto([places.get(index, f"\ue000{index}") for index in range(3, size)])


def _kind(piece: str, default: int) -> int:
    return BYTE if piece.startswith("<0x") and len(piece) == 6 else default


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def _field(number: int, data: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _float(number: int, value: float) -> bytes:
    return _varint(number << 3 | 5) + struct.pack("<f", value)
