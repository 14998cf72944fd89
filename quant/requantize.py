"""GGUF -> GGUF with other types: every key is copied, every tensor decoded and encoded again."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize_rows
from quant.errors import BadTensor, BrokenGGUF, OutputError
from quant.ggml_types import ggml_type
from quant.gguf_file import GGUFMetadata, TensorInfo, TensorSpec, create, read_metadata
from quant.recipes import ModelFacts, Recipe, choose_types, recipe
from quant.stream import Piece, Progress, TensorStream, stream_tensors

QUANTIZATION_VERSION = 2
_SPLIT_KEYS = ("split.no", "split.count", "split.tensors.count")
_FLOATS = ("F32", "F16", "BF16")
_MMPROJ_RECIPES = ("F32", "F16", "BF16", "Q8_0")


@dataclass(frozen=True, slots=True)
class RequantizeReport:
    """What was written."""

    path: Path
    n_bytes: int
    seconds: float
    types: dict[str, int]


def requantize(
    source: Path,
    output: Path,
    type: str,
    *,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> RequantizeReport:
    """Write `source` again with the types of the recipe `type`. Text models and mmproj files."""
    started = time.monotonic()
    chosen = recipe(type)
    source, output = Path(source), Path(output)
    metadata = read_metadata(source)
    if output.exists() and os.path.samefile(source, output):
        raise OutputError(f"{output} is the file to be read; name another output.")
    if int(metadata.fields.get("split.count", 1)) > 1:
        raise BrokenGGUF(f"{source} is one of {metadata.fields['split.count']} parts of a split model.")
    if chosen.needs_imatrix:
        raise BadTensor(f"{chosen.name} needs an importance matrix.")
    tensors = sorted(metadata.tensors, key=lambda tensor: tensor.offset)
    types = _types(metadata, tensors, chosen)
    specs = [TensorSpec(t.name, t.shape, to) for t, to in zip(tensors, types, strict=True)]
    fields: dict[str, Any] = {k: v for k, v in metadata.raw_fields().items() if k not in _SPLIT_KEYS}
    fields.pop("general.alignment", None)
    fields["general.quantization_version"] = QUANTIZATION_VERSION
    fields["general.file_type"] = chosen.file_type
    reader = _Reader(source)
    with create(output, fields, specs) as out:
        streams = [
            TensorStream(out, t.name, to, t.shape[-1], [reader.piece(t)]) for t, to in zip(tensors, types, strict=True)
        ]
        stream_tensors(streams, jobs=jobs, progress=progress)
    return RequantizeReport(output, output.stat().st_size, time.monotonic() - started, dict(Counter(types)))


def model_facts(metadata: GGUFMetadata) -> ModelFacts:
    """The figures that recipes ask for, from a file's keys."""
    architecture = metadata.architecture

    def count(key: str) -> int:
        value = metadata.fields.get(f"{architecture}.{key}", 0)
        return int(value if isinstance(value, int) else np.max(value))

    heads = count("attention.head_count") or 1
    return ModelFacts(
        architecture,
        count("block_count"),
        count("expert_count"),
        heads,
        count("attention.head_count_kv") or heads,
    )


def _types(metadata: GGUFMetadata, tensors: list[TensorInfo], chosen: Recipe) -> list[str]:
    shapes = [(tensor.name, tensor.shape) for tensor in tensors]
    if metadata.architecture == "clip" and chosen.name not in _MMPROJ_RECIPES:
        raise BadTensor(f"An mmproj file can be {', '.join(_MMPROJ_RECIPES)}, not {chosen.name}.")
    picked = choose_types(shapes, chosen, model_facts(metadata))
    types = []
    for tensor, wanted in zip(tensors, picked, strict=True):
        if wanted and tensor.type not in _FLOATS and ggml_type(tensor.type).block_size == 1:
            raise BadTensor(f"Tensor {tensor.name} holds {tensor.type} values, which have no {wanted} form.")
        types.append(wanted or tensor.type)
    return types


class _Reader:
    """Reads rows of tensors as float32, from any thread."""

    def __init__(self, path: Path) -> None:
        self._map: NDArray[np.uint8] = np.memmap(path, np.uint8, "r")

    def piece(self, tensor: TensorInfo) -> Piece:
        n_rows = int(np.prod(tensor.shape[:-1], dtype=np.int64))
        columns = tensor.shape[-1]
        row_bytes = ggml_type(tensor.type).row_bytes(columns)

        def read(first: int, last: int) -> NDArray[np.float32]:
            start = tensor.offset + first * row_bytes
            data = self._map[start : start + (last - first) * row_bytes]
            return dequantize_rows(data, tensor.type, columns)

        return Piece(n_rows, read)
