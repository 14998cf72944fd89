"""How much each type would harm each tensor, measured on a sample of its rows and kept beside the model.

The error of a type is relative and squared: the sum of w * (x - decoded x)^2 over the sample, divided by the sum of
w * x^2. The weight w of a column is its mean square input from an importance matrix, which makes the error that of the
tensor's output (as far as the inputs of different columns do not move together); without a matrix every w is 1.

The sample is always the same: rows at equal distances, of stacked experts some at equal distances. A whole tensor up to
SAMPLE_VALUES is measured; of larger ones an error is known to a few hundredths of itself, when rows are alike.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quant.codec import dequantize_rows, quantize_rows
from quant.errors import QuantError
from quant.ggml_types import ggml_type
from quant.gguf_file import GGUFMetadata, TensorInfo
from quant.imatrix import ImportanceMatrix
from quant.recipes import fit_to_row
from quant.splits import stamp
from quant.stream import Progress, worker_count
from quant.tensor_reader import FLOATS, TensorReader

SAMPLE_VALUES = 1 << 18
SLOW_SAMPLE_VALUES = 1 << 15  # the encoders of IQ2 and IQ3 search long for every block
SAMPLE_EXPERTS = 8

FORMAT = 1  # of the cache; another way to measure needs another number
MAX_CACHE_BYTES = 64 << 20

# The error of a type that cannot hold the values at all; finite, so that sums can still be compared.
UNUSABLE = 1e30

_TYPES = ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
_TYPES_FOR_WEIGHTS = ("IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S")

Errors = dict[str, dict[str, float]]  # tensor name -> type -> error
Sample = list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]  # rows, weights of their columns


def cache_path(source: Path) -> Path:
    """Where the errors of a model are kept; of a model in parts, beside the first."""
    return source.with_name(f"{source.name}.sensitivity.json")


def candidates(tensor: TensorInfo, has_weights: bool) -> list[str]:
    """The types that a tensor may get, its own among them unless that is F32."""
    wanted = (*_TYPES, *(_TYPES_FOR_WEIGHTS if has_weights else ()))
    fitting = [fit_to_row(type, tensor.shape[-1]) for type in wanted]
    if tensor.type == "F32":
        return list(dict.fromkeys(fitting))
    if tensor.type in FLOATS:
        # Rows that no block fills stay as they are: the other 16-bit type would only round them.
        fitting = [type for type in fitting if type not in FLOATS]
    return list(dict.fromkeys([*fitting, tensor.type]))


def measure(
    metadata: GGUFMetadata,
    tensors: Sequence[TensorInfo],
    imatrix: ImportanceMatrix | None = None,
    *,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
    warn: Callable[[str], None] | None = None,
) -> Errors:
    """The error of every candidate type of `tensors`, from the cache where it knows them.

    A run that is stopped keeps what it has measured.

    Args:
        jobs: worker threads; 0 takes one for each processor.
        progress: called on this thread after every tensor; an exception from it stops the run.
        warn: told about a cache that cannot be used.
    """
    path = cache_path(metadata.path)
    key = {"format": FORMAT, "source": stamp(metadata), "imatrix": imatrix.stamp() if imatrix else None}
    warn = warn or _warn
    known = _load(path, key, warn)
    weights = {t.name: imatrix.for_tensor(t.name, t.shape) if imatrix else None for t in tensors}
    wanted = {tensor.name: candidates(tensor, weights[tensor.name] is not None) for tensor in tensors}
    # What a tensor already is costs nothing.
    errors: Errors = {tensor.name: {**known.get(tensor.name, {}), tensor.type: 0.0} for tensor in tensors}
    jobs_left = [_Job(t, weights[t.name], left) for t in tensors if (left := _missing(wanted[t.name], errors[t.name]))]
    if jobs_left:
        try:
            _measure_all(TensorReader(metadata), jobs_left, errors, jobs, progress or (lambda _: None))
        finally:
            _save(path, key, errors, warn)
    return {name: {to: errors[name][to] for to in types} for name, types in wanted.items()}


def sample_rows(shape: Sequence[int], n_values: int) -> list[tuple[int, NDArray[np.int64]]]:
    """About `n_values` values of a tensor: matrices, and which of all rows are taken from each."""
    height, columns = shape[-2], shape[-1]
    matrices = _evenly(math.prod(shape[:-2]), SAMPLE_EXPERTS)
    n_rows = max(1, n_values // columns // max(1, len(matrices)))
    return [(int(matrix), matrix * height + _evenly(height, n_rows)) for matrix in matrices]


def relative_error(sample: Sample, type: str) -> float:
    """The relative squared error of `type`; 0 where there is nothing to lose."""
    lost = whole = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for rows, weights in sample:
            decoded = dequantize_rows(quantize_rows(rows, type, weights), type, rows.shape[1])
            scale = np.ones(rows.shape[1]) if weights is None else weights.astype(np.float64)
            lost += float(np.square(rows - decoded, dtype=np.float64).sum(axis=0) @ scale)
            whole += float(np.square(rows, dtype=np.float64).sum(axis=0) @ scale)
    if not math.isfinite(lost):
        return UNUSABLE
    return lost / whole if whole else 0.0


def _evenly(n: int, k: int) -> NDArray[np.int64]:
    """At most `k` of the numbers below `n`, at equal distances."""
    k = min(n, k)
    return (2 * np.arange(k, dtype=np.int64) + 1) * n // (2 * max(1, k))


def _n_values(type: str) -> int:
    return SLOW_SAMPLE_VALUES if type in _TYPES_FOR_WEIGHTS else SAMPLE_VALUES


def _missing(types: Sequence[str], known: Mapping[str, float]) -> list[str]:
    return [type for type in types if type not in known]


@dataclass(frozen=True, slots=True)
class _Job:
    """A tensor and the types that are to be measured. `weights` as ImportanceMatrix.for_tensor gives them."""

    tensor: TensorInfo
    weights: NDArray[np.float32] | None
    types: Sequence[str]

    @property
    def n_bytes(self) -> int:
        """Of the samples, as float32."""
        return sum(4 * min(math.prod(self.tensor.shape), _n_values(type)) for type in self.types)

    def sample(self, reader: TensorReader, n_values: int) -> Sample:
        weights = self.weights
        return [
            (reader.rows(self.tensor, rows), weights[matrix] if weights is not None and weights.ndim == 2 else weights)
            for matrix, rows in sample_rows(self.tensor.shape, n_values)
        ]


def _measure_all(
    reader: TensorReader, work: Sequence[_Job], errors: Errors, jobs: int, progress: Callable[[Progress], None]
) -> None:
    """Add to `errors` what `work` asks for, a tensor at a time in each thread."""
    total, done = sum(job.n_bytes for job in work), 0
    stop = threading.Event()
    pool = ThreadPoolExecutor(worker_count(jobs))
    try:
        futures = {pool.submit(_measure_tensor, reader, job, stop): job for job in work}
        for count, future in enumerate(as_completed(futures), start=1):
            job = futures[future]
            errors[job.tensor.name] |= future.result()
            done += job.n_bytes
            progress(Progress("measure", count, len(work), done, total))
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _measure_tensor(reader: TensorReader, job: _Job, stop: threading.Event) -> dict[str, float]:
    samples: dict[int, Sample] = {}
    errors: dict[str, float] = {}
    for to in job.types:
        if stop.is_set():
            break
        n_values = _n_values(to)
        try:
            if n_values not in samples:
                samples[n_values] = job.sample(reader, n_values)
            errors[to] = relative_error(samples[n_values], to)
        except QuantError as error:
            raise type(error)(f"Tensor {job.tensor.name}, measured as {to}: {error}") from error
    return errors


def _load(path: Path, key: Mapping[str, Any], warn: Callable[[str], None]) -> Errors:
    """What an earlier run measured of the same files. Nothing in the file is believed before it is checked."""
    if not path.exists():
        return {}
    try:
        if not path.is_file() or path.stat().st_size > MAX_CACHE_BYTES:
            raise ValueError(f"a file of at most {MAX_CACHE_BYTES} bytes was expected")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("an object was expected")
        if any(content.get(name) != value for name, value in key.items()):
            return {}
        return _checked(content.get("errors"))
    except (OSError, ValueError, RecursionError, QuantError) as error:
        warn(f"{path} cannot be used ({error}); the model is measured again.")
        return {}


def _checked(errors: Any) -> Errors:
    if not isinstance(errors, dict) or not all(isinstance(types, dict) for types in errors.values()):
        raise ValueError("errors by tensor and type were expected")
    for name, types in errors.items():
        for type, error in types.items():
            ggml_type(type)
            if not isinstance(error, float) or not 0 <= error <= UNUSABLE:
                raise ValueError(f"{error!r} for {name!r} as {type} is not an error")
    return errors


def _save(path: Path, key: Mapping[str, Any], errors: Errors, warn: Callable[[str], None]) -> None:
    """Write the cache so that a reader sees the old one or the new one; without it the next run measures again."""
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({**key, "errors": errors}, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)  # as readable as the model is likely to be; mkstemp allows only its owner
        os.replace(name, path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        warn(f"{path} cannot be written ({error.strerror or error}); the next run will measure again.")


def _warn(text: str) -> None:
    warnings.warn(text, RuntimeWarning, stacklevel=4)
