"""The `interns1` command: a table of commands, each loaded only when it is asked for."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from typing import Any

import click

from interns1_local import __version__
from interns1_local.commands.errors import explain

# Each command lives in the file of its name (with _ for -), under the attribute `command`.
COMMANDS = (
    "serve", "run", "pull", "push", "create", "list", "show", "ps", "stop", "cp", "rm", "doctor",
    "convert", "quantize", "verify", "quality", "imatrix", "tokenize", "bench", "rpc-worker", "demo", "completion",
)  # fmt: skip
ALIASES = {"ls": "list", "start": "serve"}
CTRL_C_STATUS = 130


class LazyGroup(click.Group):
    """Finds commands by file name, and is the one place where errors become sentences."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        name = ALIASES.get(cmd_name, cmd_name)
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"interns1_local.commands.{name.replace('-', '_')}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            import difflib

            near = difflib.get_close_matches(args[0], [*COMMANDS, *ALIASES], n=1)
            hint = f"did you mean '{near[0]}'?" if near else "'interns1 --help' lists the commands"
            raise click.ClickException(f"unknown command '{args[0]}': {hint}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(CTRL_C_STATUS)
        except BrokenPipeError:
            # The reader (`head`, a pager) has left; Python would complain again when it flushes at exit.
            sys.stdout = None
            ctx.exit(1)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            raise click.ClickException(explain(error)) from error


@click.command(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="""\b
Examples:
  interns1 demo                              see the whole road at work
  interns1 run nano "What is 17 + 25?"       ask the model that is included
  interns1 serve                             a server for Ollama and OpenAI clients on port 11434
""",
)
@click.version_option(__version__, "-v", "--version", message="interns1 version is %(version)s")
@click.pass_context
def interns1(ctx: click.Context) -> None:
    """Run Intern-S1 and InternLM models on your own machine."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(args: Sequence[str] | None = None) -> None:
    """The console script `interns1`."""
    interns1.main(args=None if args is None else list(args), prog_name="interns1")
