"""Errors of the convert package.

ConvertError
  UnsupportedArchitecture   a model, or a setting of it, that GGUF or llama.cpp cannot express
  BrokenCheckpoint          files that are missing, damaged or contradict each other
  HubError                  the hub that does not have a model or does not answer
"""

from __future__ import annotations


class ConvertError(Exception):
    """An error with a sentence for the user."""


class UnsupportedArchitecture(ConvertError):
    pass


class BrokenCheckpoint(ConvertError):
    pass


class HubError(ConvertError):
    pass
