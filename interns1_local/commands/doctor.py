"""`interns1 doctor`: the machine, the installation, and how a model would fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from interns1_local.config import Settings
    from interns1_local.runners.devices import Machine
    from interns1_local.runners.fit import Plan
    from interns1_local.runners.known_shapes import KnownModel
    from interns1_local.runners.load_options import LoadOptions
    from interns1_local.runners.rpc_protocol import RpcWorker


@click.command(
    epilog="""\b
Examples:
  interns1 doctor
  interns1 doctor nano
  interns1 doctor model.gguf --json
  interns1 doctor intern-s1 --vram 24GiB --ram 128GiB
  interns1 doctor intern-s1-mini --type Q8_0 --vram 8GiB --vram 8GiB
  interns1 doctor intern-s1 --rpc gpu1:50052,gpu2:50052
"""
)
@click.argument("model", required=False)
@click.option("--vram", multiple=True, metavar="SIZE", help="Memory of a GPU of another machine; repeat for several.")
@click.option("--ram", metavar="SIZE", help="Memory of another machine.")
@click.option("--rpc", metavar="HOST[:PORT],...", help="RPC workers that may hold layers (default: INTERNS1_RPC).")
@click.option("--type", "type_name", metavar="TYPE", help="Quantization of a model that is not here (default: best).")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="A load option, such as num_ctx=8192.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def command(
    model: str | None,
    vram: tuple[str, ...],
    ram: str | None,
    rpc: str | None,
    type_name: str | None,
    options: tuple[str, ...],
    as_json: bool,
) -> None:
    """Examine this machine; with MODEL, show how it fits here or elsewhere.

    MODEL is a model of the store, a GGUF file, or the name of a published one: intern-s1, intern-s1-mini, internlm3-8b.
    """
    from interns1_local.commands.format import echo_json
    from interns1_local.commands.model_options import parse_options
    from interns1_local.commands.plan_report import simulated_machine
    from interns1_local.config import load_settings
    from interns1_local.runners.devices import this_machine
    from interns1_local.runners.known_shapes import KNOWN
    from interns1_local.runners.load_options import LoadOptions
    from interns1_local.runners.memory import with_workers

    settings = load_settings()
    wanted = LoadOptions.from_options(parse_options(options))
    real = this_machine.machine()
    machine = simulated_machine(vram, ram, real) if vram or ram else real
    report: dict[str, Any] = {}
    if rpc or not (vram or ram):
        machine = with_workers(machine, _rpc_workers(rpc or ",".join(settings.rpc), report, as_json))
    if model is None and not (vram or ram):
        _examine(settings, machine, report, as_json)
    published = [KNOWN["intern-s1"], KNOWN["intern-s1-mini"]]
    if model is not None:
        known = _fit_model(model, type_name, wanted, settings, machine, report, as_json)
        published = [] if known is None else [known]
    if published:
        _published(published, wanted, settings, machine, report, as_json)
    if as_json:
        echo_json(report)


def _rpc_workers(given: str, report: dict[str, Any], quiet: bool) -> list[RpcWorker]:
    """The workers that answer; of the others it is said that they do not."""
    from interns1_local.errors import LoadError
    from interns1_local.runners.rpc_protocol import look_at, parse_endpoints

    workers, lines = [], []
    for endpoint in parse_endpoints(given):
        try:
            workers.append(look_at(endpoint, 2.0, 10.0))
        except LoadError as error:
            lines.append(error.message)
    if lines:
        report["unreachable"] = lines
    for line in () if quiet else lines:
        click.echo(f"  {click.style('--', fg='yellow')} {line}")
    return workers


def _examine(settings: Settings, machine: Machine, report: dict[str, Any], quiet: bool) -> None:
    from dataclasses import asdict

    from interns1_local.commands.format import echo_table
    from interns1_local.commands.machine_report import (
        CMAKE,
        check_installation,
        find_hardware,
        missing_backends,
        rebuild_command,
    )
    from interns1_local.runners.memory import physical_cores
    from interns1_local.runners.memory_use import format_gib

    hardware = find_hardware()
    missing = missing_backends(hardware, machine.backends)
    checks = list(check_installation(settings, machine))
    lines = [rebuild_command(CMAKE[backend], machine.version) for _, backend, _ in missing]
    report |= {
        "machine": asdict(machine),
        "cores": physical_cores(),
        "hardware": [asdict(entry) for entry in hardware],
        "rebuild": lines,
        "checks": [asdict(check) for check in checks],
    }
    if quiet:
        return
    click.echo(f"  RAM {format_gib(machine.memory_free)} free of {format_gib(machine.memory_total)}, "
               f"{physical_cores()} cores for models")  # fmt: skip
    click.echo(f"  llama-cpp-python {machine.version}, backends: {', '.join(machine.backends)}\n")
    rows = [
        [
            d.name,
            d.description,
            d.backend,
            f"{format_gib(d.free)} free of {format_gib(d.total)}" if d.holds_layers else "",
        ]
        for d in machine.devices
    ]
    echo_table(("DEVICE", "DESCRIPTION", "BACKEND", "MEMORY"), rows, indent="  ")
    click.echo()
    for (entry, backend, needs), line in zip(missing, lines, strict=True):
        click.echo(f"  {entry.vendor} hardware is here ({entry.seen}), and this llama.cpp does not use it.")
        click.echo(f"  With {needs}, this builds it with {backend}:\n    {line}\n")
    if not missing:
        seen = ", ".join(entry.vendor for entry in hardware)
        click.echo(f"  graphics hardware: {seen} in use\n" if seen else "  no graphics hardware is to be seen\n")
    for check in checks:
        mark = click.style("ok", fg="green") if check.well else click.style("--", fg="yellow")
        click.echo(f"  {mark} {check.name}: {check.text}" + ("" if check.well else f"; {check.advice}"))
    click.echo()


def _fit_model(
    model: str, type_name: str | None, wanted: LoadOptions, settings: Settings, machine: Machine,
    report: dict[str, Any], quiet: bool,
) -> KnownModel | None:  # fmt: skip
    """Show the plan; the published model, if it is one that is not here."""
    from interns1_local.commands.plan_report import plan_json, plan_lines

    name, plan, known = _plan(model, type_name, wanted, settings, machine)
    report |= plan_json(name, plan)
    if not quiet:
        click.echo("\n".join(plan_lines(name, plan)))
        click.echo()
    return known


def _plan(
    model: str, type_name: str | None, wanted: LoadOptions, settings: Settings, machine: Machine
) -> tuple[str, Plan, KnownModel | None]:
    """The name to show, the plan, and the model if it is one of the published ones that are not here."""
    from dataclasses import replace
    from pathlib import Path

    from interns1_local.commands.plan_report import TYPES, best_type, fitting_types
    from interns1_local.errors import ModelNotFound
    from interns1_local.runners.fit import fit
    from interns1_local.runners.known_shapes import KNOWN, known_model
    from interns1_local.runners.memory import plan_for, wishes_of
    from interns1_local.runners.model_spec import ModelSpec, read_model_facts
    from interns1_local.store.model_store import ModelStore
    from quant.recipes import recipe

    path = Path(model)
    spec = None
    if path.suffix == ".gguf" or path.is_file():
        spec = ModelSpec(path.name, "", path)
    elif (store := ModelStore(settings.models_dir)).find(model) is not None:
        spec = ModelSpec.of(store.resolve(model))
    if spec is not None and type_name is None:
        spec = replace(spec, options=wanted.over(spec.options))
        facts = read_model_facts(spec.model_path, spec.mmproj_path, spec.sidecar_path)
        return spec.name, plan_for(spec, facts, settings, machine), None
    known = known_model(model)
    if known is None:
        raise ModelNotFound(
            f"model '{model}' not found; `interns1 list` names those that are here, and {', '.join(KNOWN)} can be "
            "planned without being here"
        )
    wishes = wishes_of(settings, machine)
    if type_name is not None:
        chosen = recipe(type_name).name
    else:
        chosen = best_type(fitting_types(known, machine, wanted, wishes)) or TYPES[-1]
    return f"{known.title} {chosen}", fit(wanted, known.shape(chosen, "Q8_0"), machine, wishes), known


def _published(
    models: list[KnownModel], wanted: LoadOptions, settings: Settings, machine: Machine,
    report: dict[str, Any], quiet: bool,
) -> None:  # fmt: skip
    """Which quantization of the published models would fit."""
    from interns1_local.commands.format import echo_table
    from interns1_local.commands.plan_report import best_type, fitting_types, type_rows
    from interns1_local.runners.memory import wishes_of

    report["quantizations"] = {}
    for known in models:
        found = fitting_types(known, machine, wanted, wishes_of(settings, machine))
        best = best_type(found)
        report["quantizations"][known.name] = {type: plan.fits for type, _, plan in found}
        if quiet:
            continue
        click.echo(f"  {known.title}: {f'{best} is the best that fits' if best else 'no quantization fits'}")
        echo_table(("TYPE", "WEIGHTS", "FITS", "CONTEXT, KV"), type_rows(found), indent="    ")
        click.echo()
