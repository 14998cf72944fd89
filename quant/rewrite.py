"""GGUF -> GGUF with the same tensors: some keys added or replaced, the bytes of some tensors in another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quant.errors import BadTensor, BrokenGGUF
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create
from quant.positional_file import PositionalFile

_BLOCK = 8 << 20

Ranges = Sequence[tuple[int, int]]


def rewrite(
    source: Path, output: Path, fields: Mapping[str, Any], reordered: Mapping[str, Ranges] | None = None
) -> None:
    """Write `source` again at `output`, which appears when it is complete. Memory is bounded by a block.

    Args:
        fields: keys that are added, or take the place of those of the same name; all others are copied byte for byte.
        reordered: ranges (first byte, end) of a tensor's data, in the order in which they are written.
    """
    reordered = reordered or {}
    metadata = read_metadata(source, arrays=False)
    kept: dict[str, Any] = dict(metadata.raw_fields())
    kept.pop("general.alignment", None)  # the output has the usual one
    ranges = {tensor.name: reordered.get(tensor.name, ((0, tensor.n_bytes),)) for tensor in metadata.tensors}
    for tensor in metadata.tensors:
        _check(tensor.name, tensor.n_bytes, ranges[tensor.name])
    specs = [TensorSpec(tensor.name, tensor.shape, tensor.type) for tensor in metadata.tensors]
    file = PositionalFile(source)
    try:
        with create(output, {**kept, **fields}, specs, restart=True) as written:
            for tensor in metadata.tensors:
                position = 0
                for first, end in ranges[tensor.name]:
                    for start in range(first, end, _BLOCK):
                        data = file.read_exactly(tensor.offset + start, min(_BLOCK, end - start))
                        written.write(tensor.name, position, data)
                        position += len(data)
    except EOFError:
        raise BrokenGGUF(f"{source} ended early; did it change while being read?") from None
    finally:
        file.close()


def _check(name: str, n_bytes: int, ranges: Ranges) -> None:
    """Every byte once."""
    at = 0
    for first, end in sorted(ranges):
        if first != at or end < first:
            raise BadTensor(f"Tensor {name}: the ranges {list(ranges)} do not make up its {n_bytes} bytes.")
        at = end
    if at != n_bytes:
        raise BadTensor(f"Tensor {name}: the ranges {list(ranges)} do not make up its {n_bytes} bytes.")
