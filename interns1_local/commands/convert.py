"""`interns1 convert`: a Hugging Face checkpoint to GGUF, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import click


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
Example:
  interns1 convert ./Intern-S1-mini -o model.gguf --type Q4_K_M --mmproj mmproj.gguf
"""
)
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True, help="The GGUF file to write.")
@click.option("--type", "type_", default="Q8_0", show_default=True, metavar="TYPE", help="F16, Q8_0, Q4_K_M, ...")
@click.option("--mmproj", type=click.Path(path_type=Path), help="Write the vision part to this file.")
@click.option("--mmproj-type", default="Q8_0", show_default=True, metavar="TYPE", help="Type of the vision part.")
@click.option("--jobs", default=0, metavar="N", help="Threads (default: one for each core).")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def command(
    checkpoint: Path, output: Path, type_: str, mmproj: Path | None, mmproj_type: str, jobs: int, force: bool
) -> None:
    """Convert a Hugging Face checkpoint to GGUF. It is quantized in the same pass."""
    if not checkpoint.is_dir():
        raise click.ClickException(f"there is no folder {checkpoint} (a Hugging Face checkpoint is expected)")
    for path in filter(None, (output, mmproj)):
        refuse_to_overwrite(path, force=force)
    from convert.hf_to_gguf import convert
    from interns1_local.commands.progress import conversion_bar
    from quant.recipes import recipe

    with conversion_bar("converting") as progress:
        report = convert(
            checkpoint,
            output,
            type=recipe(type_).name,
            mmproj=mmproj,
            mmproj_type=recipe(mmproj_type).name,
            jobs=jobs,
            progress=progress,
        )
    echo_written(report.files, report.seconds)


def refuse_to_overwrite(path: Path, *, force: bool) -> None:
    """A file of hours is not lost to a repeated command."""
    if path.exists() and not force:
        raise click.ClickException(f"{path} exists; --force overwrites it")
    if not path.absolute().parent.is_dir():
        raise click.ClickException(f"there is no folder {path.absolute().parent} to write {path.name} to")


def echo_written(files: Sequence[WrittenFile], seconds: float) -> None:
    """Each file with its size and the types of its tensors, then how long it took."""
    from interns1_local.commands.format import echo_table, format_bytes, format_seconds

    rows = []
    for file in files:
        types = sorted(file.types.items(), key=lambda item: -item[1])
        rows.append([str(file.path), format_bytes(file.n_bytes), ", ".join(f"{count} {name}" for name, count in types)])
    echo_table(("FILE", "SIZE", "TENSORS"), rows)
    click.echo(f"done in {format_seconds(seconds)}")
