"""`interns1 push`: send a model to a registry."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Example:
  interns1 cp nano registry.example.org/lab/nano:v1
  interns1 push registry.example.org/lab/nano:v1
  interns1 push hf.co/you/nano-GGUF:Q8_0
"""
)
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow a registry without TLS.")
def command(model: str, insecure: bool) -> None:
    """Push MODEL to a registry or to hf.co.

    Its name begins with the host: registry.example.org/lab/nano:v1, hf.co/you/nano-GGUF.

    Where the registry asks for an account, set INTERNS1_REGISTRY_USER and INTERNS1_REGISTRY_PASSWORD
    for the server; for hf.co set HF_TOKEN, or log in with huggingface-cli.
    """
    from interns1_local.commands.own_server import any_server
    from interns1_local.commands.progress import show_statuses

    with any_server() as client:
        show_statuses(client.stream("/api/push", {"model": model, "insecure": insecure, "stream": True}))
