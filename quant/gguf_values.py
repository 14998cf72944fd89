"""GGUF metadata values <-> bytes. Reading checks every length against the buffer, so a hostile file cannot hurt."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from quant.errors import BrokenGGUF, QuantError

UINT8, INT8, UINT16, INT16, UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY, UINT64, INT64, FLOAT64 = range(13)

_SCALARS = {
    UINT8: "<B",
    INT8: "<b",
    UINT16: "<H",
    INT16: "<h",
    UINT32: "<I",
    INT32: "<i",
    FLOAT32: "<f",
    BOOL: "<?",
    UINT64: "<Q",
    INT64: "<q",
    FLOAT64: "<d",
}
_LENGTH = struct.Struct("<Q")
# Bytes that are looked at together for strings, and how many strings are read one by one before that is tried again.
_WINDOW = 1 << 18
_STEPS = 1024
_DTYPES = {kind: np.dtype(code.replace("?", "?")) for kind, code in _SCALARS.items()}
_KIND_OF_DTYPE = {dtype: kind for kind, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Typed:
    """A value with its GGUF type spelled out, where Python's type does not say enough."""

    kind: int
    value: Any


@dataclass(frozen=True, slots=True)
class Raw:
    """An encoded value (type id and payload) copied from another file byte for byte."""

    data: bytes


def encode_string(text: str | bytes) -> bytes:
    data = text.encode("utf-8", "surrogateescape") if isinstance(text, str) else text
    return struct.pack("<Q", len(data)) + data


def encode_value(value: Any) -> bytes:
    """Type id and payload. int -> UINT32 (or the smallest that holds it), float -> FLOAT32, list of str -> array."""
    if isinstance(value, Raw):
        return value.data
    if isinstance(value, Typed):
        return struct.pack("<I", value.kind) + struct.pack(_SCALARS[value.kind], value.value)
    if isinstance(value, bool | np.bool_):
        return struct.pack("<I?", BOOL, bool(value))
    if isinstance(value, int | np.integer):
        kind = _kind_of_int(int(value))
        return struct.pack("<I", kind) + struct.pack(_SCALARS[kind], int(value))
    if isinstance(value, float | np.floating):
        return struct.pack("<If", FLOAT32, float(value))
    if isinstance(value, str):
        return struct.pack("<I", STRING) + encode_string(value)
    if isinstance(value, np.ndarray):
        return _encode_array(value)
    if isinstance(value, Sequence):
        return _encode_sequence(value)
    raise QuantError(f"GGUF metadata cannot hold a {type(value).__name__}.")


def _kind_of_int(value: int) -> int:
    if 0 <= value < 1 << 32:
        return UINT32
    if -(1 << 31) <= value < 0:
        return INT32
    return UINT64 if value >= 0 else INT64


def _encode_array(values: NDArray[Any]) -> bytes:
    kind = _KIND_OF_DTYPE.get(values.dtype.newbyteorder("<"))
    if kind is None or values.ndim != 1:
        raise QuantError(f"GGUF metadata cannot hold an array of {values.dtype} with {values.ndim} dimensions.")
    data = values.astype(_DTYPES[kind], copy=False).tobytes()
    return struct.pack("<IIQ", ARRAY, kind, len(values)) + data


def _encode_sequence(values: Sequence[Any]) -> bytes:
    if all(isinstance(value, str | bytes) for value in values):
        return struct.pack("<IIQ", ARRAY, STRING, len(values)) + b"".join(map(encode_string, values))
    if all(isinstance(value, bool) for value in values):
        return _encode_array(np.array(values, np.bool_))
    if all(isinstance(value, int) for value in values):
        return _encode_array(np.array(values, np.int32))
    return _encode_array(np.array(values, np.float32))


class StringArray(Sequence[str]):
    """The strings of a file's array, decoded where they are asked for: a vocabulary has 100,000s, few are looked at."""

    def __init__(self, data: bytes, ends: NDArray[np.int64]) -> None:
        """`data` is the encoded array, each string behind its length in eight bytes; `ends` says where each ends."""
        self._data = data
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start = int(self._ends[place - 1]) if place else 0
        return self._data[start + _LENGTH.size : int(self._ends[place])].decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        data, start = self._data, _LENGTH.size
        for end in self._ends.tolist():
            yield data[start:end].decode("utf-8", "surrogateescape")
            start = end + _LENGTH.size

    def __contains__(self, text: object) -> bool:
        if not isinstance(text, str):
            return False
        try:
            wanted = encode_string(text)
        except UnicodeEncodeError:
            return False
        found = self._data.find(wanted)
        while found >= 0:
            # It may stand inside of another string, or across two.
            end = found + len(wanted)
            place = int(np.searchsorted(self._ends, end))
            start = int(self._ends[place - 1]) if place else 0
            if place < len(self) and int(self._ends[place]) == end and start == found:
                return True
            found = self._data.find(wanted, found + 1)
        return False

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StringArray):
            return self._data == other._data
        return list(self) == other

    __hash__ = None  # type: ignore[assignment]


class Cursor:
    """Reads values from a buffer; running past the end is an error that names the file."""

    def __init__(self, data: memoryview | bytes, name: str, lazy: bool = False) -> None:
        """`lazy` leaves the strings of arrays encoded, as StringArray."""
        self.lazy = lazy
        self.data = memoryview(data)
        self.name = name
        self.at = 0

    def broken(self, why: str) -> BrokenGGUF:
        return BrokenGGUF(f"{self.name} is not a valid GGUF file: {why}.")

    def take(self, n: int) -> memoryview:
        if n > len(self.data) - self.at:
            raise self.broken(f"it ends inside its header (byte {len(self.data)})")
        part = self.data[self.at : self.at + n]
        self.at += n
        return part

    def scalar(self, kind: int) -> Any:
        code = _SCALARS[kind]
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        return bytes(self.take(self.scalar(UINT64))).decode("utf-8", "surrogateescape")

    def value(self, arrays: bool = True) -> Any:
        """One typed value. With arrays=False the content of arrays is skipped and given as None."""
        kind = self.scalar(UINT32)
        if kind == STRING:
            return self.string()
        if kind == ARRAY:
            return self._array(arrays)
        if kind not in _SCALARS:
            raise self.broken(f"unknown value type {kind}")
        if kind == BOOL:
            return self.scalar(UINT8) != 0
        return self.scalar(kind)

    def _array(self, wanted: bool) -> Any:
        kind, count = self.scalar(UINT32), self.scalar(UINT64)
        if kind == STRING:
            if count > (len(self.data) - self.at) // 8:
                raise self.broken(f"an array claims {count} strings")
            return self._strings(count, wanted)
        if kind not in _DTYPES:
            raise self.broken(f"an array of unknown type {kind}")
        dtype = _DTYPES[kind]
        content = self.take(count * dtype.itemsize)
        return np.frombuffer(content, dtype).copy() if wanted else None

    def _strings(self, count: int, wanted: bool) -> Sequence[str] | None:
        begin = self.at
        found: list[NDArray[np.int64]] = []
        while count:
            ends = self._ends_of_short(count)
            if len(ends) < _STEPS // 16:
                found.append(ends)
                count -= len(ends)
                # Long or empty strings: one by one past them.
                ends = self._ends(min(count, _STEPS))
            found.append(ends)
            count -= len(ends)
        if not wanted:
            return None
        places = np.concatenate([*found, np.empty(0, np.int64)]) - begin
        strings = StringArray(bytes(self.data[begin : self.at]), places)
        return strings if self.lazy else list(strings)

    def _ends(self, count: int) -> NDArray[np.int64]:
        """Where each of the next `count` strings ends; the cursor goes past them."""
        at, ends, length_at, width = self.at, [], _LENGTH.unpack_from, _LENGTH.size
        try:
            for _ in range(count):
                at += width + length_at(self.data, at)[0]
                ends.append(at)
        except (struct.error, OverflowError):
            if at <= len(self.data):
                raise self.broken("it ends inside an array of strings") from None
        if at > len(self.data):
            raise self.broken("a string runs past the end of the file")
        self.at = at
        return np.array(ends, np.int64)

    def _ends_of_short(self, count: int) -> NDArray[np.int64]:
        """The same for as many as are at once seen to be shorter than 256 bytes, at most `count`.

        Such a string begins with its length and seven zeros. Where these are, and each length leads to the next, there
        is nothing between them; where something is, as after a string with zeros in it, the rest is left to `_ends`.
        """
        window = np.frombuffer(self.data[self.at : self.at + _WINDOW], np.uint8)
        if len(window) < 2 * _LENGTH.size:
            return np.empty(0, np.int64)
        zero = window == 0
        begins = zero[1:-6].copy()
        for place in range(2, _LENGTH.size):
            begins &= zero[place : len(zero) - _LENGTH.size + 1 + place]
        starts = np.flatnonzero(begins)
        if not len(starts) or starts[0]:
            return np.empty(0, np.int64)
        ends = starts + _LENGTH.size + window[starts]
        leads = ends[:-1] == starts[1:]
        known = min(len(leads) if leads.all() else int(leads.argmin()), count)
        ends = ends[:known].astype(np.int64) + self.at
        self.at = int(ends[-1]) if known else self.at
        return ends
