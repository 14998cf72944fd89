"""`interns1 list`: the models in the store."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Example:
  interns1 list
  interns1 list nano --json
"""
)
@click.argument("prefix", default="")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(prefix: str, as_json: bool) -> None:
    """List the models on this machine (ls)."""
    from interns1_local.commands.own_server import any_server

    with any_server() as client:
        models = client.get("/api/tags").get("models") or []
    models = [model for model in models if model["name"].lower().startswith(prefix.lower())]
    if as_json:
        from interns1_local.commands.format import echo_json

        echo_json(models)
    else:
        echo_models(models)


def echo_models(models: list[dict[str, object]]) -> None:
    """The table of `list`."""
    from interns1_local.commands.format import echo_table, format_bytes, format_moment

    rows = [
        [
            str(model["name"]),
            str(model.get("digest", ""))[:12],
            format_bytes(int(str(model.get("size", 0)))),
            format_moment(str(model.get("modified_at", ""))),
        ]
        for model in models
    ]
    echo_table(("NAME", "ID", "SIZE", "MODIFIED"), rows)
