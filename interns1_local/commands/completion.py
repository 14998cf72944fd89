"""`interns1 completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import click

_PLACES = {
    "bash": '~/.bashrc:  eval "$(interns1 completion bash)"',
    "zsh": '~/.zshrc:  eval "$(interns1 completion zsh)"',
    "fish": "~/.config/fish/config.fish:  interns1 completion fish | source",
}


@click.command(
    epilog="""\b
Example:
  eval "$(interns1 completion bash)"
"""
)
@click.argument("shell", type=click.Choice(sorted(_PLACES)))
def command(shell: str) -> None:
    """Print a script that completes commands and options in SHELL.

    To have it in every shell, add a line to its start file, such as eval "$(interns1 completion bash)" to ~/.bashrc.
    """
    from click.shell_completion import get_completion_class

    from interns1_local.commands.group import interns1

    kind = get_completion_class(shell)
    assert kind is not None, "click knows these shells"
    click.echo(kind(interns1, {}, "interns1", "_INTERNS1_COMPLETE").source())
    click.echo(f"# To have this in every shell, add to {_PLACES[shell]}")
