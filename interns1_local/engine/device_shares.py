"""Which devices hold the layers of a model, and in which shares."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

from interns1_local.engine.devices import device_pointer
from interns1_local.engine.native import llama_cpp


@dataclass(frozen=True, slots=True)
class DeviceShares:
    """Devices by name, and the share of the layers that each gets (together 1)."""

    names: tuple[str, ...]
    shares: tuple[float, ...]

    def put_into(self, params: Any) -> list[Any]:
        """Let llama_model_params name the devices; gives the memory that they point to, to be kept while C reads it."""
        # The list of devices ends with a null pointer, that of shares has one for each device that could be.
        pointers = (ctypes.c_void_p * (len(self.names) + 1))(*(device_pointer(name) for name in self.names), None)
        shares = (ctypes.c_float * (int(llama_cpp.llama_max_devices()) + len(self.shares)))(*self.shares)
        params.devices = ctypes.cast(pointers, ctypes.c_void_p)
        params.tensor_split = ctypes.cast(shares, ctypes.POINTER(ctypes.c_float))
        return [pointers, shares]
