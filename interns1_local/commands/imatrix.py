"""`interns1 imatrix`: how much each column of a model's weights matters, measured on data, without a server."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from interns1_local.commands.measuring_options import check_files, measuring_options

_SHOWN_LINES = 12


@click.command(
    epilog="""\b
Examples:
  interns1 imatrix nano --data notes.md --data drugs.smi -o nano-imatrix.gguf
  interns1 imatrix model-Q8_0.gguf --mmproj mmproj.gguf --data chats.jsonl --data plot.png -o imatrix.gguf
  interns1 quantize model-F16.gguf model-IQ2_XS.gguf IQ2_XS --imatrix imatrix.gguf
"""
)
@click.argument("model")
@measuring_options
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="OUT.gguf", help="The file to write."
)
@click.option("--mmproj", type=click.Path(path_type=Path), metavar="FILE", help="The vision file, for pictures.")
@click.option(
    "--merge",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="OTHER.gguf",
    help="Add what another importance matrix of the model holds; may be given again.",
)
@click.option("--force", is_flag=True, help="Overwrite OUT.gguf if it exists.")
def command(
    model: str,
    data: tuple[Path, ...],
    output: Path,
    mmproj: Path | None,
    chunk: int,
    chunks: int | None,
    threads: int | None,
    merge: tuple[Path, ...],
    force: bool,
) -> None:
    """Measure which weights of MODEL matter, for better small types.

    MODEL is a GGUF file or the name of a model. FILE is text, or by its ending: molecules (.smi, one SMILES a line),
    proteins (.fasta, .fa), conversations (.jsonl, {"messages": [...]}), or a picture (.png, .jpg, .webp, ...).
    Chunks are taken of each FILE in turn.
    """
    from interns1_local.commands.convert import refuse_to_overwrite

    check_files((*data, *merge, *([mmproj] if mmproj else [])))
    refuse_to_overwrite(output, force=force)
    from interns1_local.commands.calibration import find_model, measure
    from interns1_local.commands.progress import counting_bar
    from quant.imatrix import read_statistics
    from quant.imatrix_collector import ImatrixCollector, check_model
    from quant.splits import read_model

    files = find_model(model, mmproj)
    collector = ImatrixCollector()
    if merge:
        shapes = {tensor.name: tensor.shape for tensor in read_model(files.model).tensors}
        for path in merge:
            other = read_statistics(path)
            check_model(other, shapes)
            collector.merge(other)
    with counting_bar("measuring", "chunks") as progress:
        measured = measure(
            files, data, collector.observe, chunk=chunk, max_pieces=chunks, threads=threads, progress=progress
        )
    collector.add_datasets(str(path) for path in data)
    collector.save(output, chunk)
    click.echo(f"{output}: {len(collector)} tensors, from {measured.tokens} tokens in {measured.pieces} chunks")
    _echo_blind(collector.blind())


def _echo_blind(blind: Sequence[tuple[str, int]]) -> None:
    """Which experts nothing is known of, and what becomes of them."""
    if not blind:
        return
    by_tensor: dict[str, list[str]] = {}
    for name, expert in blind:
        by_tensor.setdefault(name, []).append(str(expert))
    click.echo(
        f"{len(blind)} matrices of experts saw no tokens. All their columns get the weight 1, as without a matrix; "
        "more or other data reaches more experts:"
    )
    for name, experts in list(by_tensor.items())[:_SHOWN_LINES]:
        click.echo(f"  {name}: {', '.join(experts)}")
    if len(by_tensor) > _SHOWN_LINES:
        click.echo(f"  and {len(by_tensor) - _SHOWN_LINES} more tensors")
