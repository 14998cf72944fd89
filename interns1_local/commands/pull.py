"""`interns1 pull`: bring a model into the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from interns1_local.commands.client import Client


@click.command(
    epilog="""\b
Example:
  interns1 pull nano
  interns1 pull internlm/interns1
"""
)
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow a registry without TLS.")
def command(model: str, insecure: bool) -> None:
    """Pull a model; `nano` is included and needs no network."""
    from interns1_local.commands.own_server import any_server

    with any_server() as client:
        pull(client, model, insecure=insecure)


def pull(client: Client, model: str, *, insecure: bool = False) -> None:
    """Pull `model` and show the progress."""
    from interns1_local.commands.progress import show_statuses

    show_statuses(client.stream("/api/pull", {"model": model, "insecure": insecure, "stream": True}))
