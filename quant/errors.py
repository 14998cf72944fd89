"""Errors of the quant package.

QuantError
  NativeLibraryError   libggml-base is missing or does not behave as this package expects
  UnknownType          a type or recipe name that does not exist
  BadTensor            values or shapes that a type cannot hold
  BrokenGGUF           a GGUF file that contradicts itself
  OutputError          the output file cannot be written
  BadMeasurement       logits or tokens that cannot be compared
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class QuantError(Exception):
    """An error with a sentence for the user."""


class NativeLibraryError(QuantError):
    pass


class UnknownType(QuantError):
    @classmethod
    def named(cls, kind: str, given: str, known: Iterable[str]) -> UnknownType:
        """`known` is listed, the nearest name first."""
        names = list(known)
        near = difflib.get_close_matches(given.upper(), names, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        return cls(f"There is no {kind} {given!r}.{hint} Known: {', '.join(names)}.")


class BadTensor(QuantError):
    pass


class BrokenGGUF(QuantError):
    pass


class OutputError(QuantError):
    pass


class BadMeasurement(QuantError):
    pass
