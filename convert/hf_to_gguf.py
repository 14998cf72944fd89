"""The driver: plan every file, then stream all tensors through the codec. Nothing is written before the plan holds."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from convert import architectures
from convert.architectures import interns1_vision
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint, ConvertError
from convert.plan import FilePlan
from quant.gguf_file import GGUFOutput, TensorSpec, create
from quant.recipes import Recipe, choose_types, recipe
from quant.stream import Progress, TensorStream, stream_tensors

__all__ = ["ConversionReport", "ConvertedFile", "Progress", "convert"]

# Buffers that some checkpoints carry and no model needs.
_IGNORED = (".rotary_emb.inv_freq", ".position_ids")
_VISION = ("vision_tower.", "multi_modal_projector.")


@dataclass(frozen=True, slots=True)
class ConvertedFile:
    """One output."""

    path: Path
    n_bytes: int
    types: dict[str, int]  # how many tensors of each type


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
class _Output:
    path: Path
    plan: FilePlan
    types: list[str]


def convert(
    checkpoint: Path,
    output: Path,
    *,
    type: str = "Q8_0",
    mmproj: Path | None = None,
    mmproj_type: str = "Q8_0",
    jobs: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> ConversionReport:
    """Convert the checkpoint in a folder into a GGUF file and, when `mmproj` names one, a vision file.

    Args:
        type: a recipe of quant.recipes.RECIPES, such as Q4_K_M.
        mmproj_type: F32, F16, BF16 or Q8_0.
        jobs: worker threads; 0 takes one for each processor.
        progress: called on this thread after every block; an exception from it stops the run and leaves no output.
    """
    started = time.monotonic()
    output, mmproj = Path(output), Path(mmproj) if mmproj else None
    if mmproj and mmproj.resolve() == output.resolve():
        raise ConvertError(f"The model and its mmproj cannot both be written to {output}.")
    with Checkpoint(Path(checkpoint)) as source:
        outputs = _plan(source, output, type, mmproj, mmproj_type)
        _write(outputs, jobs, progress)
    files = [ConvertedFile(o.path, o.path.stat().st_size, dict(Counter(o.types))) for o in outputs]
    return ConversionReport(files[0], files[1] if len(files) > 1 else None, time.monotonic() - started)


def _plan(source: Checkpoint, output: Path, type: str, mmproj: Path | None, mmproj_type: str) -> list[_Output]:
    chosen = recipe(type)
    if chosen.needs_imatrix:
        raise ConvertError(f"{chosen.name} needs an importance matrix.")
    architecture = architectures.find(source.config)
    text = architecture.plan_text(source)
    vision = architecture.plan_vision(source) if mmproj else None
    _check_leftovers(source, with_vision=vision is not None)
    outputs = [_Output(output, _with_file_type(text, chosen), _text_types(text, chosen))]
    if mmproj and vision:
        tower = recipe(mmproj_type)
        types = [interns1_vision.choose_type(t.name, t.shape, tower.name) for t in vision.tensors]
        outputs.append(_Output(mmproj, _with_file_type(vision, tower), types))
    return outputs


def _with_file_type(plan: FilePlan, chosen: Recipe) -> FilePlan:
    plan.fields["general.file_type"] = chosen.file_type
    return plan


def _text_types(plan: FilePlan, chosen: Recipe) -> list[str]:
    picked = choose_types([(tensor.name, tensor.shape) for tensor in plan.tensors], chosen, plan.facts)
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


def _write(outputs: list[_Output], jobs: int, progress: Callable[[Progress], None] | None) -> None:
    with contextlib.ExitStack() as stack:
        streams: list[TensorStream] = []
        for planned in outputs:
            pairs = list(zip(planned.plan.tensors, planned.types, strict=True))
            specs = [TensorSpec(tensor.name, tensor.shape, type) for tensor, type in pairs]
            file: GGUFOutput = stack.enter_context(create(planned.path, planned.plan.fields, specs))
            streams += [TensorStream(file, t.name, type, t.shape[-1], t.pieces) for t, type in pairs]
        stream_tensors(streams, jobs=jobs, progress=progress)
