"""`interns1 tokenize`: how a model reads a text, science vocabularies included."""

from __future__ import annotations

import sys
from typing import Any

import click

_COLOURS = {"smiles": "green", "iupac": "cyan", "fasta": "magenta"}


@click.command(
    epilog="""\b
Example:
  interns1 tokenize nano "aspirin is <SMILES>CC(=O)Oc1ccccc1C(=O)O</SMILES>"
"""
)
@click.argument("model")
@click.argument("text", nargs=-1)
@click.option("--ids", is_flag=True, help="Print the ids alone, on one line.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, text: tuple[str, ...], ids: bool, as_json: bool) -> None:
    """Show the tokens of TEXT (or of standard input)."""
    from interns1_local.commands.own_server import any_server

    prompt = " ".join(text) if text else sys.stdin.read()
    with any_server() as client:
        tokens = client.post("/api/tokenize", {"model": model, "text": prompt})["tokens"]
    if as_json:
        from interns1_local.commands.format import echo_json

        echo_json(tokens)
    elif ids:
        click.echo(" ".join(str(token["id"]) for token in tokens))
    else:
        _echo_tokens(tokens)


def _echo_tokens(tokens: list[dict[str, Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("ID", justify="right")
    table.add_column("TOKEN")
    table.add_column("DOMAIN")
    for token in tokens:
        domain = token.get("domain") or ""
        colour = _COLOURS.get(domain, "")
        piece = Text(_visible(token.get("piece", "")), style=f"bold {colour}" if colour else "")
        table.add_row(str(token["id"]), piece, Text(domain, style=colour))
    Console().print(table)
    science = sum(1 for token in tokens if token.get("domain"))
    click.echo(f"{len(tokens)} tokens" + (f", {science} of them science tokens" if science else ""))


def _visible(piece: str) -> str:
    """Spaces and line ends as marks that can be seen."""
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
