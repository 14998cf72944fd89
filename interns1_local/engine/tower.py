"""The vision file read while llama.cpp reads the model: two files, two cores."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from interns1_local.engine.devices import gpu_pointers, has_local_gpu
from interns1_local.engine.llama import Model
from interns1_local.engine.multimodal import HasPointer, VisionEncoder
from interns1_local.engine.native import llama_cpp
from interns1_local.engine.offload import ON_CPU, model_params
from interns1_local.engine.options import EngineOptions
from interns1_local.engine.turns import Turns
from interns1_local.errors import LoadError


class ModelOutline:
    """A model file without its weights: all that llama.cpp asks of the model that a vision file goes with."""

    def __init__(self, path: Path) -> None:
        params, _ = model_params(ON_CPU)
        params.no_alloc = True
        params.load_mode = llama_cpp.LLAMA_LOAD_MODE_NONE
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise LoadError(f"llama.cpp cannot load {path}")
        self.n_embd = int(llama_cpp.llama_model_n_embd_inp(self.pointer))

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None


class Tower:
    """The vision tower of an engine: on its way into memory from the start, where that is not a GPU's."""

    def __init__(
        self,
        model_path: Path,
        mmproj_path: Path,
        options: EngineOptions,
        turns: Turns | None,
        open_vision: Callable[..., VisionEncoder],
    ) -> None:
        """`open_vision` takes the arguments of VisionEncoder."""
        offload = options.offload
        # Where one GPU has the whole model it has the pictures too.
        main_gpu = offload.main_gpu if offload.split_mode == "none" and options.shares is None else None
        pause = turns.offer if turns is not None else None
        vision = options.n_threads, offload.n_gpu_layers != 0, options.image_cache_bytes, main_gpu, pause
        self._open: Callable[[HasPointer], VisionEncoder] = lambda model: open_vision(mmproj_path, model, *vision)
        self._outline: ModelOutline | None = None
        self._early: Future[VisionEncoder] | None = None
        self._opened: VisionEncoder | None = None
        # What a GPU has free is counted by the model's loading and then by the tower's.
        if not gpu_pointers():
            thread = ThreadPoolExecutor(1, thread_name_prefix="vision file")
            self._early = thread.submit(self._open_early, model_path)
            thread.shutdown(wait=False)

    def result(self, model: Model) -> VisionEncoder:
        """The tower, which goes with `model`. LoadError when it cannot be loaded."""
        self._opened = self._open(model) if self._early is None else self._early.result()
        return self._opened

    def close(self) -> None:
        """Free it, after what is still being loaded."""
        if self._opened is None and self._early is not None:
            # What could not be loaded is nothing to be freed.
            with suppress(Exception):
                self._opened = self._early.result()
        if self._opened is not None:
            self._opened.close()
        if self._outline is not None:
            self._outline.close()

    def _open_early(self, model_path: Path) -> VisionEncoder:
        self._outline = ModelOutline(model_path)
        return self._open(self._outline)


def turns_for(options: EngineOptions) -> Turns | None:
    """None where the tower runs on another device, which does not wait for the cores."""
    return None if options.offload.n_gpu_layers != 0 and has_local_gpu() else Turns()
