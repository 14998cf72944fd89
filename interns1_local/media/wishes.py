"""How a model wants its pictures and films. Apart from what makes them so, which takes long to import."""

from __future__ import annotations

from dataclasses import dataclass

FRAME_PREFIX = "Frame{i}: "


@dataclass(frozen=True, slots=True)
class TileSpec:
    """How a model wants its pictures: tile side in pixels, how many tiles, and whether the whole picture follows."""

    size: int
    min_patches: int = 1
    max_patches: int = 12
    thumbnail: bool = True
