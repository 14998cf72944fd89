"""`interns1 rpc-worker`: this machine's devices for a server on another one."""

from __future__ import annotations

import click


@click.command(
    epilog="""\b
Example:
  interns1 rpc-worker                                       for a server on this machine
  interns1 rpc-worker --listen 10.0.0.7 --allow 10.0.0.5    for the server at 10.0.0.5
There: interns1 serve --rpc 10.0.0.7:50052
"""
)
@click.option(
    "--listen", default="127.0.0.1", metavar="HOST[:PORT]", help="Where to listen (default: 127.0.0.1:50052)."
)
@click.option("--allow", multiple=True, metavar="CIDR", help="Who may come: an address or a network; repeatable.")
@click.option("--device", multiple=True, metavar="NAME", help="Serve this device, such as CUDA0; repeatable.")
@click.option("--threads", type=click.IntRange(1, 1024), metavar="N", help="Threads of the CPU (default: its cores).")
@click.option("--cache", metavar="DIR", help="Keep weights that were sent in this folder, for the next time.")
def command(
    listen: str, allow: tuple[str, ...], device: tuple[str, ...], threads: int | None, cache: str | None
) -> None:
    """Lend this machine's memory and devices to a server."""
    from pathlib import Path

    from interns1_local.addresses import is_this_machine
    from interns1_local.runners.memory import physical_cores
    from interns1_local.runners.rpc_gate import GateOptions, RpcGate

    host, port = _address(listen)
    folder = ""
    if cache:
        path = Path(cache).expanduser().absolute()
        path.mkdir(parents=True, exist_ok=True)
        folder = str(path)
    options = GateOptions(host, port, allow, device, threads or physical_cores(), folder)
    gate = RpcGate(options, say=lambda line: click.echo(line))
    if not is_this_machine(host):
        click.secho(
            "WARNING: llama.cpp's RPC has no password and no encryption. Whoever comes from an address that --allow "
            "names can read and write the memory of the processes that serve it. Use it in a network that you trust, "
            "or through a tunnel (ssh, WireGuard).",
            fg="yellow",
            err=True,
        )
    try:
        click.echo(f"the RPC worker listens on {gate.address} for {', '.join(allow) or 'this machine'}")
        gate.run()
    finally:
        gate.close()


def _address(listen: str) -> tuple[str, int]:
    from interns1_local.runners.rpc_protocol import DEFAULT_PORT

    host, colon, port = listen.rpartition(":")
    if not colon:
        host, port = listen, str(DEFAULT_PORT)
    host = host or "127.0.0.1"
    if ":" in host:
        raise click.ClickException(f"--listen {listen}: llama.cpp's RPC has no IPv6; give a name or an IPv4 address")
    if not port.isdigit() or int(port) > 65535:
        raise click.ClickException(f"--listen {listen}: expected HOST or HOST:PORT, such as 10.0.0.7:50052")
    return host, int(port)
