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
@click.option("--imatrix", type=click.Path(path_type=Path), help="An importance matrix (GGUF).")
@click.option("--split-max-size", metavar="SIZE", help="Write OUT in parts of at most SIZE (50G, 500M).")
@click.option("--jobs", default=0, metavar="N", help="Threads (default: one for each core).")
@click.option("--force", is_flag=True, help="Overwrite OUT if it exists; begin anew after a stopped run.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="With --dry-run: as JSON.")
def command(
    source: Path,
    output: Path,
    type_: str,
    imatrix: Path | None,
    split_max_size: str | None,
    jobs: int,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Quantize a GGUF file to another type. COPY keeps the types, to join or split a model in parts.

    IN may be the first part of a model in parts. When the command is stopped, the same command continues where it was.
    """
    from interns1_local.commands.convert import echo_plan, echo_written, may_be_continued, refuse_to_overwrite
    from interns1_local.commands.progress import conversion_bar
    from quant.imatrix import load
    from quant.recipes import recipe
    from quant.requantize import COPY, plan_requantize, requantize
    from quant.splits import parse_size, plan_files

    if not source.is_file():
        raise click.ClickException(f"there is no file {source}")
    if output.exists() and output.samefile(source):
        raise click.ClickException("IN and OUT are the same file")
    type_ = COPY if type_.upper() == COPY else recipe(type_).name
    max_bytes = parse_size(split_max_size) if split_max_size else None
    if dry_run:
        plan = plan_requantize(source, type_, load(imatrix) if imatrix else None)
        echo_plan(plan_files(output, plan.fields, plan.specs, max_bytes), plan.memory_bytes(jobs), as_json=as_json)
        return
    refuse_to_overwrite(output, force=force)
    with may_be_continued(), conversion_bar("quantizing") as progress:
        report = requantize(
            source,
            output,
            type_,
            imatrix=imatrix,
            split_max_bytes=max_bytes,
            restart=force,
            jobs=jobs,
            progress=progress,
        )
    echo_written([report], report.seconds)
