"""Pictures that come again are not cut again, and what is kept is bounded."""

from __future__ import annotations

import numpy as np
import pytest

from interns1_local.errors import MediaError
from interns1_local.media.image import load_image, tile_image
from interns1_local.media.tile_cache import TileCache
from interns1_local.media.wishes import TileSpec
from tests.media.pictures import encoded, picture

SPEC = TileSpec(8)
ONE = 8 * 8 * 3


def file(seed: int, width: int = 8, height: int = 8) -> bytes:
    return encoded(picture(width, height, seed))


def test_a_picture_that_comes_again_gives_the_same_tiles() -> None:
    data = file(0, 32, 16)
    cache = TileCache(2**20)
    tiles = cache.tiles(data, SPEC)
    assert np.array_equal(tiles, tile_image(load_image(data), SPEC))
    assert cache.tiles(bytes(bytearray(data)), SPEC) is tiles
    assert not tiles.flags.writeable


def test_another_way_to_cut_is_another_entry() -> None:
    data, cache = file(0, 32, 16), TileCache(2**20)
    assert len(cache.tiles(data, SPEC)) == 9
    assert len(cache.tiles(data, TileSpec(8, max_patches=1))) == 1
    assert len(cache.tiles(data, SPEC)) == 9


def test_the_least_recently_used_go() -> None:
    cache = TileCache(2 * ONE)
    first, second = (cache.tiles(file(seed), SPEC) for seed in (1, 2))
    assert cache.tiles(file(1), SPEC) is first
    cache.tiles(file(3), SPEC)
    assert cache.tiles(file(1), SPEC) is first
    assert cache.tiles(file(2), SPEC) is not second


def test_a_picture_larger_than_the_cache_leaves_it_as_it_is() -> None:
    cache = TileCache(2 * ONE)
    small, large = cache.tiles(file(1), SPEC), file(2, 32, 16)
    assert cache.tiles(large, SPEC) is not cache.tiles(large, SPEC)
    assert cache.tiles(file(1), SPEC) is small


def test_a_damaged_picture_is_refused_each_time() -> None:
    cache = TileCache(2**20)
    for _ in range(2):
        with pytest.raises(MediaError):
            cache.tiles(b"no picture", SPEC)
