"""`interns1 verify`: a GGUF file beside the checkpoint that it was made from, without a server."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interns1_local.commands.measuring_options import check_files, read_text

if TYPE_CHECKING:
    from interns1_local.commands.progress import Advance
    from interns1_local.commands.verify_gguf import GGUFSide
    from interns1_local.commands.verify_report import Report

_PATH = click.Path(path_type=Path)
_NEEDED = ("torch", "transformers", "tokenizers", "safetensors")


@dataclass(frozen=True, slots=True)
class _Request:
    """What is compared with what: the arguments and options of the command, by their names."""

    model: Path
    checkpoint: str
    mmproj: Path | None
    data: tuple[Path, ...]
    picture: tuple[Path, ...]
    tokens: int
    threads: int
    dtype: str


@click.command(
    epilog="""\b
Examples:
  interns1 verify model-F32.gguf --against ./Intern-S1-mini
  interns1 verify model-F32.gguf --against hf:internlm/Intern-S1-mini
  interns1 verify model-Q4_K_M.gguf --against ./Intern-S1-mini --mmproj mmproj.gguf -o report.md
"""
)
@click.argument("model", type=_PATH)
@click.option(
    "--against",
    "checkpoint",
    required=True,
    metavar="CHECKPOINT",
    help="A folder, or hf:owner/repo[@revision], which is fetched for the while.",
)
@click.option("--mmproj", type=_PATH, metavar="FILE", help="The vision file: pictures are compared too.")
@click.option("--data", type=_PATH, multiple=True, metavar="FILE", help="A text of yours (UTF-8); may be repeated.")
@click.option("--picture", type=_PATH, multiple=True, metavar="FILE", help="A picture of yours; may be repeated.")
@click.option(
    "--tokens", type=click.IntRange(min=1), default=256, show_default=True, metavar="N", help="Compute N of each text."
)
@click.option("--threads", type=click.IntRange(min=0), default=0, metavar="N", help="Threads (default: all but one).")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16"]),
    default="float32",
    show_default=True,
    help="How the reference keeps its weights; bfloat16 takes half the memory.",
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as JSON.")
@click.option("-o", "--output", type=_PATH, metavar="REPORT.md", help="Write the report as Markdown.")
@click.pass_context
def command(ctx: click.Context, /, as_json: bool, output: Path | None, **request: Any) -> None:
    """Compare a GGUF file with its Hugging Face checkpoint: token ids, logits, image embeddings.

    The reference is transformers over the checkpoint's weights, in float32; for InternLM2 it is the published formulas.
    The exit code is 1 when something that must hold does not. Needs: pip install "interns1-local[reference]".
    """
    if request["picture"] and request["mmproj"] is None:
        raise click.ClickException("--picture needs --mmproj, the vision file")
    if output is not None and not output.absolute().parent.is_dir():
        raise click.ClickException(f"there is no folder {output.absolute().parent} to write {output.name} to")
    request["threads"] = request["threads"] or max(1, (os.cpu_count() or 2) - 1)
    report = _run(_Request(**request))
    _show(report, as_json=as_json, output=output)
    if not report["ok"]:
        ctx.exit(1)


def _run(request: _Request) -> Report:
    """All comparisons, as what JSON prints."""
    check_files(request.data)
    texts = {path.name: read_text(path) for path in request.data}
    missing = next((path for path in request.picture if not path.is_file()), None)
    if missing is not None:
        raise click.ClickException(f"there is no picture {missing}")
    _check_reference()
    import torch

    from interns1_local.commands.progress import byte_bars
    from interns1_local.commands.verify_checkpoint import local_checkpoint
    from interns1_local.commands.verify_gguf import GGUFSide

    torch.set_num_threads(request.threads)
    with byte_bars() as advance:
        advance("loading the GGUF", 0, 0)
        ours = GGUFSide(request.model, request.mmproj, request.threads)
        try:
            with local_checkpoint(request.checkpoint, advance) as folder:
                return _compare(ours, folder, request, texts, advance)
        finally:
            ours.close()


def _compare(ours: GGUFSide, folder: Path, request: _Request, texts: dict[str, str], advance: Advance) -> Report:
    from interns1_local.commands.verify_checks import Verification, load_pictures
    from interns1_local.commands.verify_report import build
    from interns1_local.commands.verify_texts import TEXTS
    from interns1_local.reference.checkpoint import Reference

    mmproj, dtype = request.mmproj, request.dtype
    pictures = load_pictures(ours.vision.tile_size, request.picture) if mmproj else []
    advance("loading the checkpoint", 0, 0)
    length = ours.facts.context_length
    reference = Reference(folder, dtype=dtype, vision=mmproj is not None, context_length=length)
    verification = Verification(ours, reference, request.tokens, lambda step: advance(step, 0, 0))
    if reference.rounded:
        verification.notes.append(
            f"{reference.rounded} of the checkpoint's tensors have more bits than {dtype}: the reference "
            "itself is rounded, so no bound is set for logits."
        )
    verification.texts({**TEXTS, **texts})
    verification.pictures(pictures)
    return build(verification, folder, mmproj, {"threads": request.threads, "dtype": dtype})


def _check_reference() -> None:
    """A sentence in place of a traceback when the extra is not installed."""
    import importlib

    for name in _NEEDED:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] != name:
                raise
            raise click.ClickException(
                f'`interns1 verify` needs {name}, which is not installed: pip install "interns1-local[reference]"'
            ) from error


def _show(report: dict[str, Any], *, as_json: bool, output: Path | None) -> None:
    from interns1_local.commands.format import echo_json
    from interns1_local.commands.verify_report import markdown
    from interns1_local.store.blobs import write_atomically

    if output is not None:
        write_atomically(output, markdown(report).encode("utf-8"))
    if as_json:
        echo_json(report)
    elif output is None:
        click.echo(markdown(report), nl=False)
    else:
        click.echo(f"{'all that must hold holds' if report['ok'] else 'something differs'}; the report is {output}")
