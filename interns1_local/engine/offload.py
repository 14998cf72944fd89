"""Where a model's tensors go: layers on GPUs, experts on the CPU, tensors by name; as llama.cpp's model parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from interns1_local.engine import amx
from interns1_local.engine.devices import buffer_type, gpu_pointers
from interns1_local.engine.native import llama_cpp
from interns1_local.errors import BadRequest

SPLIT_MODES = {
    "none": llama_cpp.LLAMA_SPLIT_MODE_NONE,
    "layer": llama_cpp.LLAMA_SPLIT_MODE_LAYER,
    "row": llama_cpp.LLAMA_SPLIT_MODE_ROW,
}
# ggml's numbers of the types that a cache may have.
KV_TYPES = {
    "f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20,
}  # fmt: skip
FLASH_ATTENTION = {
    "auto": llama_cpp.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
NUMA = {"distribute": 1, "isolate": 2, "numactl": 3}
# llama.cpp looks for these in turn, and the experts of a layer are three tensors.
EXPERTS = r"blk\.{layer}\.ffn_(up|down|gate)_(ch|)exps"
CPU = "CPU"


@dataclass(frozen=True, slots=True)
class Offload:
    """`n_gpu_layers` are the last ones, the output counting as one (-1: all).

    `n_cpu_moe` layers, counted from the first, keep their experts on the CPU. `overrides` are (regex, device), of which
    the first that fits a tensor's name decides. `tensor_split` are shares of the layers, one a GPU.
    """

    n_gpu_layers: int = -1
    use_mmap: bool = True
    use_mlock: bool = False
    n_cpu_moe: int = 0
    overrides: tuple[tuple[str, str], ...] = ()
    split_mode: str = "layer"
    tensor_split: tuple[float, ...] = ()
    main_gpu: int = 0


# All layers on GPUs, where there are any.
AS_IT_COMES = Offload()
ON_CPU = Offload(n_gpu_layers=0)


class _Override(ctypes.Structure):
    _fields_ = (("pattern", ctypes.c_char_p), ("buffer_type", ctypes.c_void_p))


def model_params(offload: Offload) -> tuple[Any, list[Any]]:
    """llama.cpp's parameters, and what must live while they are used. BadRequest names a device that is missing."""
    params = llama_cpp.llama_model_default_params()
    # Weights stay in the file's order, which no AMX code reads.
    params.use_extra_bufts = not amx.broken_by()
    params.n_gpu_layers = offload.n_gpu_layers
    modes = {
        (False, False): llama_cpp.LLAMA_LOAD_MODE_NONE,
        (True, False): llama_cpp.LLAMA_LOAD_MODE_MMAP,
        (False, True): llama_cpp.LLAMA_LOAD_MODE_MLOCK,
        (True, True): llama_cpp.LLAMA_LOAD_MODE_MMAP_MLOCK,
    }
    params.load_mode = modes[offload.use_mmap, offload.use_mlock]
    params.split_mode = SPLIT_MODES[offload.split_mode]
    n_gpus = len(gpu_pointers())
    if n_gpus and not 0 <= offload.main_gpu < n_gpus:
        raise BadRequest(f"main_gpu {offload.main_gpu} is not one of this machine's {n_gpus} GPUs (0 is the first)")
    params.main_gpu = offload.main_gpu if n_gpus else 0
    kept: list[Any] = []
    if offload.tensor_split:
        shares = _shares(offload.tensor_split)
        params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        kept.append(shares)
    entries = [*offload.overrides, *((EXPERTS.format(layer=layer), CPU) for layer in range(offload.n_cpu_moe))]
    # Without a GPU all is on the CPU anyway, and weights in the order that suits it are not given up for nothing.
    if entries and (n_gpus or offload.overrides):
        table = (_Override * (len(entries) + 1))()
        for index, (pattern, device) in enumerate(entries):
            table[index] = _Override(pattern.encode(), buffer_type(device))
        params.tensor_buft_overrides = ctypes.cast(table, ctypes.c_void_p)
        kept.append(table)
    return params, kept


def start_numa(strategy: str) -> None:
    """Spread memory over the nodes of the machine (see NUMA), once in a process and before a model is loaded."""
    if strategy:
        llama_cpp.llama_numa_init(NUMA[strategy])


def _shares(wanted: Sequence[float]) -> Any:
    room = max(1, int(llama_cpp.llama_max_devices()))
    if len(wanted) > room:
        raise BadRequest(f"tensor_split has {len(wanted)} shares; this llama.cpp knows {room} devices at most")
    return (ctypes.c_float * room)(*wanted)
