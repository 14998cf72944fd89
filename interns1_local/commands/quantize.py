"""`interns1 quantize`: a GGUF file to a smaller GGUF file, without a server."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(
    epilog="""\b
Example:
  interns1 quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M
"""
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.argument("type_", metavar="TYPE")
@click.option("--jobs", default=0, metavar="N", help="Threads (default: one for each core).")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists.")
def command(source: Path, output: Path, type_: str, jobs: int, force: bool) -> None:
    """Quantize a GGUF file to another type."""
    from interns1_local.commands.convert import echo_written, refuse_to_overwrite
    from interns1_local.commands.progress import conversion_bar
    from quant.recipes import recipe
    from quant.requantize import requantize

    if not source.is_file():
        raise click.ClickException(f"there is no file {source}")
    if output.exists() and output.samefile(source):
        raise click.ClickException("IN and OUT are the same file")
    refuse_to_overwrite(output, force=force)
    with conversion_bar("quantizing") as progress:
        report = requantize(source, output, recipe(type_).name, jobs=jobs, progress=progress)
    echo_written([report], report.seconds)
