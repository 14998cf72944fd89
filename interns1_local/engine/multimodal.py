"""Tiles to embeddings with llama.cpp's multimodal library, one tile a call; recent ones are remembered by content.

One a call, since llama.cpp's batches of tiles give the same and are no faster (benchmarks/pictures.py), and a cancelled
request is noticed between two tiles.
"""

from __future__ import annotations

import ctypes
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from interns1_local.engine import native_log
from interns1_local.engine.devices import gpu_pointers, has_local_gpu
from interns1_local.engine.eval_callback import EvalCallback
from interns1_local.engine.llama import EngineError
from interns1_local.engine.native import mtmd_cpp
from interns1_local.engine.sequence import Tile
from interns1_local.errors import LoadError

MARKER = b"<__media__>"
CACHE_BYTES = 256 * 2**20
MAX_SIDE = 8192
# Of the steps of a computation, one in so many can be the last before a pause: each such place costs a little.
PAUSE_EVERY = 16

Embeddings = npt.NDArray[np.float32]


class HasPointer(Protocol):
    """A model as llama.cpp has loaded it, with or without its weights, and the width of its embeddings."""

    pointer: Any
    n_embd: int


class VisionEncoder:
    """The vision tower and projector of an mmproj file. One thread encodes; any may look for what is remembered."""

    def __init__(
        self,
        mmproj_path: Path,
        model: HasPointer,
        n_threads: int,
        use_gpu: bool = True,
        cache_bytes: int = CACHE_BYTES,
        main_gpu: int | None = None,
        pause: Callable[[], None] | None = None,
    ) -> None:
        """What is remembered is for all requests, and takes at most `cache_bytes`, or one tile.

        The GPU of the number `main_gpu` computes, else the first. `pause` is called often while a tile is computed, and
        may wait.
        """
        native_log.forget()
        params = mtmd_cpp.mtmd_context_params_default()
        # RPC workers hold layers, not pictures.
        params.use_gpu = use_gpu and has_local_gpu()
        if params.use_gpu and main_gpu is not None:
            params.device = gpu_pointers()[main_gpu]
        params.n_threads = max(1, n_threads)
        params.print_timings = False
        params.warmup = False
        params.media_marker = MARKER
        self._eval_callback = None if pause is None else EvalCallback(_pauses(pause), lambda: None)
        if self._eval_callback is not None:
            params.cb_eval = self._eval_callback.native
        self._model = model
        self._cache: OrderedDict[bytes, Embeddings] = OrderedDict()
        self._cache_bytes = 0
        self._cache_lock = threading.Lock()
        # Held while the tower computes: what it uses is not freed then.
        self._tower_lock = threading.Lock()
        self._most_bytes = cache_bytes
        # How many tiles went through the tower.
        self.n_computed = 0
        self._pointer = mtmd_cpp.mtmd_init_from_file(str(mmproj_path).encode(), model.pointer, params)
        if not self._pointer:
            raise LoadError(f"llama.cpp cannot load the vision file {mmproj_path}{native_log.complaints()}")
        if not mtmd_cpp.mtmd_support_vision(self._pointer):
            raise LoadError(f"{mmproj_path} holds no vision tower")

    def n_tokens(self, size: int) -> int:
        """Places that a tile of `size` x `size` pixels takes."""
        with self._image_chunk(np.zeros((size, size, 3), np.uint8)) as chunk:
            return int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))

    def encode(self, tile: Tile) -> Embeddings:
        """float32[n_tokens, n_embd] of one tile."""
        found = self.remembered(tile)
        if found is not None:
            return found
        with self._tower_lock:
            if not self._pointer:
                raise EngineError("the vision tower is closed")
            embeddings = self._compute(tile)
        with self._cache_lock:
            self._cache[tile.digest] = embeddings
            self._cache_bytes += embeddings.nbytes
            while self._cache_bytes > self._most_bytes and len(self._cache) > 1:
                self._cache_bytes -= self._cache.popitem(last=False)[1].nbytes
        return embeddings

    def remembered(self, tile: Tile) -> Embeddings | None:
        """What `encode` gives, if it was computed before and is still there."""
        with self._cache_lock:
            found = self._cache.get(tile.digest)
            if found is not None:
                self._cache.move_to_end(tile.digest)
            return found

    def close(self) -> None:
        """Free the tower, after the tile that is in it."""
        with self._tower_lock:
            if self._pointer:
                mtmd_cpp.mtmd_free(self._pointer)
                self._pointer = None

    def _compute(self, tile: Tile) -> Embeddings:
        native_log.forget()
        with self._image_chunk(tile.pixels) as chunk:
            count = int(mtmd_cpp.mtmd_input_chunk_get_n_tokens(chunk))
            if count != tile.n_tokens:
                raise EngineError(f"a tile takes {count} places in the context, not {tile.n_tokens} as its file says")
            if mtmd_cpp.mtmd_encode_chunk(self._pointer, chunk) != 0:
                raise EngineError(f"llama.cpp could not encode a picture{native_log.complaints()}")
            if self._eval_callback is not None and (error := self._eval_callback.take_error()):
                raise error
            output = mtmd_cpp.mtmd_get_output_embd(self._pointer)
            if not output:
                raise EngineError("llama.cpp has no embeddings of a picture")
            rows = np.ctypeslib.as_array(output, shape=(count, self._model.n_embd)).copy()
            self.n_computed += 1
        if not np.isfinite(rows).all():
            raise EngineError("the embeddings of a picture are not finite numbers")
        return rows

    @contextmanager
    def _image_chunk(self, pixels: npt.NDArray[np.uint8]) -> Iterator[Any]:
        """The part of a tokenized picture that holds its pixels; llama.cpp's own text around it is left out."""
        height, width, channels = pixels.shape
        if channels != 3 or not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE) or pixels.dtype != np.uint8:
            raise EngineError(f"a tile cannot be {pixels.dtype}{list(pixels.shape)}")
        data = np.ascontiguousarray(pixels)
        bitmap = mtmd_cpp.mtmd_bitmap_init(width, height, data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8)))
        chunks = mtmd_cpp.mtmd_input_chunks_init()
        try:
            text = mtmd_cpp.mtmd_input_text(MARKER, len(MARKER), False, True)
            bitmaps = (mtmd_cpp.mtmd_bitmap_p_ctypes * 1)(bitmap)
            code = mtmd_cpp.mtmd_tokenize(self._pointer, chunks, ctypes.byref(text), bitmaps, 1)
            if code != 0:
                raise EngineError(f"llama.cpp cannot use a picture (code {code}){native_log.complaints()}")
            found = [
                chunk
                for index in range(mtmd_cpp.mtmd_input_chunks_size(chunks))
                if mtmd_cpp.mtmd_input_chunk_get_type(chunk := mtmd_cpp.mtmd_input_chunks_get(chunks, index))
                == mtmd_cpp.MTMD_INPUT_CHUNK_TYPE_IMAGE
            ]
            if len(found) != 1:
                raise EngineError(f"a tile became {len(found)} pictures; its size does not suit this vision file")
            yield found[0]
        finally:
            mtmd_cpp.mtmd_input_chunks_free(chunks)
            mtmd_cpp.mtmd_bitmap_free(bitmap)


def _pauses(pause: Callable[[], None]) -> Callable[[int, bool], bool]:
    """An observer of one in PAUSE_EVERY nodes, which looks at none."""
    asked = 0

    def observe(_tensor: int, ask: bool) -> bool:
        nonlocal asked
        if ask:
            asked += 1
            return asked % PAUSE_EVERY == 0
        pause()
        return True

    return observe
