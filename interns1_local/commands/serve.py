"""`interns1 serve`: the server in the foreground."""

from __future__ import annotations

import dataclasses
import gc
import os
from contextlib import closing
from typing import TYPE_CHECKING, Any

import click

from interns1_local.commands.load_flags import load_flags, with_flags

if TYPE_CHECKING:
    from interns1_local.config import Settings


@click.command(
    epilog="""\b
Example:
  interns1 serve
  interns1 serve --host 0.0.0.0:11434
  interns1 serve --num-ctx 16384 --kv-cache-type q8_0 --n-cpu-moe 90
"""
)
@click.option("--host", metavar="HOST[:PORT]", help="Where to listen (default: INTERNS1_HOST or 127.0.0.1:11434).")
@click.option("--rpc", metavar="HOST[:PORT],...", help="RPC workers that hold layers (default: INTERNS1_RPC).")
@load_flags
@click.option("--until-stdin-closes", is_flag=True, hidden=True)
def command(host: str | None, rpc: str | None, until_stdin_closes: bool, **flags: Any) -> None:
    """Start the server for Ollama and OpenAI clients.

    Each model is fitted to this machine when it is loaded, and a line says how; `interns1 doctor` explains it.
    """
    from interns1_local.config import load_settings, parse_host

    settings = with_flags(load_settings(), flags)
    if host:
        name, port = parse_host(host)
        settings = dataclasses.replace(settings, host=name, port=port)
    if rpc:
        settings = dataclasses.replace(settings, rpc=tuple(rpc.split(",")))
    if settings.rpc:
        settings = dataclasses.replace(settings, rpc=_seen_workers(settings.rpc))
    if until_stdin_closes:
        _end_with_stdin()
    _serve(settings)


def _serve(settings: Settings) -> None:
    # numpy's library of linear algebra, which nothing here computes with, would start its threads in each process.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # What is imported is no garbage; looking for some takes a tenth of the time.
    gc.disable()
    from interns1_local.runners.devices import this_machine
    from interns1_local.runners.worker_process import SpareWorker

    with closing(SpareWorker()) as spare:
        # What the first model needs is made ready by other processes: one while this one imports the server, one after.
        if settings.spare_worker:
            spare.prepare()
        from interns1_local.server.app import serve

        this_machine.look()
        gc.freeze()
        gc.enable()
        serve(settings, spare)


def _seen_workers(given: tuple[str, ...]) -> tuple[str, ...]:
    """The workers as host:port, and a line about each. One that is not there yet may come before a model needs it."""
    from interns1_local.errors import LoadError
    from interns1_local.runners.fit import count_of
    from interns1_local.runners.memory_use import format_gib
    from interns1_local.runners.rpc_protocol import look_at, parse_endpoints

    endpoints = parse_endpoints(",".join(given))
    for endpoint in endpoints:
        try:
            worker = look_at(endpoint, 2.0, 10.0)
            devices = count_of(len(worker.memory), "device")
            click.echo(f"RPC worker {endpoint}: {format_gib(worker.free)} free on {devices}")
        except LoadError as error:
            click.secho(f"warning: {error.message}", fg="yellow", err=True)
    return endpoints


def _end_with_stdin() -> None:
    """End when the process that started us ends, by whatever death: its end of the pipe closes with it."""
    import os
    import signal
    import sys
    import threading

    def wait() -> None:
        while os.read(stdin, 4096):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    stdin = sys.stdin.fileno()
    threading.Thread(target=wait, daemon=True).start()
