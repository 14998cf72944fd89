"""`interns1 cp`: give a model a second name."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Example:
  interns1 cp nano my-nano
"""
)
@click.argument("source")
@click.argument("destination")
def command(source: str, destination: str) -> None:
    """Copy a model."""
    from interns1_local.commands.own_server import any_server

    with any_server() as client:
        client.post("/api/copy", {"source": source, "destination": destination})
    click.echo(f"copied '{source}' to '{destination}'")
