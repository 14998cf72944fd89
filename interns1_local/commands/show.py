"""`interns1 show`: what a model is. Its sections are also what `/show` prints in a chat."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

PARTS = ("license", "modelfile", "parameters", "template", "system")
_LICENSE_LINES = 2


@click.command(
    epilog="""\b
Example:
  interns1 show nano
  interns1 show nano --modelfile > Modelfile
"""
)
@click.argument("model")
@click.option("--license", "part", flag_value="license", multiple=True, help="Print the license.")
@click.option("--modelfile", "part", flag_value="modelfile", multiple=True, help="Print the Modelfile.")
@click.option("--parameters", "part", flag_value="parameters", multiple=True, help="Print the parameters.")
@click.option("--template", "part", flag_value="template", multiple=True, help="Print the chat template.")
@click.option("--system", "part", flag_value="system", multiple=True, help="Print the system message.")
@click.option("-v", "--verbose", is_flag=True, help="Add all metadata and tensors.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(model: str, part: tuple[str, ...], verbose: bool, as_json: bool) -> None:
    """Show what a model is."""
    from interns1_local.commands.own_server import any_server

    if len(part) > 1:
        listed = ", ".join(f"--{name}" for name in PARTS)
        raise click.ClickException(f"only one of {listed} can be specified")
    with any_server() as client:
        facts = client.post("/api/show", {"model": model, "verbose": verbose})
    if as_json:
        from interns1_local.commands.format import echo_json

        echo_json(facts[part[0]] if part and part[0] in facts else facts)
    elif part:
        click.echo(facts.get(part[0]) or "")
    else:
        echo_facts(facts, verbose=verbose)


def echo_facts(facts: dict[str, Any], *, verbose: bool = False) -> None:
    """The sections of `show`, each a small table."""
    from interns1_local.commands.format import echo_table

    for title, rows in _sections(facts, verbose=verbose):
        click.echo(f"  {title}")
        echo_table((), rows, indent="    ")
        click.echo()


def _sections(facts: dict[str, Any], *, verbose: bool) -> Iterator[tuple[str, list[list[str]]]]:
    yield "Model", _model_rows(facts)
    if facts.get("projector_info"):
        yield "Projector", _projector_rows(facts["projector_info"])
    if facts.get("capabilities"):
        yield "Capabilities", [[name] for name in facts["capabilities"]]
    if facts.get("adapters"):
        from interns1_local.commands.format import format_bytes

        yield "Adapters", [[item["name"], format_bytes(item["size"])] for item in facts["adapters"]]
    if facts.get("warnings"):
        yield "Warnings", [[text] for text in facts["warnings"]]
    if facts.get("parameters"):
        pairs = (line.split(None, 1) for line in facts["parameters"].splitlines() if line.strip())
        yield "Parameters", [[*pair, ""][:2] for pair in pairs]
    if facts.get("system"):
        yield "System", _head(facts["system"])
    if facts.get("license"):
        yield "License", _head(facts["license"])
    if verbose:
        metadata = facts.get("model_info") or {}
        if metadata:
            yield "Metadata", [[key, _short(value)] for key, value in sorted(metadata.items())]
        if facts.get("tensors"):
            tensors = facts["tensors"]
            yield "Tensors", [[item["name"], item["type"], str(item["shape"])] for item in tensors]


def _model_rows(facts: dict[str, Any]) -> list[list[str]]:
    info, details = facts.get("model_info") or {}, facts.get("details") or {}
    architecture = info.get("general.architecture") or details.get("family", "")
    rows = [
        ["architecture", architecture],
        ["parameters", details.get("parameter_size") or _count(info.get("general.parameter_count"))],
        ["context length", _number(info.get(f"{architecture}.context_length"))],
        ["embedding length", _number(info.get(f"{architecture}.embedding_length"))],
        ["quantization", details.get("quantization_level", "")],
        ["computed by", facts.get("remote_host", "")],
        ["under the name", facts.get("remote_model", "")],
    ]
    return [row for row in rows if row[1]]


def _projector_rows(info: dict[str, Any]) -> list[list[str]]:
    architecture = info.get("general.architecture", "clip")
    rows = [
        ["architecture", architecture],
        ["parameters", _count(info.get("general.parameter_count"))],
        ["embedding length", _number(info.get(f"{architecture}.vision.embedding_length"))],
        ["dimensions", _number(info.get(f"{architecture}.vision.projection_dim"))],
        ["image size", _number(info.get(f"{architecture}.vision.image_size"))],
    ]
    return [row for row in rows if row[1]]


def _head(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.strip().splitlines() if line.strip()]
    more = [["..."]] if len(lines) > _LICENSE_LINES else []
    return [*([line] for line in lines[:_LICENSE_LINES]), *more]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _number(value: Any) -> str:
    return "" if value is None else f"{value:.0f}" if isinstance(value, float) else str(value)


def _count(value: Any) -> str:
    """7615616512 -> `7.6B`."""
    if not isinstance(value, int | float) or value <= 0:
        return ""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:.0f}"
