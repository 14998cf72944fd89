"""`interns1 ps`: the models in memory."""

from __future__ import annotations

from typing import Any

import click


@click.command(
    epilog="""\b
Example:
  interns1 ps
  interns1 ps --json
"""
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(as_json: bool) -> None:
    """List the models that are loaded."""
    from interns1_local.commands.format import echo_json, echo_table, format_bytes
    from interns1_local.commands.own_server import running_server

    with running_server() as client:
        models = client.get("/api/ps").get("models") or []
    if as_json:
        echo_json(models)
        return
    rows = [
        [
            model["name"],
            model.get("digest", "")[:12],
            format_bytes(model.get("size", 0)),
            _processor(model.get("size", 0), model.get("size_vram", 0), model.get("size_rpc", 0)),
            str(model.get("context_length", "")),
            _until(model),
        ]
        for model in models
    ]
    echo_table(("NAME", "ID", "SIZE", "PROCESSOR", "CONTEXT", "UNTIL"), rows)


def _processor(size: int, offloaded: int, remote: int) -> str:
    """`100% CPU`, `34%/66% CPU/GPU`; what other machines hold counts as RPC."""
    if (size and not remote <= offloaded <= size) or (offloaded and not size):
        return "Unknown"
    parts = [("CPU", size - offloaded), ("GPU", offloaded - remote), ("RPC", remote)]
    parts = [(name, count) for name, count in parts if count] or [("CPU", 1)]
    shares = [round(count / max(size, 1) * 100) for _, count in parts[:-1]]
    shares.append(100 - sum(shares))
    return f"{'/'.join(f'{share}%' for share in shares)} {'/'.join(name for name, _ in parts)}"


def _until(model: dict[str, Any]) -> str:
    from datetime import UTC, datetime

    from interns1_local.commands.format import format_moment, parse_moment

    expires = parse_moment(model.get("expires_at", ""))
    if expires is not None and expires <= datetime.now(UTC):
        return "Stopping..."
    return format_moment(model.get("expires_at", ""))
