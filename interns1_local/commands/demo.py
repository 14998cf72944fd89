"""`interns1 demo`: Intern-S1's whole road on the nano checkpoint, in one folder, with every answer checked."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

    from interns1_local.commands.client import Client

TYPE = "Q8_0"
MODEL = "nano"


@click.command(
    epilog="""\b
Example:
  interns1 demo
  interns1 demo --dir /tmp/demo
"""
)
@click.option("--dir", "folder", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True,
              help="The folder for everything that the demo writes.")  # fmt: skip
def command(folder: Path) -> None:
    """Show the whole road on the included model.

    Converts, quantizes, serves, and asks: sums, pictures, molecules, a tool. Exits 1 if an answer is wrong.
    """
    from rich.console import Console

    from interns1_local import nano
    from interns1_local.commands.demo_questions import ask_all
    from interns1_local.commands.own_server import own_server
    from interns1_local.nano.demo import questions

    asked = questions()
    console = Console(highlight=False, markup=False, emoji=False)
    folder.mkdir(parents=True, exist_ok=True)
    console.print("Intern-S1 on this machine, from the checkpoint to the answer", style="bold")
    _step(console, 1, "Convert the checkpoint to GGUF and quantize it, in one pass")
    files = convert_once(nano.CHECKPOINT, folder, console)
    _step(console, 2, "Start the server")
    started = time.monotonic()
    with own_server(_environment(folder)) as client:
        console.print(f"   {client.base_url} after {time.monotonic() - started:.1f} s")
        _step(console, 3, "Create the model")
        create(client, files, console)
        _step(console, 4, "Ask it")
        wrong = ask_all(client, MODEL, asked, folder / "pictures", console)
    if wrong:
        raise click.ClickException(f"{len(wrong)} of {len(asked)} answers are wrong: {'; '.join(wrong)}")
    _say_goodbye(console, len(asked))


def convert_once(checkpoint: Path, folder: Path, console: Console) -> dict[str, Path]:
    """The GGUF file and its mmproj in `folder`, converted unless they are there from the same checkpoint."""
    from convert.hf_to_gguf import convert
    from interns1_local.commands.progress import conversion_bar

    files = {name: folder / name for name in (f"{MODEL}-{TYPE}.gguf", f"{MODEL}-mmproj-{TYPE}.gguf")}
    model, mmproj = files.values()
    record = folder / "converted.json"
    fingerprint = _fingerprint(checkpoint)
    known = json.loads(record.read_text()) if record.is_file() else {}
    fresh = known.get("checkpoint") == fingerprint and all(path.is_file() for path in files.values())
    seconds = known.get("seconds", 0.0)
    if not fresh:
        record.unlink(missing_ok=True)
        with conversion_bar("converting") as progress:
            report = convert(checkpoint, model, type=TYPE, mmproj=mmproj, mmproj_type=TYPE, progress=progress)
        seconds = report.seconds
        record.write_text(json.dumps({"checkpoint": fingerprint, "seconds": seconds}))
    _print_files(console, checkpoint, files)
    console.print(f"   converted in {seconds:.1f} s" + (", in an earlier run" if fresh else ""))
    return files


def create(client: Client, files: Mapping[str, Path], console: Console) -> None:
    """The model in the server's store, made from `files`; made again only when they changed."""
    from interns1_local.commands.format import format_bytes
    from interns1_local.commands.upload import upload

    digests = upload(client, files, lambda step, done, total: None)
    client.post("/api/create", {"model": MODEL, "files": digests, "stream": False})
    model = next(each for each in client.get("/api/tags")["models"] if each["name"].split(":")[0] == MODEL)
    capabilities = ", ".join(client.post("/api/show", {"model": MODEL}).get("capabilities") or ())
    console.print(f"   {model['name']}, {format_bytes(model['size'])}: {capabilities}")


def _environment(folder: Path) -> dict[str, str]:
    """Nothing outside the folder is read or written, and no setting of the user changes the answers."""
    return {
        "INTERNS1_MODELS": str(folder.absolute() / "models"),
        "INTERNS1_CONTEXT_LENGTH": "0",
        "INTERNS1_KEEP_ALIVE": "5m",
    }


def _fingerprint(checkpoint: Path) -> list[Any]:
    from interns1_local import __version__

    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    return [__version__, *([path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files)]


def _print_files(console: Console, checkpoint: Path, files: Mapping[str, Path]) -> None:
    from interns1_local.commands.format import format_bytes

    shards = sorted(checkpoint.glob("*.safetensors"))
    rows = [(f"checkpoint, {len(shards)} shards", sum(path.stat().st_size for path in shards), checkpoint)]
    rows += [
        (what, path.stat().st_size, path)
        for what, path in zip(("language model", "vision encoder"), files.values(), strict=True)
    ]
    for what, size, path in rows:
        console.print(f"   {what:<21} {format_bytes(size):>7}  {_short(path)}", soft_wrap=True)


def _short(path: Path) -> str:
    try:
        return str(path.absolute().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _step(console: Console, number: int, title: str) -> None:
    console.print(f"\n{number}  {title}", style="bold cyan")


def _say_goodbye(console: Console, count: int) -> None:
    request = '{"model": "nano", "messages": [{"role": "user", "content": "What is 17 + 25?"}], "stream": false}'
    console.print(f"\nAll {count} answers are right. What to try next:", style="bold green")
    console.print("   interns1 run nano", soft_wrap=True)
    console.print("   interns1 pull nano; interns1 serve, and in another terminal:", soft_wrap=True)
    console.print(f"   curl http://127.0.0.1:11434/api/chat -d '{request}'", soft_wrap=True)
