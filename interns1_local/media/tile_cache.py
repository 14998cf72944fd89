"""The tiles of pictures that were cut a short while ago: a conversation brings its pictures along every time."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from interns1_local.media.image import load_image, tile_image
from interns1_local.media.recently_used import RecentlyUsed
from interns1_local.media.wishes import TileSpec


class TileCache:
    """Tiles by the picture's bytes and by how it was to be cut; the least recently used go. Any thread may ask."""

    def __init__(self, most_bytes: int) -> None:
        self._pictures: RecentlyUsed[tuple[bytes, TileSpec], NDArray[np.uint8]]
        self._pictures = RecentlyUsed(most_bytes, lambda tiles: tiles.nbytes)

    def tiles(self, data: bytes, spec: TileSpec) -> NDArray[np.uint8]:
        """What `tile_image` makes of the picture, uint8 [tiles, size, size, 3], not to be written to.

        A picture that takes more than the cache may hold is not kept. Raises MediaError.
        """
        key = hashlib.sha256(data).digest(), spec
        if (kept := self._pictures.get(key)) is not None:
            return kept
        tiles = tile_image(load_image(data), spec)
        tiles.flags.writeable = False
        self._pictures.put(key, tiles)
        return tiles
