"""Small LoRA files for tests, and the same change merged into the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np

from quant.gguf_file import read_metadata

ALPHA = 8.0
RANK = 4
EMBEDDING = "token_embd.weight"

Pairs = dict[str, tuple[np.ndarray, np.ndarray]]


def random_pairs(base: Path, names: list[str], strength: float = 0.05) -> Pairs:
    """A and B for each named tensor of `base`, as llama.cpp wants them."""
    random = np.random.default_rng(7)
    shapes = {tensor.name: tensor.shape for tensor in read_metadata(base, arrays=False).tensors}

    def normal(*shape: int) -> np.ndarray:
        return (strength * random.standard_normal(shape)).astype(np.float32)

    pairs = {}
    for name in names:
        *experts, outputs, inputs = shapes[name]
        if name == EMBEDDING:
            pairs[name] = normal(outputs, RANK), normal(inputs, RANK)
        else:
            pairs[name] = normal(*experts, RANK, inputs), normal(*experts, outputs, RANK)
    return pairs


def write_lora(path: Path, pairs: Pairs, architecture: str = "qwen3moe", **changes: Any) -> Path:
    """A LoRA; `changes` are other values of its keys (None: without the key), or `extra` tensors."""
    keys: dict[str, Any] = {"type": "adapter", "method": "lora", "alpha": ALPHA, "extra": {}, **changes}
    writer = gguf.GGUFWriter(path, architecture)
    if keys["type"] is not None:
        writer.add_type(keys["type"])
    if keys["method"] is not None:
        writer.add_string("adapter.type", keys["method"])
    if isinstance(keys["alpha"], str):
        writer.add_string("adapter.lora.alpha", keys["alpha"])
    elif keys["alpha"] is not None:
        writer.add_float32("adapter.lora.alpha", keys["alpha"])
    if "invocation" in keys:
        writer.add_array("adapter.alora.invocation_tokens", keys["invocation"])
    for name, (a, b) in pairs.items():
        writer.add_tensor(f"{name}.lora_a", a)
        writer.add_tensor(f"{name}.lora_b", b)
    for name, values in keys["extra"].items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_merged(base: Path, pairs: Pairs, path: Path) -> Path:
    """A copy of the F32 file `base` in which W is W + alpha / rank * B A."""
    data = bytearray(base.read_bytes())
    for tensor in read_metadata(base, arrays=False).tensors:
        if tensor.name not in pairs:
            continue
        assert tensor.type == "F32"
        a, b = (part.astype(np.float64) for part in pairs[tensor.name])
        change = a @ b.T if tensor.name == EMBEDDING else b @ a
        stop = tensor.offset + tensor.n_bytes
        weights = np.frombuffer(bytes(data[tensor.offset : stop]), np.float32).reshape(tensor.shape)
        merged = weights.astype(np.float64) + ALPHA / a.shape[-1 if tensor.name == EMBEDDING else -2] * change
        data[tensor.offset : stop] = merged.astype(np.float32).tobytes()
    path.write_bytes(data)
    return path
