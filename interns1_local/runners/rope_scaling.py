"""Contexts past the trained one, for models whose config says how their rotary base grows with the text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class DynamicRope:
    """Dynamic NTK scaling, as InternLM2, 2.5 and 3 have it (`rope_scaling: {"type": "dynamic"}` in config.json).

    `freq_base` and `trained` are the checkpoint's; `file_base` and `file_context` the file's, which differ from them
    when it was converted for a longer context. `dimensions` are those of a head that rotate.
    """

    factor: float
    freq_base: float
    trained: int
    dimensions: int
    file_base: float
    file_context: int

    @classmethod
    def of(cls, metadata: Mapping[str, Any], architecture: str) -> Self | None:
        """What our converter wrote into a file; None for models without it, or when it makes no sense."""

        def read(key: str) -> Any:
            return metadata.get(f"{architecture}.{key}")

        try:
            found = cls(
                factor=float(metadata["interns1.rope.dynamic.factor"]),
                freq_base=float(metadata["interns1.rope.dynamic.freq_base"]),
                trained=int(metadata["interns1.rope.dynamic.context_length"]),
                dimensions=int(read("rope.dimension_count") or read("attention.key_length") or 0),
                file_base=float(read("rope.freq_base")),
                file_context=int(read("context_length")),
            )
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        numbers = (found.factor, found.freq_base, found.file_base)
        sizes = found.trained > 0 and found.dimensions > 2 and found.file_context >= found.trained
        return found if sizes and all(math.isfinite(number) and number >= 1 for number in numbers) else None

    def base_for(self, num_ctx: int | None) -> float:
        """The base with which a context of `num_ctx` is computed: the file's own as far as that reaches.

        Past it, b * (f * n / L - (f - 1)) ** (d / (d - 2)), which is what the reference uses for a text of n tokens.
        The reference grows the base with the text; a context has one base, so short texts are computed with it too.
        """
        if num_ctx is None or num_ctx <= self.file_context:
            return self.file_base
        growth = self.factor * num_ctx / self.trained - (self.factor - 1)
        return float(self.freq_base * growth ** (self.dimensions / (self.dimensions - 2)))
