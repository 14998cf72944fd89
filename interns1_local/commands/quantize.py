"""`interns1 quantize`: a GGUF file to a smaller GGUF file, without a server."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from interns1_local.commands.output_options import output_options

if TYPE_CHECKING:
    from quant.requantize import RequantizePlan


@click.command(
    epilog="""\b
Examples:
  interns1 quantize model-F16.gguf model-Q4_K_M.gguf Q4_K_M
  interns1 quantize model-F16.gguf model.gguf Q4_K_M --tensor-type 'attn_(k|v)=q8_0'
  interns1 quantize model-F16.gguf model-24G.gguf --fit 24GiB --imatrix imatrix.gguf
"""
)
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("output", metavar="OUT", type=click.Path(path_type=Path))
@click.argument("type_", metavar="[TYPE]", required=False)
@click.option(
    "--fit",
    "fit_size",
    metavar="SIZE",
    help="In place of TYPE: the types with the least measured error in at most SIZE (24GiB, 500M).",
)
@output_options
def command(
    source: Path,
    output: Path,
    type_: str | None,
    fit_size: str | None,
    imatrix: Path | None,
    tensor_types: tuple[str, ...],
    split_max_size: str | None,
    jobs: int,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Quantize a GGUF file to another type. COPY keeps the types, to join or split a model in parts.

    IN may be the first part of a model in parts. When the command is stopped, the same command continues where it was.

    --fit measures once what each type would harm each tensor, and keeps that in IN.sensitivity.json, with --dry-run
    too.
    """
    from interns1_local.commands.convert import echo_plan, echo_written, may_be_continued, refuse_to_overwrite
    from interns1_local.commands.progress import conversion_bar
    from quant.requantize import write
    from quant.splits import parse_size, plan_files

    if (type_ is None) == (fit_size is None):
        raise click.ClickException("name either a TYPE, such as Q4_K_M, or a size with --fit, such as --fit 24GiB")
    if not source.is_file():
        raise click.ClickException(f"there is no file {source}")
    if output.exists() and output.samefile(source):
        raise click.ClickException("IN and OUT are the same file")
    max_bytes = parse_size(split_max_size) if split_max_size else None
    if not dry_run:
        refuse_to_overwrite(output, force=force)
    with may_be_continued():
        plan = _plan(source, type_, fit_size, imatrix, tensor_types, max_bytes, jobs)
        if dry_run:
            files = plan_files(output, plan.fields, plan.specs, max_bytes)
            echo_plan(files, plan.memory_bytes(jobs), plan.seconds(jobs), as_json=as_json)
            return
        with conversion_bar("quantizing") as progress:
            report = write(plan, output, split_max_bytes=max_bytes, restart=force, jobs=jobs, progress=progress)
    echo_written([report], report.seconds)


def _plan(
    source: Path,
    type_: str | None,
    fit_size: str | None,
    imatrix: Path | None,
    tensor_types: tuple[str, ...],
    max_bytes: int | None,
    jobs: int,
) -> RequantizePlan:
    """The types, by recipe or, after measuring, by size."""
    from interns1_local.commands.progress import conversion_bar
    from quant.imatrix import load
    from quant.requantize import plan_fit, plan_requantize
    from quant.splits import parse_size

    weights = load(imatrix) if imatrix else None
    if type_ is not None:
        return plan_requantize(source, type_, weights, tensor_types)
    assert fit_size is not None
    size = parse_size(fit_size)
    with conversion_bar("measuring") as progress:
        return plan_fit(
            source, size, weights, tensor_types, split_max_bytes=max_bytes, jobs=jobs, progress=progress, warn=_warn
        )


def _warn(text: str) -> None:
    click.echo(f"warning: {text}", err=True)
