"""The tiles of pictures that were cut a short while ago: a conversation brings its pictures along every time."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from interns1_local.media.image import TileSpec, load_image, tile_image


class TileCache:
    """Tiles by the picture's bytes and by how it was to be cut; the least recently used go. Any thread may ask."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._pictures: OrderedDict[tuple[bytes, TileSpec], NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def tiles(self, data: bytes, spec: TileSpec) -> NDArray[np.uint8]:
        """What `tile_image` makes of the picture, uint8 [tiles, size, size, 3], not to be written to.

        A picture that takes more than the cache may hold is not kept. Raises MediaError.
        """
        key = hashlib.sha256(data).digest(), spec
        with self._lock:
            if (kept := self._pictures.get(key)) is not None:
                self._pictures.move_to_end(key)
                return kept
        tiles = tile_image(load_image(data), spec)
        tiles.flags.writeable = False
        with self._lock:
            if tiles.nbytes <= self._most_bytes and key not in self._pictures:
                self._pictures[key] = tiles
                self._bytes += tiles.nbytes
            while self._bytes > self._most_bytes:
                self._bytes -= self._pictures.popitem(last=False)[1].nbytes
        return tiles
