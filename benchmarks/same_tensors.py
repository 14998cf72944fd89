"""Whether two GGUF files hold the same tensors, byte for byte, and where they differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from quant.gguf_file import GGUFMetadata, TensorInfo, read_metadata

POSITIONS = "v.position_embd.weight"


def compare(theirs: Path, ours: Path) -> list[str]:
    """One line with the count of equal tensors, then one for each difference."""
    left, right = read_metadata(theirs), read_metadata(ours)
    a, b = ({tensor.name: tensor for tensor in side.tensors} for side in (left, right))
    lines = [f"only in the peer's file: {name}" for name in sorted(a.keys() - b.keys())]
    lines += [f"only in our file: {name}" for name in sorted(b.keys() - a.keys())]
    equal = 0
    for name in sorted(a.keys() & b.keys()):
        if a[name].type != b[name].type or _sizes(a[name]) != _sizes(b[name]):
            lines.append(f"{name}: {_kind(a[name])} there, {_kind(b[name])} here")
        elif np.array_equal(x := _bytes(left, a[name]), y := _bytes(right, b[name])):
            equal += 1
        elif name == POSITIONS and _is_rolled(x, y, a[name].shape[-2]):
            lines.append(f"{name}: our rows are the peer's with the first one moved to the end, which is right")
        else:
            lines.append(f"{name}: {np.mean(x != y):.2%} of its bytes differ")
    lines += _vocabulary(left.fields, right.fields)
    return [f"{equal} of {len(a)} tensors are equal to the byte", *lines]


def _sizes(tensor: TensorInfo) -> list[int]:
    """Without dimensions of size 1, which llama.cpp's loader adds and drops at will."""
    return [size for size in tensor.shape if size != 1]


def _kind(tensor: TensorInfo) -> str:
    return f"{tensor.type} {list(tensor.shape)}"


def _bytes(metadata: GGUFMetadata, tensor: TensorInfo) -> Any:
    return np.memmap(metadata.path, np.uint8, "r", tensor.offset, (tensor.n_bytes,))


def _is_rolled(theirs: Any, ours: Any, n_rows: int) -> bool:
    return np.array_equal(np.roll(theirs.reshape(n_rows, -1), -1, axis=0), ours.reshape(n_rows, -1))


def _vocabulary(theirs: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    key = "tokenizer.ggml.tokens"
    if key not in theirs or key not in ours:
        return []
    pairs = list(zip(theirs[key], ours[key], strict=False))
    lost = sum(a != b and a.startswith("[PAD") for a, b in pairs)
    others = sum(a != b and not a.startswith("[PAD") for a, b in pairs)
    lines = [f"{lost} science tokens are padding in the peer's vocabulary"] if lost else []
    return lines + ([f"{others} other tokens are spelled otherwise"] if others else [])
