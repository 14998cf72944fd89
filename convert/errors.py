"""Errors of the convert package.

ConvertError
  UnsupportedArchitecture   a model, or a setting of it, that GGUF or llama.cpp cannot express
  BrokenCheckpoint          files that are missing, damaged or contradict each other
"""

from __future__ import annotations


class ConvertError(Exception):
    """An error with a sentence for the user."""


class UnsupportedArchitecture(ConvertError):
    pass


class BrokenCheckpoint(ConvertError):
    pass
