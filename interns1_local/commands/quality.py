"""`interns1 quality`: how much a model lost by quantization, measured on text, without a server."""

from __future__ import annotations

import json
from pathlib import Path

import click

from interns1_local.commands.measuring_options import check_files, measuring_options, read_text


@click.command(
    epilog="""\b
Examples:
  interns1 quality model-F16.gguf model-Q4_K_M.gguf --data wiki.test.raw
  interns1 quality nano-F16.gguf nano-Q8_0.gguf nano-Q2_K.gguf --data notes.md --chunk 256 --plot quality.svg
"""
)
@click.argument("base")
@click.argument("quantized", metavar="QUANT...", nargs=-1, required=True)
@measuring_options
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option("--plot", type=click.Path(path_type=Path), metavar="OUT.svg", help="Draw size against mean KL.")
def command(
    base: str,
    quantized: tuple[str, ...],
    data: tuple[Path, ...],
    chunk: int,
    chunks: int | None,
    threads: int | None,
    as_json: bool,
    plot: Path | None,
) -> None:
    """Compare quantized models with their BASE, on text.

    Prints perplexity, the KL divergence from BASE and how often both put the same token first, by the definitions of
    llama.cpp's llama-perplexity: the second half of each chunk is scored. FILE is text in UTF-8. BASE and QUANT are
    GGUF files or names of models. BASE is in memory beside one QUANT at a time. If both do not fit, take a smaller
    base such as Q8_0.
    """
    check_files(data)
    _check_plot(plot)
    from interns1_local.commands.progress import counting_bar
    from interns1_local.commands.quality_run import find_models, measure
    from interns1_local.store.blobs import write_atomically

    models = find_models([base, *quantized])
    texts = [read_text(path) for path in data]
    with counting_bar("measuring", "chunks") as progress:
        report = measure(models, texts, n_ctx=chunk, max_chunks=chunks, threads=threads, progress=progress)
    if plot:
        write_atomically(plot, report.to_svg().encode("utf-8"))
    # ASCII, because a file's name may hold bytes that are no UTF-8.
    click.echo(json.dumps(report.to_json(), indent=2) if as_json else report.to_text())


def _check_plot(plot: Path | None) -> None:
    if plot is None:
        return
    if plot.suffix.lower() != ".svg":
        raise click.ClickException(f"the plot is written as SVG; name it {plot.with_suffix('.svg')}, not {plot}")
    if plot.is_dir() or not plot.absolute().parent.is_dir():
        raise click.ClickException(f"{plot} cannot be written: its folder must exist, and it must not be one")
