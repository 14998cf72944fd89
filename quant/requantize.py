"""GGUF -> GGUF with other types: every key is copied, every tensor decoded and encoded again."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from quant import estimate
from quant.errors import BadTensor, OutputError
from quant.estimate import Work
from quant.fit import Option, choose
from quant.ggml_types import ggml_type
from quant.gguf_file import ALIGNMENT, GGUFMetadata, TensorInfo, align
from quant.gguf_output import TensorSpec, layout
from quant.imatrix import ImportanceMatrix, load
from quant.overrides import named_types
from quant.recipes import ModelFacts, Recipe, choose_types, may_convert, recipe, recipe_of_type
from quant.sensitivity import measure
from quant.splits import KEYS, create_parts, file_of, plan_files, plan_parts, read_model, stamp
from quant.stream import Progress, TensorStream, largest_block, memory_bytes, stream_tensors
from quant.tensor_reader import FLOATS, TensorReader

QUANTIZATION_VERSION = 2
COPY = "COPY"  # every tensor keeps its type: for joining and splitting
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
    tensor_types: Sequence[str] = (),
    split_max_bytes: int | None = None,
    restart: bool = False,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> RequantizeReport:
    """Write `source` again with the types of the recipe `type`, or COPY. Text models and mmproj files.

    A model in parts is read from its first part. `imatrix` says which columns matter, in llama.cpp's format.
    `tensor_types` are exceptions, REGEX=TYPE each. The same call continues a run that was stopped, unless `restart`.
    """
    plan = plan_requantize(source, type, load(imatrix) if imatrix else None, tensor_types)
    return write(plan, output, split_max_bytes=split_max_bytes, restart=restart, jobs=jobs, progress=progress)


@dataclass(frozen=True, slots=True)
class RequantizePlan:
    """Keys and tensors of the output, and the tensors they are made from, in the same order."""

    metadata: GGUFMetadata
    fields: dict[str, Any]
    tensors: list[TensorInfo]
    specs: list[TensorSpec]
    imatrix: ImportanceMatrix | None = None

    def memory_bytes(self, jobs: int) -> int:
        """The run's estimated peak."""
        return memory_bytes(max((largest_block(t.shape[-1], ()) for t in self.tensors), default=0), jobs)

    def seconds(self, jobs: int) -> float:
        """The run's estimated time of computing; tries each type for a moment."""
        pairs = zip(self.tensors, self.specs, strict=True)
        return estimate.seconds((Work(t.type, spec.type, math.prod(spec.shape)) for t, spec in pairs), jobs)


def plan_requantize(
    source: Path, type: str, imatrix: ImportanceMatrix | None = None, tensor_types: Sequence[str] = ()
) -> RequantizePlan:
    """What `requantize` would write. Nothing is written."""
    metadata, tensors, fields = _open(source)
    named = _named_types(metadata, tensors, tensor_types, imatrix)
    if type.upper() == COPY:
        types = [named.get(tensor.name, tensor.type) for tensor in tensors]
    else:
        chosen = recipe(type)
        if chosen.needs_imatrix and imatrix is None:
            hint = "measure one with `interns1 imatrix` and give it with --imatrix"
            raise BadTensor(f"{chosen.name} needs an importance matrix: {hint}.")
        types = _types(metadata, tensors, chosen, imatrix is not None, named)
        fields["general.file_type"] = chosen.file_type
    if named or type.upper() != COPY:
        fields["general.quantization_version"] = QUANTIZATION_VERSION
    return _plan(metadata, fields, tensors, types, imatrix)


def plan_fit(
    source: Path,
    max_bytes: int,
    imatrix: ImportanceMatrix | None = None,
    tensor_types: Sequence[str] = (),
    *,
    split_max_bytes: int | None = None,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> RequantizePlan:
    """The types with the least error in files of at most `max_bytes` together, headers included.

    What is minimised is each tensor's relative error (see quant.sensitivity) times its number of elements, summed: all
    weights of the model count the same. It is a stand-in for the quality of answers, which this does not measure.
    `general.file_type` becomes that of the recipe named after the type that holds most bytes.
    """
    metadata, tensors, fields = _open(source)
    if metadata.architecture == "clip":
        raise BadTensor(f"An mmproj file cannot be fitted to a size; it can be {', '.join(_MMPROJ_RECIPES)}.")
    named = _named_types(metadata, tensors, tensor_types, imatrix)
    fields |= {"general.file_type": 0, "general.quantization_version": QUANTIZATION_VERSION}
    free = [t for t in tensors if t.name not in named and may_convert(t.name, t.shape) and t.n_bytes and _has_floats(t)]
    errors = measure(metadata, free, imatrix, jobs=jobs, progress=progress, warn=warn)
    options = {t.name: fit_options(t, errors[t.name]) for t in free}
    plan = _plan(metadata, fields, tensors, [named.get(t.name, t.type) for t in tensors], imatrix)
    fixed = len(layout(plan.fields, plan.specs)[0])
    fixed += sum(align(spec.n_bytes, ALIGNMENT) for spec in plan.specs if spec.name not in options)
    while True:
        chosen = choose(options, max_bytes, fixed)
        types = {**{spec.name: spec.type for spec in plan.specs}, **{name: o.type for name, o in chosen.items()}}
        plan = _plan(metadata, fields, tensors, [types[t.name] for t in tensors], imatrix)
        excess = sum(f.n_bytes for f in plan_files(source, plan.fields, plan.specs, split_max_bytes)) - max_bytes
        if excess <= 0:
            break
        fixed += excess  # the headers of further parts
    held: Counter[str] = Counter()
    for spec in plan.specs:
        held[spec.type] += spec.n_bytes
    plan.fields["general.file_type"] = recipe_of_type(held.most_common(1)[0][0]).file_type if held else 0
    return plan


def fit_options(tensor: TensorInfo, errors: Mapping[str, float]) -> list[Option]:
    """The choices of a tensor whose relative `errors` are known by type."""
    n_elements = math.prod(tensor.shape)
    sizes = {type: TensorSpec(tensor.name, tensor.shape, type).n_bytes for type in errors}
    return [Option(type, align(sizes[type], ALIGNMENT), n_elements * error) for type, error in errors.items()]


def write(
    plan: RequantizePlan,
    output: Path,
    *,
    split_max_bytes: int | None = None,
    restart: bool = False,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> RequantizeReport:
    """Carry out a plan. The types stand in the headers, so a stopped run of a plan with others is not continued."""
    started = time.monotonic()
    output, weights = Path(output), plan.imatrix
    parts = plan_parts(output, plan.specs, split_max_bytes)
    read = {file_of(plan.metadata, tensor) for tensor in plan.tensors} | {plan.metadata.path}
    for path in (output, *(path for path, _ in parts)):
        if path.exists() and any(os.path.samefile(path, other) for other in read):
            raise OutputError(f"{path} is the file to be read; name another output.")
    sources = stamp(plan.metadata) + (weights.stamp() if weights else "")
    with create_parts(
        output, plan.fields, plan.specs, max_bytes=split_max_bytes, sources=sources, restart=restart
    ) as outputs:
        reader = TensorReader(plan.metadata)
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


def _open(source: Path) -> tuple[GGUFMetadata, list[TensorInfo], dict[str, Any]]:
    """The model, its tensors in the order of the files, and the keys to be kept."""
    metadata = read_model(source)
    order = {path: index for index, path in enumerate(dict.fromkeys(file_of(metadata, t) for t in metadata.tensors))}
    tensors = sorted(metadata.tensors, key=lambda tensor: (order[file_of(metadata, tensor)], tensor.offset))
    fields: dict[str, Any] = {k: v for k, v in metadata.raw_fields().items() if k not in KEYS}
    fields.pop("general.alignment", None)
    return metadata, tensors, fields


def _plan(
    metadata: GGUFMetadata,
    fields: dict[str, Any],
    tensors: list[TensorInfo],
    types: Sequence[str],
    imatrix: ImportanceMatrix | None,
) -> RequantizePlan:
    if imatrix is not None:
        imatrix.check([(t.name, t.shape, to) for t, to in zip(tensors, types, strict=True)])
        fields = fields | imatrix.fields()
    specs = [TensorSpec(t.name, t.shape, to) for t, to in zip(tensors, types, strict=True)]
    return RequantizePlan(metadata, fields, tensors, specs, imatrix)


def _named_types(
    metadata: GGUFMetadata, tensors: list[TensorInfo], tensor_types: Sequence[str], imatrix: ImportanceMatrix | None
) -> dict[str, str]:
    named = named_types([(tensor.name, tensor.shape) for tensor in tensors], tensor_types, imatrix)
    for tensor in tensors:
        wanted = named.get(tensor.name)
        if wanted and metadata.architecture == "clip" and wanted not in _MMPROJ_RECIPES:
            raise BadTensor(f"Tensors of an mmproj file can be {', '.join(_MMPROJ_RECIPES)}, not {wanted}.")
        _check_form(tensor, wanted)
    return named


def _has_floats(tensor: TensorInfo) -> bool:
    return tensor.type in FLOATS or ggml_type(tensor.type).is_quantized


def _check_form(tensor: TensorInfo, wanted: str | None) -> None:
    if wanted and not _has_floats(tensor):
        raise BadTensor(f"Tensor {tensor.name} holds {tensor.type} values, which have no {wanted} form.")


def _types(
    metadata: GGUFMetadata,
    tensors: list[TensorInfo],
    chosen: Recipe,
    has_imatrix: bool,
    named: Mapping[str, str],
) -> list[str]:
    shapes = [(tensor.name, tensor.shape) for tensor in tensors]
    if metadata.architecture == "clip" and chosen.name not in _MMPROJ_RECIPES:
        raise BadTensor(f"An mmproj file can be {', '.join(_MMPROJ_RECIPES)}, not {chosen.name}.")
    picked = choose_types(shapes, chosen, replace(model_facts(metadata), has_imatrix=has_imatrix), named)
    for tensor, wanted in zip(tensors, picked, strict=True):
        _check_form(tensor, wanted)
    return [wanted or tensor.type for tensor, wanted in zip(tensors, picked, strict=True)]
