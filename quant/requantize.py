"""GGUF -> GGUF with other types: every key is copied, every tensor decoded and encoded again."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize_rows
from quant.errors import BadTensor, OutputError
from quant.ggml_types import ggml_type
from quant.gguf_file import GGUFMetadata, TensorInfo
from quant.gguf_output import TensorSpec
from quant.imatrix import ImportanceMatrix, load
from quant.recipes import ModelFacts, Recipe, choose_types, recipe
from quant.splits import KEYS, create_parts, file_of, plan_parts, read_model, stamp
from quant.stream import Piece, Progress, TensorStream, largest_block, memory_bytes, stream_tensors

QUANTIZATION_VERSION = 2
COPY = "COPY"  # every tensor keeps its type: for joining and splitting
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
    imatrix: Path | None = None,
    split_max_bytes: int | None = None,
    restart: bool = False,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> RequantizeReport:
    """Write `source` again with the types of the recipe `type`, or COPY. Text models and mmproj files.

    A model in parts is read from its first part. `imatrix` says which columns matter, in llama.cpp's format. The same
    call continues a run that was stopped, unless `restart`.
    """
    started = time.monotonic()
    source, output = Path(source), Path(output)
    if output.exists() and os.path.samefile(source, output):
        raise OutputError(f"{output} is the file to be read; name another output.")
    weights = load(imatrix) if imatrix else None
    plan = plan_requantize(source, type, weights)
    parts = plan_parts(output, plan.specs, split_max_bytes)
    sources = stamp(plan.metadata) + (weights.stamp() if weights else "")
    with create_parts(
        output, plan.fields, plan.specs, max_bytes=split_max_bytes, sources=sources, restart=restart
    ) as outputs:
        reader = _Reader(plan.metadata)
        streams = [
            TensorStream(
                outputs[spec.name],
                spec.name,
                spec.type,
                spec.shape[-1],
                reader.pieces(tensor, spec.type),
                weights.for_tensor(spec.name, spec.shape) if weights else None,
            )
            for tensor, spec in zip(plan.tensors, plan.specs, strict=True)
        ]
        stream_tensors(streams, jobs=jobs, progress=progress)
    types = dict(Counter(spec.type for spec in plan.specs))
    n_bytes = sum(path.stat().st_size for path, _ in parts)
    return RequantizeReport(parts[0][0], n_bytes, time.monotonic() - started, types)


@dataclass(frozen=True, slots=True)
class RequantizePlan:
    """Keys and tensors of the output, and the tensors they are made from, in the same order."""

    metadata: GGUFMetadata
    fields: dict[str, Any]
    tensors: list[TensorInfo]
    specs: list[TensorSpec]

    def memory_bytes(self, jobs: int) -> int:
        """The run's estimated peak."""
        return memory_bytes(max((largest_block(t.shape[-1], ()) for t in self.tensors), default=0), jobs)


def plan_requantize(source: Path, type: str, imatrix: ImportanceMatrix | None = None) -> RequantizePlan:
    """What `requantize` would write. Nothing is written."""
    metadata = read_model(source)
    order = {path: index for index, path in enumerate(dict.fromkeys(file_of(metadata, t) for t in metadata.tensors))}
    tensors = sorted(metadata.tensors, key=lambda tensor: (order[file_of(metadata, tensor)], tensor.offset))
    fields: dict[str, Any] = {k: v for k, v in metadata.raw_fields().items() if k not in KEYS}
    fields.pop("general.alignment", None)
    if type.upper() == COPY:
        types = [tensor.type for tensor in tensors]
    else:
        chosen = recipe(type)
        if chosen.needs_imatrix and imatrix is None:
            raise BadTensor(f"{chosen.name} needs an importance matrix.")
        types = _types(metadata, tensors, chosen, imatrix is not None)
        fields["general.quantization_version"] = QUANTIZATION_VERSION
        fields["general.file_type"] = chosen.file_type
    if imatrix is not None:
        imatrix.check([(t.name, t.shape, to) for t, to in zip(tensors, types, strict=True)])
        fields |= imatrix.fields()
    specs = [TensorSpec(t.name, t.shape, to) for t, to in zip(tensors, types, strict=True)]
    return RequantizePlan(metadata, fields, tensors, specs)


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


def _types(metadata: GGUFMetadata, tensors: list[TensorInfo], chosen: Recipe, has_imatrix: bool) -> list[str]:
    shapes = [(tensor.name, tensor.shape) for tensor in tensors]
    if metadata.architecture == "clip" and chosen.name not in _MMPROJ_RECIPES:
        raise BadTensor(f"An mmproj file can be {', '.join(_MMPROJ_RECIPES)}, not {chosen.name}.")
    picked = choose_types(shapes, chosen, replace(model_facts(metadata), has_imatrix=has_imatrix))
    types = []
    for tensor, wanted in zip(tensors, picked, strict=True):
        if wanted and tensor.type not in _FLOATS and ggml_type(tensor.type).block_size == 1:
            raise BadTensor(f"Tensor {tensor.name} holds {tensor.type} values, which have no {wanted} form.")
        types.append(wanted or tensor.type)
    return types


class _Reader:
    """Reads rows of tensors as float32, from any thread."""

    def __init__(self, metadata: GGUFMetadata) -> None:
        self._metadata = metadata
        paths = {file_of(metadata, tensor) for tensor in metadata.tensors}
        self._maps: dict[Path, NDArray[np.uint8]] = {path: np.memmap(path, np.uint8, "r") for path in paths}

    def pieces(self, tensor: TensorInfo, to: str) -> list[Piece]:
        """One for each matrix."""
        n_rows = math.prod(tensor.shape[:-1])
        height = tensor.shape[-2] if len(tensor.shape) > 2 else n_rows
        return [self._piece(tensor, to, start, height) for start in range(0, n_rows, max(1, height))]

    def _piece(self, tensor: TensorInfo, to: str, start_row: int, n_rows: int) -> Piece:
        columns = tensor.shape[-1]
        row_bytes = ggml_type(tensor.type).row_bytes(columns)
        source = self._maps[file_of(self._metadata, tensor)]
        base = tensor.offset + start_row * row_bytes

        def encoded(first: int, last: int) -> NDArray[np.uint8]:
            return source[base + first * row_bytes : base + last * row_bytes]

        def read(first: int, last: int) -> NDArray[np.float32]:
            return dequantize_rows(encoded(first, last), tensor.type, columns)

        # A second encoding would round a second time; floats are read for their check.
        copied = tensor.type == to and to not in _FLOATS
        return Piece(n_rows, read, encoded=encoded if copied else None)
