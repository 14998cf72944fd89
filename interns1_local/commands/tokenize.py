"""`interns1 tokenize`: how a model reads a text, science vocabularies included, and how stock llama.cpp would."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from difflib import SequenceMatcher
from itertools import zip_longest
from typing import Any

import click

from interns1_local.commands.markdown_inline import SCIENCE

_COLOURS = {name.lower(): colour for name, colour in SCIENCE.items()}
# Neighbouring tokens of the text in turns, so that their borders show.
_GROUNDS = ("on grey19", "on grey35")

Tokens = list[dict[str, Any]]


@click.command(
    epilog="""\b
Examples:
  interns1 tokenize nano "aspirin is <SMILES>CC(=O)Oc1ccccc1C(=O)O</SMILES>"
  interns1 tokenize nano --stock "aspirin is CC(=O)Oc1ccccc1C(=O)O"
"""
)
@click.argument("model")
@click.argument("text", nargs=-1)
@click.option("--ids", is_flag=True, help="Print the ids alone, on one line.")
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")
@click.option("--stock", is_flag=True, help="Show beside it what stock llama.cpp would feed, and how many ids differ.")
def command(model: str, text: tuple[str, ...], ids: bool, as_json: bool, stock: bool) -> None:
    """Show the tokens of TEXT (or of standard input)."""
    from interns1_local.commands.own_server import any_server

    asked = {"model": model, "content": " ".join(text) if text else sys.stdin.read(), "details": True}
    with any_server() as client:
        answer = client.post("/api/tokenize", asked)
        plain = client.post("/api/tokenize", {**asked, "stock": True}) if stock else None
    if as_json:
        from interns1_local.commands.format import echo_json

        echo_json(answer if plain is None else {**answer, "stock": plain})
    elif ids:
        for shown in (answer, plain):
            if shown is not None:
                click.echo(" ".join(map(str, shown["tokens"])))
    else:
        echo_tokens(answer, plain)


def echo_tokens(answer: dict[str, Any], plain: dict[str, Any] | None = None) -> None:
    """What /api/tokenize says of a text, coloured and as a table; `plain` is what it says of stock llama.cpp."""
    from rich.console import Console

    console = Console(highlight=False)
    tokens: Tokens = answer["details"]
    console.print(_coloured(answer["content"], tokens))
    stock: Tokens | None = None if plain is None else plain["details"]
    console.print(_table(tokens, stock))
    science = sum(1 for token in tokens if token.get("domain"))
    click.echo(f"{len(tokens)} tokens" + (f", {science} of them science tokens" if science else ""))
    if stock is not None:
        differing = sum(max(len(ours), len(theirs)) for same, ours, theirs in _compared(tokens, stock) if not same)
        words = f"{differing} ids differ" if differing else "no id differs"
        click.echo(f"stock llama.cpp: {len(stock)} tokens, {words}")


def _coloured(content: str, tokens: Tokens) -> Any:
    """The text with a ground for each token, and the colour of its vocabulary."""
    from rich.text import Text

    shown = Text()
    position = 0
    for turn, token in enumerate(tokens):
        start, end = token.get("start"), token.get("end")
        if start is None or end is None or end <= position:
            continue  # the rest of a character that a token before it began
        shown.append(content[position : max(start, position)])
        colour = _COLOURS.get(token.get("domain") or "", "")
        shown.append(content[max(start, position) : end], style=f"{colour} {_GROUNDS[turn % 2]}".strip())
        position = end
    shown.append(content[position:])
    return shown


def _table(tokens: Tokens, stock: Tokens | None) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name, justify in (("ID", "right"), ("TOKEN", "left"), ("DOMAIN", "left"), ("SPAN", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    if stock is None:
        for token in tokens:
            table.add_row(*_cells(token))
        return table
    table.add_column("STOCK ID", justify="right")
    table.add_column("STOCK TOKEN")
    for same, ours, theirs in _compared(tokens, stock):
        for own, other in zip_longest(ours, theirs):
            cells = [Text("")] * 4 if own is None else _cells(own)
            style = "dim" if same else "red"
            beside = ["", ""] if other is None else [str(other["id"]), _visible(other.get("piece", ""))]
            table.add_row(*cells, *(Text(cell, style=style) for cell in beside))
    return table


def _cells(token: dict[str, Any]) -> list[Any]:
    from rich.text import Text

    domain = token.get("domain") or ""
    colour = _COLOURS.get(domain, "")
    piece = Text(_visible(token.get("piece", "")), style=f"bold {colour}" if colour else "")
    span = "" if token.get("start") is None else f"{token['start']}-{token['end']}"
    return [Text(str(token["id"])), piece, Text(domain, style=colour), Text(span, style="dim")]


def _compared(tokens: Tokens, stock: Tokens) -> Iterator[tuple[bool, Tokens, Tokens]]:
    """Runs of tokens: whether their ids are the same, ours, and stock llama.cpp's."""
    matcher = SequenceMatcher(None, [t["id"] for t in tokens], [t["id"] for t in stock], autojunk=False)
    for tag, a, b, c, d in matcher.get_opcodes():
        yield tag == "equal", tokens[a:b], stock[c:d]


def _visible(piece: str) -> str:
    """Spaces and line ends as marks that can be seen."""
    return piece.replace(" ", "·").replace("\n", "⏎").replace("\t", "⇥")
