"""The LoRAs of a loaded model, and which of them is applied. Their files were checked before (store/adapter): llama.cpp
does not check all of it.

A context applies one choice at a time to all that it computes. Each choice has a root, which tells what was computed
with it from all else: the digest of the adapter's file and the scale; no bytes for the model as it is.
"""

from __future__ import annotations

import ctypes
import hashlib
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interns1_local.engine import native_log
from interns1_local.engine.adaptation import FIRST, Adaptation
from interns1_local.engine.native import llama_cpp
from interns1_local.errors import BadRequest, LoadError

_BLOB = re.compile(r"sha256-([0-9a-f]{64})")
_SCALE = struct.Struct("<f")


class Adapters:
    """Loaded before the first context is made: a context sets aside room for the adapters that it finds."""

    def __init__(self, model: Any, paths: Sequence[Path] = ()) -> None:
        self._digests = [_digest(path) for path in paths]
        self._paths = dict(zip(self._digests, paths, strict=True))
        self._pointers = {digest: _load(model, path) for digest, path in self._paths.items()}
        self.first = self.root(FIRST)

    def __len__(self) -> int:
        return len(self._digests)

    def root(self, wanted: Adaptation) -> bytes:
        """What stands for `wanted`. BadRequest when there is no such adapter."""
        if wanted.index < 0 or not wanted.scale or (wanted == FIRST and not self._digests):
            return b""
        if wanted.index >= len(self._digests):
            raise BadRequest(f"there is no adapter {wanted.index}: the model has {len(self._digests)}")
        return self._digests[wanted.index] + _SCALE.pack(wanted.scale)

    def apply(self, context: Any, root: bytes) -> None:
        """Let what `context` computes from now on have the adapter of `root`, and no other."""
        digest, scale = root[: -_SCALE.size], root[-_SCALE.size :]
        adapters, scales = None, None
        if root:
            adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._pointers[digest])
            scales = (ctypes.c_float * 1)(*_SCALE.unpack(scale))
        if llama_cpp.llama_set_adapters_lora(context, adapters, 1 if root else 0, scales):
            raise LoadError(f"llama.cpp cannot apply the adapter {self._paths.get(digest)}{native_log.complaints()}")

    def close(self) -> None:
        """To be called while the model is there, when its contexts no longer compute."""
        for pointer in self._pointers.values():
            llama_cpp.llama_adapter_lora_free(pointer)
        self._pointers.clear()


def _load(model: Any, path: Path) -> Any:
    native_log.forget()
    pointer = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    if not pointer:
        raise LoadError(f"llama.cpp cannot load the adapter {path}{native_log.complaints()}")
    return pointer


def _digest(path: Path) -> bytes:
    """Of the file's content, which is the name of a blob."""
    if named := _BLOB.fullmatch(path.name):
        return bytes.fromhex(named[1])
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
