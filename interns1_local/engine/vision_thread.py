"""The vision tower in a thread of its own, so that others get their tokens while a tile goes through it.

llama.cpp cannot stop a tile halfway: whoever needs it no more leaves, and the tile is remembered for the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from contextlib import nullcontext

from interns1_local.engine.llama import EngineError
from interns1_local.engine.multimodal import Embeddings, VisionEncoder
from interns1_local.engine.sequence import Sequence, Tile
from interns1_local.engine.turns import Turns

# Tiles of a sequence whose rows are made or kept: the one it needs next, and one for the tower meanwhile.
AHEAD = 2


class VisionThread:
    """Rows of the tiles that are wanted, one tile at a time. `close` may be called from any thread, the rest from one.

    The thread starts with the first tile that is not remembered.
    """

    def __init__(self, encoder: VisionEncoder, on_done: Callable[[], None], turns: Turns | None = None) -> None:
        """`on_done` is called in this thread when a tile is done, or failed. `turns`: with whom the tower shares the
        cores; the encoder calls its `offer`."""
        self._encoder = encoder
        self._on_done = on_done
        self._turns = turns
        self._changed = threading.Condition()
        self._wanted: dict[bytes, Tile] = {}
        # Of wanted tiles only. What is in the encoder's memory may leave it before it is used.
        self._rows: dict[bytes, Embeddings] = {}
        self._errors: dict[bytes, EngineError] = {}
        # Tiles that were computed and taken by nobody yet.
        self._new: set[bytes] = set()
        self._thread: threading.Thread | None = None
        self._closed = False

    def want(self, tiles: Iterable[Tile]) -> None:
        """From now on these are needed, the first first, and no others."""
        with self._changed:
            self._wanted = {tile.digest: tile for tile in tiles}
            self._rows = {digest: rows for digest, rows in self._rows.items() if digest in self._wanted}
            self._errors = {digest: error for digest, error in self._errors.items() if digest in self._wanted}
            self._new &= self._wanted.keys()
            for tile in self._wanted.values():
                self._recall(tile)
            if self._next() is None or self._closed:
                return
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="vision", daemon=True)
                self._thread.start()
            self._changed.notify()

    def has(self, tile: Tile) -> bool:
        """Whether the rows of `tile` are there; then they stay until other tiles are wanted."""
        with self._changed:
            return self._recall(tile)

    def error(self, tile: Tile) -> EngineError | None:
        """Why a tile that is wanted cannot be had."""
        return self._errors.get(tile.digest)

    def take(self, tile: Tile) -> tuple[Embeddings, bool]:
        """float32[n_tokens, n_embd] of a tile that is there, and whether they were computed since they were last
        taken."""
        with self._changed:
            computed = tile.digest in self._new
            self._new.discard(tile.digest)
            return self._rows[tile.digest], computed

    def close(self) -> None:
        """Wait for the tile in the tower, and end the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def _recall(self, tile: Tile) -> bool:
        if tile.digest in self._rows:
            return True
        rows = self._encoder.remembered(tile)
        if rows is not None:
            self._rows[tile.digest] = rows
        return rows is not None

    def _next(self) -> Tile | None:
        """The first wanted tile that is neither there nor failed."""
        tiles = self._wanted.items()
        return next((t for digest, t in tiles if digest not in self._rows and digest not in self._errors), None)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._next() is not None)
                tile = self._next()
                if self._closed or tile is None:
                    return
            found = self._encode(tile)
            with self._changed:
                if tile.digest not in self._wanted:
                    pass
                elif isinstance(found, EngineError):
                    self._errors[tile.digest] = found
                else:
                    self._rows[tile.digest] = found
                    self._new.add(tile.digest)
            self._on_done()

    def _encode(self, tile: Tile) -> Embeddings | EngineError:
        try:
            with self._turns.tile() if self._turns is not None else nullcontext():
                return self._encoder.encode(tile)
        except EngineError as error:
            return error
        except Exception as error:  # the tiles of others still need this thread
            return EngineError(f"a picture could not be encoded: {error!r}")


def upcoming(sequences: Iterable[Sequence]) -> list[Tile]:
    """The tiles that sequences need next, the first sequence's first."""
    return [
        placed.tile
        for sequence in sequences
        if sequence.tiles and sequence.tiles[-1].stop > sequence.n_computed
        for placed in [placed for placed in sequence.tiles if placed.stop > sequence.n_computed][:AHEAD]
    ]
