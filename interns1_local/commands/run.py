"""`interns1 run`: one answer for a prompt, or a chat in the terminal."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from interns1_local.commands import model_options

if TYPE_CHECKING:
    from interns1_local.commands.chat import Chat


class RunCommand(click.Command):
    """`--think` alone means `--think=true`: as in Ollama, the next word is never its value but the prompt."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        end = args.index("--") if "--" in args else len(args)
        args = ["--think=true" if arg == "--think" else arg for arg in args[:end]] + args[end:]
        return super().parse_args(ctx, args)


@click.command(
    cls=RunCommand,
    epilog="""\b
Examples:
  interns1 run nano
  interns1 run nano "What is 17 + 25?" --think
  interns1 run nano "What is 17 + 25?" --think-budget 100
  interns1 run nano "Which shape is at the top left?" --image picture.png
  interns1 run nano "What happens?" --video film.mp4 --option num_frames=8
  cat notes.txt | interns1 run nano "Summarize this"
""",
)
@click.argument("model")
@click.argument("prompt", nargs=-1)
@click.option("--think", metavar="[=LEVEL]", help="Think first: --think, --think=false, --think=low|medium|high|max.")
@click.option("--no-think", is_flag=True, help="Answer without thinking.")
@click.option("--think-budget", type=int, metavar="N", help="Close the thought after N tokens.")
@click.option("--hidethinking", is_flag=True, help="Think, but do not print the thought.")
@click.option("--image", "images", multiple=True, type=click.Path(path_type=Path), help="Add a picture; repeatable.")
@click.option("--video", "videos", multiple=True, type=click.Path(path_type=Path), help="A film or folder of frames.")
@click.option("--system", help="System message.")
@click.option("--option", "pairs", multiple=True, metavar="NAME=VALUE", help="temperature=0.7, num_ctx=8192, ...")
@click.option("--format", "format_", metavar="FORMAT", help="json, a JSON schema, or a file with one.")
@click.option("--keepalive", metavar="DURATION", help="How long the model stays loaded, such as 5m.")
@click.option("--nowordwrap", is_flag=True, help="Do not wrap long lines.")
@click.option("--nomarkdown", is_flag=True, help="Show answers as the model writes them.")
@click.option("--verbose", is_flag=True, help="Print speeds after each answer.")
@click.option("--truncate/--no-truncate", default=None, help="Of embedding models: cut a text that is too long.")
@click.option("--dimensions", type=click.IntRange(1), metavar="N", help="Of embedding models: numbers in a vector.")
@click.option("--insecure", is_flag=True, hidden=True)
def command(
    model: str,
    prompt: tuple[str, ...],
    think: str | None,
    no_think: bool,
    think_budget: int | None,
    hidethinking: bool,
    images: tuple[Path, ...],
    videos: tuple[Path, ...],
    system: str | None,
    pairs: tuple[str, ...],
    format_: str | None,
    keepalive: str | None,
    nowordwrap: bool,
    nomarkdown: bool,
    verbose: bool,
    truncate: bool | None,
    dimensions: int | None,
    insecure: bool,
) -> None:
    """Ask MODEL, or chat with it."""
    from interns1_local.commands.chat import Chat
    from interns1_local.commands.molecule_view import MoleculeView
    from interns1_local.commands.own_server import any_server
    from interns1_local.config import load_settings

    options = model_options.parse_options(pairs)
    if think_budget is not None:
        options["think_budget"] = think_budget
    answer_format = model_options.parse_format(format_) if format_ else None
    thinking = False if no_think else model_options.parse_think(think) if think is not None else None
    text = _with_stdin(" ".join(prompt))
    with any_server() as client:
        chat = Chat(
            client,
            model,
            system=system,
            options=options,
            think=thinking,
            format=answer_format,
            keep_alive=keepalive,
            hide_thinking=hidethinking,
            wordwrap=not nowordwrap,
            markdown=not nomarkdown,
            molecules=MoleculeView(load_settings().graphics),
            verbose=verbose,
        )
        chat.open(model)
        if text is None:
            from interns1_local.commands.chat_loop import chat_loop

            chat_loop(chat, images + videos)
        else:
            _answer_once(chat, text, images + videos, {"truncate": truncate, "dimensions": dimensions})


def _with_stdin(prompt: str) -> str | None:
    """The prompt after what is piped in; None asks for a chat."""
    if sys.stdin.isatty():
        return prompt or None
    piped = sys.stdin.read()
    return f"{piped.rstrip()}\n\n{prompt}" if piped.strip() and prompt else piped.strip() or prompt


def _answer_once(chat: Chat, prompt: str, images: tuple[Path, ...], embedding: dict[str, Any]) -> None:
    if "embedding" in chat.capabilities and "completion" not in chat.capabilities:
        choices = {"options": chat.options or None, "keep_alive": chat.keep_alive, **embedding}
        given = {name: value for name, value in choices.items() if value is not None}
        answer = chat.client.post("/api/embed", {"model": chat.model, "input": prompt, **given})
        click.echo(json.dumps(answer["embeddings"][0]))
    elif not prompt and not images:
        chat.load()
    elif chat.ask(prompt, images).stopped:
        raise KeyboardInterrupt
