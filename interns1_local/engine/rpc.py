"""llama.cpp's RPC backend: other machines' devices as ours, and ours for others. For processes that load llama.cpp.

`python -m interns1_local.engine.rpc ENDPOINT THREADS CACHE [DEVICE...]` serves devices until its input closes; an empty
CACHE is none. `--check` says whether it can. The server has no authentication: whoever reaches it may read and write
its memory. See runners/rpc_gate.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

from interns1_local.engine.backend import start_backend
from interns1_local.engine.devices import (
    backend_names,
    base_library,
    describe_devices,
    device_names,
    device_pointer,
    registry_library,
)
from interns1_local.engine.native import binding_version
from interns1_local.errors import LoadError, Unsupported

# What a build has that nobody chose anything for.
DEFAULT_BACKENDS = {"CPU", "BLAS", "Metal", "MTL"}
BUILT_WITHOUT = 3


def has_rpc() -> bool:
    """Whether the installed llama.cpp has the RPC backend."""
    start_backend()
    return bool(registry_library().ggml_backend_reg_by_name(b"RPC"))


def how_to_build() -> str:
    """What to do about a llama.cpp without RPC."""
    return (
        "this llama-cpp-python was built without RPC; rebuild it (CMAKE_ARGS also names your GPU's backend):\n"
        '  CMAKE_ARGS="-DGGML_RPC=ON" pip install --no-cache-dir --force-reinstall --no-deps '
        f"llama-cpp-python=={binding_version()}"
    )


def check() -> int:
    """BUILT_WITHOUT if a rebuild would bring RPC and take away nothing that somebody chose; then that one says how."""
    if has_rpc():
        return 0
    if not {*backend_names()} - DEFAULT_BACKENDS:
        return BUILT_WITHOUT
    print(how_to_build(), flush=True)
    return 0


def add_workers(endpoints: Sequence[str]) -> list[str]:
    """Connect to `host:port` each, and give the names of their devices in that order.

    Who cannot be reached ends this process: see runners/rpc_protocol, which looks first. Unsupported without RPC.
    """
    add = _function("ggml_backend_rpc_add_server", ctypes.c_void_p, (ctypes.c_char_p,))
    start = len(device_names())
    for endpoint in endpoints:
        registry = add(endpoint.encode())
        if not registry:
            raise LoadError(f"the RPC worker {endpoint} has no devices")
        registry_library().ggml_backend_register(registry)
    return device_names()[start:]


def serve(endpoint: str, n_threads: int, cache: str, devices: Sequence[str]) -> None:
    """Serve one client after the other, for ever. `devices` by name; none: the GPUs, else the CPU."""
    start = _function(
        "ggml_backend_rpc_start_server",
        None,
        (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.POINTER(ctypes.c_void_p)),
    )
    listed = describe_devices()
    gpus = [device["name"] for device in listed if device["type"] in ("gpu", "igpu")]
    names = list(devices) or gpus or [device["name"] for device in listed if device["type"] == "cpu"][:1]
    pointers = (ctypes.c_void_p * len(names))(*(device_pointer(name) for name in names))
    start(endpoint.encode(), cache.encode() or None, max(1, n_threads), len(names), pointers)


def _function(name: str, result: Any, arguments: tuple[Any, ...]) -> Any:
    start_backend()
    registry = registry_library().ggml_backend_reg_by_name(b"RPC")
    address = base_library().ggml_backend_reg_get_proc_address(registry, name.encode()) if registry else None
    if not address:
        raise Unsupported(how_to_build())
    return ctypes.CFUNCTYPE(result, *arguments)(address)


def _end_with_stdin() -> None:
    while os.read(0, 4096):
        pass
    os._exit(0)


def main(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--check"]:
        return check()
    endpoint, threads, cache, *devices = arguments
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        serve(endpoint, int(threads), cache, devices)
    except (Unsupported, LoadError) as error:
        print(error.message, file=sys.stderr, flush=True)
        return BUILT_WITHOUT
    return 1


if __name__ == "__main__":
    # Not sys.exit: C's threads need no farewell.
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)
