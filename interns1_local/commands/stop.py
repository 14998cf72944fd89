"""`interns1 stop`: take a model out of memory."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Example:
  interns1 stop nano
"""
)
@click.argument("model")
def command(model: str) -> None:
    """Unload a model from memory."""
    from interns1_local.commands.errors import ServerError
    from interns1_local.commands.own_server import running_server

    with running_server() as client:
        try:
            client.post("/api/generate", {"model": model, "prompt": "", "keep_alive": 0, "stream": False})
        except ServerError as error:
            if error.status == 404:
                raise ServerError(
                    f'couldn\'t find model "{model}" to stop; `interns1 ps` lists what is loaded', 404
                ) from None
            raise
