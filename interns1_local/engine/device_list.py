"""`python -m interns1_local.engine.device_list`: what llama.cpp sees of this machine, as one line of JSON.

A process of its own, so that who asks loads no llama.cpp and no driver, and outlives a driver that crashes or hangs.
"""

from __future__ import annotations

import json
from typing import Any

from interns1_local.engine import amx
from interns1_local.engine.backend import start_backend
from interns1_local.engine.devices import backend_names, describe_devices
from interns1_local.engine.native import binding_version, llama_cpp
from interns1_local.errors import InternS1Error


def describe() -> dict[str, Any]:
    """Devices, backends, and the build of llama.cpp."""
    start_backend()
    return {
        "version": binding_version(),
        "system_info": (llama_cpp.llama_print_system_info() or b"").decode(errors="replace"),
        "amx_broken_by": amx.broken_by(),
        "gpu_offload": bool(llama_cpp.llama_supports_gpu_offload()),
        "mlock": bool(llama_cpp.llama_supports_mlock()),
        "backends": backend_names(),
        "devices": describe_devices(),
    }


if __name__ == "__main__":
    try:
        found = describe()
    except InternS1Error as error:
        found = {"error": error.message}
    print(json.dumps(found), flush=True)
