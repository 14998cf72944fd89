"""Block-scaled FP8: weight = F8_E4M3 value x the scale of its block, from `<name>_scale_inv`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Rows, TensorEntry
from convert.errors import BrokenCheckpoint, UnsupportedArchitecture

SCALE_SUFFIX = "_scale_inv"
_DEFAULT_BLOCK = (128, 128)


def block_size(config: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of a block; refuses checkpoints that were quantized in another way."""
    settings = _quantization(config)
    if settings and settings.get("quant_method") != "fp8":
        raise UnsupportedArchitecture(
            f"The checkpoint is quantized with {settings.get('quant_method')!r}; only block-scaled fp8 is known."
        )
    size = settings.get("weight_block_size") or _DEFAULT_BLOCK
    try:
        rows, columns = (int(n) for n in size)
    except (TypeError, ValueError):
        rows = columns = 0
    if rows < 1 or columns < 1:
        raise BrokenCheckpoint(f"quantization_config.weight_block_size is {size!r}; two counts were expected.")
    return rows, columns


def _quantization(config: dict[str, Any]) -> dict[str, Any]:
    for place in (config, config.get("text_config") or {}):
        if place.get("quantization_config"):
            return dict(place["quantization_config"])
    return {}


def reader(checkpoint: Checkpoint, entry: TensorEntry) -> Callable[[int, int], Rows]:
    """`read(first, last)` for an FP8 tensor, dequantized to float32. A range must stay within one matrix."""
    block_rows, block_columns = block_size(checkpoint.config)
    scales = checkpoint.entry(entry.name + SCALE_SUFFIX)
    height, width = entry.shape[-2], entry.shape[-1]
    expected = (*entry.shape[:-2], -(-height // block_rows), -(-width // block_columns))
    if scales.shape != expected:
        raise BrokenCheckpoint(
            f"Tensor {scales.name} in {scales.file} has shape {list(scales.shape)}; "
            f"blocks of {block_rows}x{block_columns} over {list(entry.shape)} need {list(expected)}."
        )
    if scales.dtype not in ("F32", "BF16", "F16"):
        raise BrokenCheckpoint(f"Tensor {scales.name} in {scales.file} has dtype {scales.dtype}; not F32 or BF16.")

    def read(first: int, last: int) -> Rows:
        values = checkpoint.read_rows(entry, first, last)
        matrix, row = divmod(first, height)
        low, high = row // block_rows, -(-(row + last - first) // block_rows)
        base = matrix * expected[-2]
        block = checkpoint.read_rows(scales, base + low, base + high)
        by_row = np.arange(row, row + last - first) // block_rows - low
        values *= np.repeat(block[by_row], block_columns, axis=1)[:, :width]
        return values

    return read


def has_scale(checkpoint: Checkpoint, name: str) -> bool:
    return name + SCALE_SUFFIX in checkpoint.tensors
