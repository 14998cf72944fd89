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
  interns1 pull hf.co/internlm/Intern-S1-mini-GGUF:Q8_0
  interns1 pull hf.co/internlm/Intern-S1-mini --quantize Q4_K_M
"""
)
@click.argument("model")
@click.option("--insecure", is_flag=True, help="Allow a registry without TLS.")
@click.option("-q", "--quantize", metavar="TYPE", help="Quantize while pulling (from hf.co and modelscope.cn).")
def command(model: str, insecure: bool, quantize: str | None) -> None:
    """Pull a model; `nano` is included and needs no network.

    NAME[:TAG] comes from Ollama's registry, HOST/NAMESPACE/NAME from another one, hf.co/OWNER/REPO[:QUANT] and
    modelscope.cn/OWNER/REPO[:QUANT] from a hub: its GGUF files, also in parts, or its safetensors, converted as they
    come. A pull that was stopped goes on where it was.
    """
    from interns1_local.commands.own_server import any_server

    with any_server() as client:
        pull(client, model, insecure=insecure, quantize=quantize)


def pull(client: Client, model: str, *, insecure: bool = False, quantize: str | None = None) -> None:
    """Pull `model` and show the progress."""
    from interns1_local.commands.progress import show_statuses

    body = {"model": model, "insecure": insecure, "stream": True, **({"quantize": quantize} if quantize else {})}
    show_statuses(client.stream("/api/pull", body))
