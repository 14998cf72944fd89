"""One request's state in the engine: its tokens and tiles, how far it is computed, and where its cells are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from interns1_local.engine.sampling import SampledToken, SamplingParams

Keys = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False, slots=True)
class Tile:
    """One square picture, uint8[size, size, 3], that takes `n_tokens` places in the context."""

    pixels: npt.NDArray[np.uint8]
    n_tokens: int
    digest: bytes

    @classmethod
    def of(cls, pixels: npt.NDArray[np.uint8], n_tokens: int) -> Tile:
        pixels = np.ascontiguousarray(pixels)
        return cls(pixels, n_tokens, hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest())

    def keys(self) -> Keys:
        """Ids below zero, one a place, that stand for this picture wherever token ids are compared."""
        data = hashlib.shake_256(self.digest).digest(8 * self.n_tokens)
        return np.frombuffer(data, dtype="<i8").astype(np.int64) | np.iinfo(np.int64).min


@dataclass(frozen=True, eq=False, slots=True)
class PlacedTile:
    """A tile and the position of its first place."""

    start: int
    tile: Tile

    @property
    def stop(self) -> int:
        return self.start + self.tile.n_tokens


Prompt = Items[int | Tile]


@dataclass(eq=False, slots=True)
class Sequence:
    """`keys` holds prompt and output ids (a tile's places as ids below zero); `n_computed` of them are in the cache."""

    id: int
    keys: list[int]
    tiles: list[PlacedTile]
    n_prompt: int
    sampling: SamplingParams
    max_tokens: int
    # Its place in the order of all requests.
    arrival: int = 0
    slot: int = -1
    # Of the places that are computed, and of those that this step computes.
    cells: list[int] = field(default_factory=list)
    n_computed: int = 0
    cached_tokens: int = 0
    admitted_at: float | None = None
    first_token_at: float | None = None
    tiles_computed: int = 0
    # Whether the prompt's own tokens are to be judged, and what was found so far: of the second token and those after.
    scores_prompt: bool = False
    # How much of the beginning stays when the context is full and its older part goes, -1 the prompt; None: it ends.
    keep: int | None = None
    # Places that went; and whether what is in the cache was computed with them, and so is not what the keys alone say.
    n_cut: int = 0
    moved: bool = False
    prompt_scores: list[SampledToken] = field(default_factory=list)
    # Tokens that may come next, to be computed in the next step with the last one; how many there were, and came true.
    draft: tuple[int, ...] = ()
    # Which adapter computes it (see adapter): what has another root is not the same, with the same ids.
    root: bytes = b""
    n_drafted: int = 0
    n_accepted: int = 0
    _array: Keys = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def start(cls, id: int, prompt: Prompt, sampling: SamplingParams, max_tokens: int) -> Sequence:
        keys: list[int] = []
        tiles: list[PlacedTile] = []
        for part in prompt:
            if isinstance(part, Tile):
                tiles.append(PlacedTile(len(keys), part))
                keys.extend(part.keys().tolist())
            else:
                keys.append(part)
        return cls(id, keys, tiles, len(keys), sampling, max_tokens)

    @property
    def n_output(self) -> int:
        return len(self.keys) + self.n_cut - self.n_prompt

    @property
    def n_remaining(self) -> int:
        """Places not computed yet; 1 while decoding."""
        return len(self.keys) - self.n_computed

    @property
    def decodes(self) -> bool:
        """Whether a single token remains: one more answers."""
        return self.n_remaining == 1 and self.tile_at(self.n_computed) is None

    def cut(self, start: int, stop: int, moved: bool) -> None:
        """Leave the places [start, stop) out; no tile may lie across either. `moved`: what follows is not computed
        anew."""
        count = stop - start
        del self.keys[start:stop]
        kept = [tile for tile in self.tiles if not start <= tile.start < stop]
        self.tiles = [PlacedTile(t.start - count, t.tile) if t.start >= stop else t for t in kept]
        self.n_cut += count
        self.moved |= moved
        self._array = np.empty(0, np.int64)

    def key_array(self) -> Keys:
        """What was computed is compared by: `keys` as an array, the first with `root` in it. Not to be written to; made
        once for a length."""
        if len(self._array) != len(self.keys):
            self._array = np.array(self.keys, np.int64)
            if self.root:
                self._array[0] = _rooted(self.root, self.keys[0])
        return self._array

    def tile_at(self, position: int) -> PlacedTile | None:
        """The tile that covers `position`."""
        if not self.tiles:
            return None
        return next((tile for tile in self.tiles if tile.start <= position < tile.stop), None)

    def text_end(self, position: int) -> int:
        """Where the run of tokens that starts at `position` ends: at the next tile, or at the end."""
        return min((tile.start for tile in self.tiles if tile.start > position), default=len(self.keys))


def _rooted(root: bytes, key: int) -> int:
    """A key that is neither a token nor a tile's, and another one for each root and key."""
    data = hashlib.sha256(root + key.to_bytes(8, "little", signed=True)).digest()
    return int.from_bytes(data[:8], "little") >> 2 | 1 << 62
