"""Protobuf's wire format, as far as SentencePiece's model files need it."""

from __future__ import annotations


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)


def number(field_number: int, value: int) -> bytes:
    return varint(field_number << 3) + varint(value)


def field(field_number: int, data: bytes) -> bytes:
    return varint(field_number << 3 | 2) + varint(len(data)) + data
