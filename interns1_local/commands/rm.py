"""`interns1 rm`: delete models from the store."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Example:
  interns1 rm nano
"""
)
@click.argument("models", metavar="MODEL...", nargs=-1, required=True)
def command(models: tuple[str, ...]) -> None:
    """Delete models."""
    from interns1_local.commands.errors import ServerError
    from interns1_local.commands.own_server import any_server

    with any_server() as client:
        for model in models:
            try:
                # A model in memory would keep its deleted files open; one that is not loaded has nothing to unload.
                client.post("/api/generate", {"model": model, "prompt": "", "keep_alive": 0, "stream": False})
            except ServerError as error:
                if error.status >= 500:
                    raise
            client.delete("/api/delete", {"model": model})
            click.echo(f"deleted '{model}'")
