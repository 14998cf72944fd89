"""Safetensors files written by hand, so that tests do not lean on the reader they test; and the FP8 form of weights."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

FP8_BLOCK = (128, 128)

Array = NDArray[Any]
Encoded = tuple[str, tuple[int, ...], bytes]  # dtype, shape, data
_DTYPES = {"BF16": ml_dtypes.bfloat16, "F16": np.float16, "F32": np.float32, "F8_E4M3": ml_dtypes.float8_e4m3fn}


def encode(value: Array, dtype: str) -> Encoded:
    return dtype, value.shape, value.astype(_DTYPES[dtype]).tobytes()


def decode(tensor: Encoded) -> Array:
    return np.frombuffer(tensor[2], _DTYPES[tensor[0]]).reshape(tensor[1]).astype(np.float32)


def to_fp8(
    tensors: dict[str, Encoded], block: tuple[int, int] = FP8_BLOCK, scale_dtype: str = "F32"
) -> dict[str, Encoded]:
    """The FP8 twin: attention and expert matrices block-scaled, the rest unchanged."""
    out: dict[str, Encoded] = {}
    for name, tensor in tensors.items():
        if not (name.endswith("_proj.weight") and ("self_attn." in name or ".mlp." in name)):
            out[name] = tensor
            continue
        value = decode(tensor)
        rows, columns = block
        height, width = -(-value.shape[0] // rows), -(-value.shape[1] // columns)
        full = np.zeros((height * rows, width * columns), np.float32)
        full[: value.shape[0], : value.shape[1]] = value
        scale = np.abs(full.reshape(height, rows, width, columns)).max(axis=(1, 3)) / 440
        out[f"{name}_scale_inv"] = encode(scale, scale_dtype)
        out[name] = encode(value / _spread(out[f"{name}_scale_inv"], block, value.shape), "F8_E4M3")
    return out


def from_fp8(tensors: dict[str, Encoded], block: tuple[int, int] = FP8_BLOCK) -> dict[str, Encoded]:
    """Dequantized to F32, by the definition of the format."""
    out: dict[str, Encoded] = {}
    for name, tensor in tensors.items():
        scale = tensors.get(f"{name}_scale_inv")
        if scale is not None:
            out[name] = encode(decode(tensor) * _spread(scale, block, tensor[1]), "F32")
        elif not name.endswith("_scale_inv"):
            out[name] = tensor
    return out


def _spread(scale: Encoded, block: tuple[int, int], shape: tuple[int, ...]) -> Array:
    """A scale for every value."""
    return np.repeat(np.repeat(decode(scale), block[0], 0), block[1], 1)[: shape[0], : shape[1]]


def write_safetensors(path: Path, tensors: dict[str, Encoded]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + len(data)]}
        offset += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            file.write(data)


def write_shards(folder: Path, tensors: dict[str, Encoded], shards: int) -> None:
    """`shards` files with an index, or one model.safetensors."""
    if shards == 1:
        write_safetensors(folder / "model.safetensors", tensors)
        return
    weight_map: dict[str, str] = {}
    for index in range(shards):
        file = f"model-{index + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(tensors.items())[index::shards])
        write_safetensors(folder / file, part)
        weight_map |= dict.fromkeys(part, file)
    total = sum(len(data) for _, _, data in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
