"""Where the tensors of a worker's model go, from the load options that its server sends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from interns1_local.engine.device_shares import DeviceShares
from interns1_local.engine.devices import describe_devices
from interns1_local.engine.offload import Offload
from interns1_local.engine.options import EngineOptions
from interns1_local.engine.rpc import add_workers
from interns1_local.runners.model_spec import ModelFacts
from interns1_local.runners.rpc_placement import place_layers


def spread(options: EngineOptions, header: dict[str, Any], facts: ModelFacts, model_bytes: int) -> EngineOptions:
    """`options` with the layers on other machines' devices and this one's GPUs, by their free memory."""
    workers = add_workers(header["rpc"])
    known = {device["name"]: device for device in describe_devices()}
    devices = [known[name] for name in workers]
    devices += [found for found in known.values() if found["type"] == "gpu" and found["name"] not in workers]
    blocks = int(facts.metadata.get(f"{facts.architecture}.block_count", 0))
    placement = place_layers([device["free"] for device in devices], model_bytes, blocks)
    offload = options.offload
    # The plan knows more than sizes of files, where it counted the same devices.
    split = offload.tensor_split if len(offload.tensor_split) == len(devices) else placement.split
    layers = offload.n_gpu_layers if offload.n_gpu_layers >= 0 else placement.n_layers
    shares = DeviceShares(tuple(device["name"] for device in devices), split)
    offload = replace(offload, n_gpu_layers=layers, tensor_split=())
    return replace(options, offload=offload, shares=shares)


def offload_of(options: dict[str, Any]) -> Offload:
    """From load options by name."""
    overrides = [entry.rpartition("=") for entry in options["override_tensor"] or ()]
    return Offload(
        n_gpu_layers=options["num_gpu"],
        use_mmap=options["use_mmap"],
        use_mlock=options["use_mlock"] or False,
        n_cpu_moe=options["n_cpu_moe"] or 0,
        overrides=tuple((pattern, device.strip()) for pattern, _, device in overrides),
        split_mode=options["split_mode"] or "layer",
        tensor_split=tuple(options["tensor_split"] or ()),
        main_gpu=options["main_gpu"] or 0,
    )
