"""A LoRA on a loaded model. Its file was checked before (store/adapter): llama.cpp does not check all of it."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from interns1_local.engine import native_log
from interns1_local.engine.native import llama_cpp
from interns1_local.errors import LoadError


class Adapter:
    """Loaded before the first context is made: a context sets aside room for the adapters that it finds."""

    def __init__(self, model: Any, path: Path) -> None:
        self._path = path
        native_log.forget()
        self._pointer = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
        if not self._pointer:
            raise LoadError(f"llama.cpp cannot load the adapter {path}{native_log.complaints()}")

    def apply(self, context: Any) -> None:
        adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(self._pointer)
        if llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)):
            raise LoadError(f"llama.cpp cannot apply the adapter {self._path}{native_log.complaints()}")

    def close(self) -> None:
        """To be called while the model is there, when its contexts no longer compute."""
        if self._pointer:
            llama_cpp.llama_adapter_lora_free(self._pointer)
            self._pointer = None
