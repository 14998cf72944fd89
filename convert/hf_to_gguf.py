"""The driver: plan every file, then stream all tensors through the codec. Nothing is written before the plan holds."""

from __future__ import annotations

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict, Unpack

from convert import architectures, rope
from convert.architectures import interns1_vision
from convert.architectures.settings import rope_settings
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint, ConvertError
from convert.plan import FilePlan
from quant import estimate
from quant.estimate import Work
from quant.gguf_output import TensorSpec
from quant.imatrix import ImportanceMatrix, load
from quant.overrides import named_types
from quant.recipes import Recipe, choose_types, recipe
from quant.splits import PlannedFile, create_parts, finish, plan_files, plan_parts
from quant.stream import Progress, TensorStream, largest_block, memory_bytes, stream_tensors

__all__ = [
    "ConversionPlan",
    "ConversionReport",
    "ConvertedFile",
    "Options",
    "Progress",
    "convert",
    "plan_conversion",
]

# Buffers that some checkpoints carry and no model needs.
_IGNORED = (".rotary_emb.inv_freq", ".position_ids")
_VISION = ("vision_tower.", "multi_modal_projector.")
# Reading FP8 takes about as long, and F16 and F32 less.
_USUAL_SOURCE = "BF16"


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One output; for a model in parts `path` is the first and the rest counts all."""

    path: Path
    n_bytes: int
    types: dict[str, int]  # how many tensors of each type
    n_parts: int = 1


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What a conversion made. `mmproj` is None for a text-only result."""

    model: ConvertedFile
    mmproj: ConvertedFile | None
    seconds: float

    @property
    def files(self) -> list[ConvertedFile]:
        return [self.model] + ([self.mmproj] if self.mmproj else [])


@dataclass(frozen=True, slots=True)
class ConversionPlan:
    """What a conversion would do."""

    files: list[PlannedFile]
    memory_bytes: int
    work: list[Work]

    def seconds(self, jobs: int) -> float:
        """The estimated time of computing; tries each type for a moment."""
        return estimate.seconds(self.work, jobs)


class Options(TypedDict, total=False):
    """What `convert` and `plan_conversion` may be told; `_Request` has the defaults.

    type: a recipe of quant.recipes.RECIPES, such as Q4_K_M.
    mmproj: the vision file; without it the vision part is left out.
    mmproj_type: F32, F16, BF16 or Q8_0.
    context_length: a context past the trained one, for models with dynamic rope scaling.
    imatrix: an importance matrix in llama.cpp's GGUF format.
    tensor_types: types for single tensors of the model, REGEX=TYPE each (see quant.overrides).
    split_max_bytes: write the model in parts of at most this size.
    """

    type: str
    mmproj: Path | None
    mmproj_type: str
    context_length: int | None
    imatrix: Path | None
    tensor_types: Sequence[str]
    split_max_bytes: int | None


@dataclass(frozen=True, slots=True)
class _Request:
    type: str = "Q8_0"
    mmproj: Path | None = None
    mmproj_type: str = "Q8_0"
    context_length: int | None = None
    imatrix: Path | None = None
    tensor_types: Sequence[str] = ()
    split_max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Output:
    path: Path
    plan: FilePlan
    specs: list[TensorSpec]
    max_bytes: int | None = None  # of a part
    imatrix: ImportanceMatrix | None = None

    @property
    def parts(self) -> list[tuple[Path, list[TensorSpec]]]:
        return plan_parts(self.path, self.specs, self.max_bytes)


def convert(
    checkpoint: Path | str,
    output: Path,
    *,
    restart: bool = False,
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
    **options: Unpack[Options],
) -> ConversionReport:
    """Convert a checkpoint into a GGUF file and, when `mmproj` names one, a vision file.

    A run that was stopped is continued by the same call: what is complete is kept beside the output. Keys and types
    stand in the headers, so a call that asks for others begins anew.

    Args:
        checkpoint: a folder, or hf:owner/repo[@revision], which is read from the hub and not kept.
        restart: begin anew even if a stopped run left something.
        jobs: worker threads; 0 takes one for each processor.
        progress: called on this thread after every block; an exception from it stops the run.
        options: see `Options`.
    """
    started = time.monotonic()
    with _planned(checkpoint, output, _Request(**options)) as (source, outputs):
        weights = outputs[0].imatrix
        sources = source.stamp() + (weights.stamp() if weights else "")
        _write(outputs, sources, restart, jobs, progress)
    files = [_converted(output) for output in outputs]
    return ConversionReport(files[0], files[1] if len(files) > 1 else None, time.monotonic() - started)


def plan_conversion(
    checkpoint: Path | str, output: Path, *, jobs: int = 0, **options: Unpack[Options]
) -> ConversionPlan:
    """What `convert` with these arguments would write. Reads the headers only."""
    with _planned(checkpoint, output, _Request(**options)) as (_, outputs):
        files = [file for o in outputs for file in plan_files(o.path, o.plan.fields, o.specs, o.max_bytes)]
        blocks = (largest_block(t.shape[-1], t.pieces) for planned in outputs for t in planned.plan.tensors)
        work = [Work(_USUAL_SOURCE, spec.type, math.prod(spec.shape)) for o in outputs for spec in o.specs]
        return ConversionPlan(files, memory_bytes(max(blocks, default=0), jobs), work)


@contextlib.contextmanager
def _planned(checkpoint: Path | str, path: Path, request: _Request) -> Iterator[tuple[Checkpoint, list[_Output]]]:
    """The open checkpoint and the files to be made of it, the model first."""
    weights = load(request.imatrix) if request.imatrix else None
    with Checkpoint(checkpoint) as source:
        yield source, _plan(source, Path(path), request, weights)


def _plan(source: Checkpoint, path: Path, request: _Request, imatrix: ImportanceMatrix | None) -> list[_Output]:
    mmproj = request.mmproj
    if mmproj and mmproj.resolve() == path.resolve():
        raise ConvertError(f"The model and its mmproj cannot both be written to {path}.")
    chosen = recipe(request.type)
    if chosen.needs_imatrix and imatrix is None:
        hint = "measure one with `interns1 imatrix` and give it with --imatrix"
        raise ConvertError(f"{chosen.name} needs an importance matrix: {hint}.")
    architecture = architectures.find(source.config)
    text = architecture.plan_text(source)
    if request.context_length is not None:
        settings = rope_settings(source.config.get("text_config") or source.config)
        rope.stretch(text.fields, settings, request.context_length)
    vision = architecture.plan_vision(source) if mmproj else None
    _check_leftovers(source, with_vision=vision is not None)
    model = _output(path, text, chosen, _text_types(text, chosen, request.tensor_types, imatrix))
    if imatrix is not None:
        imatrix.check([(spec.name, spec.shape, spec.type) for spec in model.specs])
        text.fields.update(imatrix.fields())
    outputs = [replace(model, max_bytes=request.split_max_bytes, imatrix=imatrix)]
    if mmproj and vision:
        tower = recipe(request.mmproj_type)
        types = [interns1_vision.choose_type(t.name, t.shape, tower.name) for t in vision.tensors]
        outputs.append(_output(mmproj, vision, tower, types))
    return outputs


def _output(path: Path, plan: FilePlan, chosen: Recipe, types: list[str]) -> _Output:
    plan.fields["general.file_type"] = chosen.file_type
    specs = [TensorSpec(tensor.name, tensor.shape, to) for tensor, to in zip(plan.tensors, types, strict=True)]
    return _Output(path, plan, specs)


def _text_types(
    plan: FilePlan, chosen: Recipe, tensor_types: Sequence[str], imatrix: ImportanceMatrix | None
) -> list[str]:
    shapes = [(tensor.name, tensor.shape) for tensor in plan.tensors]
    facts = replace(plan.facts, has_imatrix=imatrix is not None)
    picked = choose_types(shapes, chosen, facts, named_types(shapes, tensor_types, imatrix))
    return [type or "F32" for type in picked]


def _check_leftovers(source: Checkpoint, *, with_vision: bool) -> None:
    """A tensor that no plan uses means that the model computes something this converter does not know."""
    left = [
        name
        for name in source.tensors
        if name not in source.used
        and not name.endswith(_IGNORED)
        and (with_vision or not name.removeprefix("model.").startswith(_VISION))
    ]
    if left:
        more = f" and {len(left) - 3} more" if len(left) > 3 else ""
        raise BrokenCheckpoint(f"The model has no place for tensor {', '.join(left[:3])}{more}; does config.json fit?")


def _write(
    outputs: list[_Output],
    sources: str,
    restart: bool,
    jobs: int,
    progress: Callable[[Progress], None] | None,
) -> None:
    with contextlib.ExitStack() as stack:
        streams: list[TensorStream] = []
        for planned in outputs:
            files = stack.enter_context(
                create_parts(
                    planned.path,
                    planned.plan.fields,
                    planned.specs,
                    max_bytes=planned.max_bytes,
                    sources=sources,
                    restart=restart,
                )
            )
            streams += [
                TensorStream(
                    files[spec.name],
                    spec.name,
                    spec.type,
                    spec.shape[-1],
                    tensor.pieces,
                    planned.imatrix.for_tensor(spec.name, spec.shape) if planned.imatrix else None,
                )
                for tensor, spec in zip(planned.plan.tensors, planned.specs, strict=True)
            ]
        stream_tensors(streams, jobs=jobs, progress=progress)
        finish(stream.output for stream in streams)


def _converted(output: _Output) -> ConvertedFile:
    paths = [path for path, _ in output.parts]
    n_bytes = sum(path.stat().st_size for path in paths)
    return ConvertedFile(paths[0], n_bytes, dict(Counter(spec.type for spec in output.specs)), len(paths))
