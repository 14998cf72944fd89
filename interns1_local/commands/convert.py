"""`interns1 convert`: a Hugging Face checkpoint to GGUF, without a server."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import click

from interns1_local.commands.output_options import output_options

if TYPE_CHECKING:
    from quant.splits import PlannedFile


class WrittenFile(Protocol):
    """What the reports of convert and quantize say about a file."""

    @property
    def path(self) -> Path: ...
    @property
    def n_bytes(self) -> int: ...
    @property
    def types(self) -> dict[str, int]: ...


@click.command(
    epilog="""\b
Examples:
  interns1 convert ./Intern-S1-mini -o model.gguf --type Q4_K_M --mmproj mmproj.gguf
  interns1 convert hf:internlm/internlm3-8b-instruct -o model.gguf --dry-run
"""
)
@click.argument("checkpoint")
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The GGUF file to write.")
@click.option("--type", "type_", default="Q8_0", show_default=True, metavar="TYPE", help="F16, Q8_0, Q4_K_M, ...")
@click.option("--mmproj", type=click.Path(path_type=Path), help="Write the vision part to this file.")
@click.option("--mmproj-type", default="Q8_0", show_default=True, metavar="TYPE", help="Type of the vision part.")
@click.option(
    "--context-length", type=click.IntRange(min=1), metavar="N", help="A context past the trained one, where possible."
)
@output_options
def command(
    checkpoint: str,
    output: Path,
    type_: str,
    mmproj: Path | None,
    mmproj_type: str,
    context_length: int | None,
    imatrix: Path | None,
    tensor_types: tuple[str, ...],
    split_max_size: str | None,
    jobs: int,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Convert a Hugging Face checkpoint to GGUF. It is quantized in the same pass.

    CHECKPOINT is a folder, or hf:owner/repo[@revision] (ms: for ModelScope), which is read from the hub without
    being kept. When the command is stopped, the same command continues where it was.
    """
    if not checkpoint.startswith(("hf:", "ms:")) and not Path(checkpoint).is_dir():
        raise click.ClickException(f"there is no folder {checkpoint} (a Hugging Face checkpoint is expected)")
    from quant.recipes import recipe
    from quant.splits import parse_size

    arguments: dict[str, Any] = {
        "type": recipe(type_).name,
        "mmproj": mmproj,
        "mmproj_type": recipe(mmproj_type).name,
        "context_length": context_length,
        "imatrix": imatrix,
        "tensor_types": tensor_types,
        "split_max_bytes": parse_size(split_max_size) if split_max_size else None,
        "jobs": jobs,
    }
    if dry_run:
        from convert.hf_to_gguf import plan_conversion

        plan = plan_conversion(checkpoint, output, **arguments)
        echo_plan(plan.files, plan.memory_bytes, plan.seconds(jobs), as_json=as_json)
        return
    for path in filter(None, (output, mmproj)):
        refuse_to_overwrite(path, force=force)
    from convert.hf_to_gguf import convert
    from interns1_local.commands.progress import conversion_bar

    with may_be_continued(), conversion_bar("converting") as progress:
        report = convert(checkpoint, output, restart=force, progress=progress, **arguments)
    echo_written(report.files, report.seconds)


@contextmanager
def may_be_continued() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        click.echo("\nstopped; the same command continues from here", err=True)
        raise


def refuse_to_overwrite(path: Path, *, force: bool) -> None:
    """A file of hours is not lost to a repeated command."""
    first_part = next(path.parent.glob(f"{glob.escape(path.name.removesuffix('.gguf'))}-00001-of-*.gguf"), None)
    for there in (path, first_part):
        if there and there.exists() and not force:
            raise click.ClickException(f"{there} exists; --force overwrites it")
    if not path.absolute().parent.is_dir():
        raise click.ClickException(f"there is no folder {path.absolute().parent} to write {path.name} to")


def echo_plan(files: Sequence[PlannedFile], memory_bytes: int, seconds: float, *, as_json: bool) -> None:
    """Every tensor, then the files, then the memory and the time that the run takes."""
    from interns1_local.commands.format import echo_table, format_bytes, format_seconds

    if as_json:
        tensors = [
            [{"name": t.name, "shape": list(t.shape), "type": t.type, "bytes": t.n_bytes} for t in file.tensors]
            for file in files
        ]
        written = [
            {"path": str(file.path), "bytes": file.n_bytes, "tensors": each}
            for file, each in zip(files, tensors, strict=True)
        ]
        click.echo(json.dumps({"files": written, "memory_bytes": memory_bytes, "seconds": round(seconds, 1)}, indent=2))
        return
    rows = [
        [tensor.name, " x ".join(map(str, tensor.shape)), tensor.type, format_bytes(tensor.n_bytes)]
        for file in files
        for tensor in file.tensors
    ]
    echo_table(("TENSOR", "SHAPE", "TYPE", "SIZE"), rows)
    click.echo()
    echo_table(
        ("FILE", "SIZE", "TENSORS"), [[str(f.path), format_bytes(f.n_bytes), str(len(f.tensors))] for f in files]
    )
    click.echo(f"memory: about {format_bytes(memory_bytes)}")
    click.echo(f"time: about {format_seconds(seconds)} of computing, more where the disk or the network is slower")


def echo_written(files: Sequence[WrittenFile], seconds: float) -> None:
    """Each file with its size and the types of its tensors, then how long it took."""
    from interns1_local.commands.format import echo_table, format_bytes, format_seconds

    rows = []
    for file in files:
        types = sorted(file.types.items(), key=lambda item: -item[1])
        rows.append([str(file.path), format_bytes(file.n_bytes), ", ".join(f"{count} {name}" for name, count in types)])
    echo_table(("FILE", "SIZE", "TENSORS"), rows)
    click.echo(f"done in {format_seconds(seconds)}")
