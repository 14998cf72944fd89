"""`interns1 create`: a model from a Modelfile."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from interns1_local.store.modelfile import Modelfile


@click.command(
    epilog="""\b
Example:
  interns1 create mini -f Modelfile
  interns1 create mini-q4 -f Modelfile -q Q4_K_M
"""
)
@click.argument("name")
@click.option("-f", "--file", "path", metavar="FILE", help="The Modelfile (default: ./Modelfile; - is standard input).")
@click.option("-q", "--quantize", metavar="TYPE", help="Quantize to this type, such as Q4_K_M.")
def command(name: str, path: str | None, quantize: str | None) -> None:
    """Create a model from a Modelfile."""
    from interns1_local.commands.own_server import any_server
    from interns1_local.commands.progress import byte_bars, show_statuses
    from interns1_local.commands.upload import upload
    from interns1_local.store.adapter_names import adapter_lines, upload_names
    from interns1_local.store.modelfile import parse

    text, folder = _read_modelfile(path)
    modelfile = parse(text)
    files, source = _sources(modelfile, folder)
    adapters = upload_names(adapter_lines(modelfile.values("adapter"), folder))
    draft = modelfile.last("draft") or ""
    drafts = local_files(draft, folder)
    with any_server() as client:
        with byte_bars() as advance:
            advance("gathering model components", 0, 0)
            uploaded = upload(client, files, advance)
            uploaded_adapters = upload(client, adapters, advance)
            uploaded_drafts = upload(client, drafts, advance)
        request = {
            "model": name,
            "from": source,
            "files": uploaded,
            "adapters": uploaded_adapters,
            "draft_files": uploaded_drafts,
            "draft": "" if drafts else draft,
            "quantize": quantize,
            **_settings(modelfile),
        }
        body = {key: value for key, value in request.items() if value}
        show_statuses(client.stream("/api/create", {**body, "stream": True}))


def local_files(source: str, folder: Path) -> dict[str, Path]:
    """The files behind a path in a Modelfile, by the names that the server shall know; none for a model's name."""
    if not source:
        return {}
    path = folder / Path(source).expanduser()
    if path.is_dir():
        return _checkpoint_files(path)
    if path.is_file():
        return {path.name: path}
    if source.startswith((".", "/", "~")) or source.lower().endswith((".gguf", ".safetensors")):
        raise click.ClickException(f"there is no file or folder {path}")
    return {}


def _read_modelfile(given: str | None) -> tuple[bytes, Path]:
    if given == "-":
        return sys.stdin.buffer.read(), Path.cwd()
    path = Path(given or "Modelfile").expanduser()
    if not path.is_file():
        raise click.ClickException(f"specified Modelfile wasn't found: there is no {path}; name yours with -f")
    return path.read_bytes(), path.absolute().parent


def _sources(modelfile: Modelfile, folder: Path) -> tuple[dict[str, Path], str]:
    """The local files of all FROM lines, and the model that one of them names."""
    from interns1_local.store.sidecars import sidecars_in

    files: dict[str, Path] = {}
    names: list[str] = []
    beside: dict[str, Path] = {}
    for source in modelfile.sources:
        found = local_files(source, folder)
        for name, path in found.items():
            if files.setdefault(name, path) != path:
                raise click.ClickException(f"two FROM lines bring a file called {name}; rename one of them")
            if path.suffix.lower() == ".gguf":
                # What its converter left out may lie beside it; of two folders, the first one's files count.
                beside = {**sidecars_in(path.parent), **beside}
        if not found:
            names.append(source)
    if len(names) > 1:
        raise click.ClickException(f"a model comes from one model only, not from {' and '.join(names)}")
    return {**beside, **files}, names[0] if names else ""


def _checkpoint_files(folder: Path) -> dict[str, Path]:
    """What the server needs of a checkpoint's folder; of several weight formats, safetensors."""
    safetensors = sorted(folder.glob("*.safetensors"))
    if safetensors:
        patterns = ("*.json", "*.jinja", "*.model", "*.txt", "processing_interns1.py")
        beside = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
        return {path.name: path for path in [*beside, *safetensors]}
    models = sorted(folder.glob("*.gguf"))
    if not models:
        raise click.ClickException(f"there are no safetensors or GGUF files in {folder}")
    return {path.name: path for path in models}


def _settings(modelfile: Modelfile) -> dict[str, Any]:
    """Everything of a Modelfile that is not a file, as /api/create takes it."""
    single = {name: modelfile.last(name) for name in ("template", "system", "renderer", "parser", "requires")}
    return {
        **single,
        "license": modelfile.values("license"),
        "parameters": modelfile.parameters,
        "messages": modelfile.messages,
    }
