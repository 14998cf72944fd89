"""ggml's devices and backends, through ctypes, as llama_cpp has no bindings for them. Loads llama.cpp."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from pathlib import Path
from typing import Any

from interns1_local.engine.native import llama_cpp
from interns1_local.errors import BadRequest, LoadError

# ggml_backend_dev_type, in its order.
TYPES = ("cpu", "gpu", "igpu", "accel", "meta")

_REGISTRY = {
    "ggml_backend_dev_count": (ctypes.c_size_t, ()),
    "ggml_backend_dev_get": (ctypes.c_void_p, (ctypes.c_size_t,)),
    "ggml_backend_dev_by_name": (ctypes.c_void_p, (ctypes.c_char_p,)),
    "ggml_backend_reg_count": (ctypes.c_size_t, ()),
    "ggml_backend_reg_get": (ctypes.c_void_p, (ctypes.c_size_t,)),
    "ggml_backend_reg_by_name": (ctypes.c_void_p, (ctypes.c_char_p,)),
    "ggml_backend_register": (None, (ctypes.c_void_p,)),
    "ggml_backend_load": (ctypes.c_void_p, (ctypes.c_char_p,)),
}
_DEVICE = {
    "ggml_backend_dev_name": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "ggml_backend_dev_description": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "ggml_backend_dev_type": (ctypes.c_int, (ctypes.c_void_p,)),
    "ggml_backend_dev_memory": (None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)),
    "ggml_backend_dev_backend_reg": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "ggml_backend_dev_buffer_type": (ctypes.c_void_p, (ctypes.c_void_p,)),
    "ggml_backend_reg_name": (ctypes.c_char_p, (ctypes.c_void_p,)),
    "ggml_backend_reg_get_proc_address": (ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_char_p)),
}


def describe_devices() -> list[dict[str, Any]]:
    """Every device that is registered: name, description, type (see TYPES), backend, and free and total bytes."""
    return [_describe(pointer) for pointer in _pointers()]


@functools.cache
def has_local_gpu() -> bool:
    """Whether this machine itself has a GPU that llama.cpp can use; those of RPC workers do not count.

    llama_supports_gpu_offload would say yes for a build that only could have such workers.
    """
    base = base_library()
    backends = (base.ggml_backend_reg_name(base.ggml_backend_dev_backend_reg(gpu)) or b"" for gpu in gpu_pointers())
    return any(not backend.startswith(b"RPC") for backend in backends)


def device_names() -> list[str]:
    """The names of all devices, without asking them for more."""
    base = base_library()
    return [(base.ggml_backend_dev_name(pointer) or b"").decode(errors="replace") for pointer in _pointers()]


def backend_names() -> list[str]:
    """The backends that are compiled in or registered, the CPU among them."""
    registry, base = registry_library(), base_library()
    found = [registry.ggml_backend_reg_get(index) for index in range(registry.ggml_backend_reg_count())]
    return [(base.ggml_backend_reg_name(pointer) or b"").decode(errors="replace") for pointer in found]


def device_pointer(name: str) -> int:
    """ggml's handle of the device `name`; BadRequest lists those that exist."""
    pointer = registry_library().ggml_backend_dev_by_name(name.encode())
    if not pointer:
        known = ", ".join(device_names())
        raise BadRequest(f"there is no device {name!r}; this machine has {known}")
    return int(pointer)


def gpu_pointers() -> list[int]:
    """ggml's handles of all GPUs, in the order in which llama.cpp counts them for `main_gpu`.

    Their memory is not asked for: an RPC worker would answer over the network.
    """
    base, wanted = base_library(), (TYPES.index("gpu"), TYPES.index("igpu"))
    return [pointer for pointer in _pointers() if base.ggml_backend_dev_type(pointer) in wanted]


def buffer_type(name: str) -> int:
    """ggml's handle of the memory of the device `name`."""
    return int(base_library().ggml_backend_dev_buffer_type(device_pointer(name)))


@functools.cache
def registry_library() -> ctypes.CDLL:
    """libggml: which devices there are."""
    return _open("ggml", _REGISTRY)


@functools.cache
def base_library() -> ctypes.CDLL:
    """libggml-base: what a device is."""
    return _open("ggml-base", _DEVICE)


def library_names(stem: str, platform: str = sys.platform) -> tuple[str, ...]:
    """File names of a library of ggml, best first. With the ABI number it is the copy that libllama itself loads.

    The others are files of their own: opened under such a name, a library has its own, empty list of devices.
    """
    if platform == "darwin":
        return (f"lib{stem}.0.dylib", f"lib{stem}.dylib")
    if platform == "win32":
        return (f"{stem}.dll", f"lib{stem}.dll")
    return (f"lib{stem}.so.0", f"lib{stem}.so")


def library_path(stem: str) -> Path:
    """The file of a library of ggml that this process uses."""
    folder = Path(os.fsdecode(llama_cpp._lib._name)).parent
    found = next((folder / name for name in library_names(stem) if (folder / name).is_file()), None)
    if found is None:
        raise LoadError(f"there is no {library_names(stem)[0]} in {folder}; reinstall llama-cpp-python")
    return found


def _open(stem: str, functions: dict[str, Any]) -> ctypes.CDLL:
    library = ctypes.CDLL(str(library_path(stem)))
    for function, (result, arguments) in functions.items():
        entry = getattr(library, function)
        entry.restype, entry.argtypes = result, arguments
    return library


def _pointers() -> list[int]:
    registry = registry_library()
    return [registry.ggml_backend_dev_get(index) for index in range(registry.ggml_backend_dev_count())]


def _describe(pointer: int) -> dict[str, Any]:
    base = base_library()
    free, total = ctypes.c_size_t(0), ctypes.c_size_t(0)
    base.ggml_backend_dev_memory(pointer, ctypes.byref(free), ctypes.byref(total))
    number = base.ggml_backend_dev_type(pointer)
    backend = base.ggml_backend_reg_name(base.ggml_backend_dev_backend_reg(pointer))
    return {
        "name": (base.ggml_backend_dev_name(pointer) or b"").decode(errors="replace"),
        "description": (base.ggml_backend_dev_description(pointer) or b"").decode(errors="replace"),
        "type": TYPES[number] if 0 <= number < len(TYPES) else "other",
        "backend": (backend or b"").decode(errors="replace"),
        "free": free.value,
        "total": total.value,
    }
