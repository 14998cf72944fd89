"""Which of a model's adapters a request wants. Loads nothing: the server says it, a worker does it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Adaptation:
    """An adapter by its place among the model's, below 0 none, and how strongly it works.

    Where a request says nothing it is the first one as it is, which is none for a model that has none.
    """

    index: int = 0
    scale: float = 1.0


FIRST = Adaptation()
WITHOUT = Adaptation(-1)
