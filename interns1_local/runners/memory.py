"""From wishes to a plan of this machine's memory: which options a worker gets, whether it fits, what to say if not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from interns1_local.config import Settings
from interns1_local.errors import BadRequest
from interns1_local.runners.devices import Device, Machine, this_machine
from interns1_local.runners.fit import Plan, Wishes, fit
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.memory_use import format_gib
from interns1_local.runners.model_shape import ModelShape
from interns1_local.runners.model_spec import ModelFacts, ModelSpec, NotEnoughMemory, fit_context, read_model_facts
from interns1_local.runners.rpc_protocol import RpcWorker

# Who sets one of these decides for himself: the plan then warns where it would refuse.
_OWN_DECISIONS = (
    "num_ctx", "num_batch", "num_gpu", "num_parallel", "n_cpu_moe", "override_tensor", "tensor_split", "use_mmap",
)  # fmt: skip


def plan_load(
    wanted: LoadOptions,
    facts: ModelFacts,
    settings: Settings,
    machine: Machine,
    mmproj_bytes: int = 0,
    adapter_bytes: int = 0,
    draft: ModelFacts | None = None,
    cores: int | None = None,
) -> Plan:
    """`wanted` with every gap filled: from the settings, else by what fits the machine. See `refuse` for what does not.

    BadRequest when the options name devices that are not there.
    """
    wanted = fit_context(wanted.over(LoadOptions.from_options(settings.load)), facts)
    _check_devices(wanted, machine)
    shape = ModelShape.of(facts, mmproj_bytes, adapter_bytes)
    if draft is not None:
        shape = replace(shape, draft=ModelShape.of(draft))
    plan = fit(wanted, shape, machine, wishes_of(settings, machine))
    options = replace(plan.options, num_thread=wanted.num_thread or settings.threads or cores or physical_cores())
    return replace(plan, options=fit_context(options, facts))


def wishes_of(settings: Settings, machine: Machine) -> Wishes:
    """What the settings say for all models. Who names RPC workers wants them used."""
    return Wishes(
        num_ctx=settings.context_length,
        num_parallel=settings.num_parallel,
        kv_cache_type=settings.kv_cache_type,
        gpu_overhead=settings.gpu_overhead,
        spread=settings.sched_spread or any(gpu.is_remote for gpu in machine.gpus),
        image_cache_bytes=settings.image_cache << 20,
    )


def plan_for(spec: ModelSpec, facts: ModelFacts, settings: Settings, machine: Machine) -> Plan:
    """The plan of a model with its vision file, its adapters and its draft model."""
    mmproj = 0 if spec.mmproj_path is None else spec.mmproj_path.stat().st_size
    draft = None if spec.draft_path is None else read_model_facts(spec.draft_path)
    return plan_load(spec.options, facts, settings, machine, mmproj, spec.adapter_bytes, draft)


def plan_here(spec: ModelSpec, facts: ModelFacts, settings: Settings, workers: Sequence[RpcWorker] = ()) -> Plan:
    """The plan for this machine now, with the devices of RPC workers."""
    return plan_for(spec, facts, settings, with_workers(this_machine.machine(), workers))


def with_workers(machine: Machine, workers: Sequence[RpcWorker]) -> Machine:
    """`machine` with the devices of RPC workers before its own, as llama.cpp gets them."""
    memory = [(worker.endpoint, pair) for worker in workers for pair in worker.memory]
    remote = (Device(f"RPC{n}", at, "gpu", "RPC", *pair) for n, (at, pair) in enumerate(memory))
    return replace(machine, devices=(*remote, *machine.devices))


def has_room(spec: ModelSpec, settings: Settings) -> bool:
    """Whether the model fits now as well as it would if no other were loaded. True when that is no better."""
    facts = read_model_facts(spec.model_path, spec.mmproj_path, spec.sidecar_path)
    machine = this_machine.machine()
    plan = plan_for(spec, facts, settings, machine)
    if plan.fits and not plan.reasons:
        return True
    alone = plan_for(spec, facts, settings, this_machine.without_claims(machine))
    return (plan.fits, plan.reasons) == (alone.fits, alone.reasons)


def refuse(plan: Plan, name: str, wanted: LoadOptions, settings: Settings) -> str:
    """NotEnoughMemory for a plan that does not fit; a warning where the user decided so himself; "" when it fits."""
    if plan.fits:
        return ""
    lacking = [use for use in plan.devices if not use.fits]
    need = "; ".join(
        f"{use.name}: {format_gib(use.total)} needed, {format_gib(use.usable)} of {format_gib(use.capacity)} usable"
        for use in lacking
    )
    asked = wanted.over(LoadOptions.from_options(settings.load))
    decided = any(getattr(asked, field) is not None for field in _OWN_DECISIONS)
    if decided and plan.ram.private <= plan.ram.capacity:
        return f"it does not fit by this count ({need}); it is loaded as its options say"
    advice = "choose a smaller quantization"
    if not decided:
        advice += ", free memory, or set options of your own (num_ctx, num_gpu, use_mmap)"
    elif asked.num_ctx is not None:
        advice += f", or a num_ctx below {asked.num_ctx}"
    ram = plan.ram
    raise NotEnoughMemory(
        f"model requires more system memory ({format_gib(plan.total_bytes)}) than is available "
        f"({format_gib(sum(use.usable for use in plan.devices))}): {need}. "
        f"Of RAM, weights take {format_gib(ram.weights + ram.mapped)}, the context of {plan.options.num_ctx} tokens "
        f"{format_gib(ram.kv)} and buffers {format_gib(ram.compute)}. To run {name}: {advice}; "
        f"`interns1 doctor {name}` shows what would fit"
    )


def physical_cores() -> int:
    """Cores this process may run on, not counting a core's second thread."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // (2 if (os.cpu_count() or 2) > 2 else 1))
    siblings = {_siblings(cpu) for cpu in usable}
    return max(1, len(siblings))


def _check_devices(wanted: LoadOptions, machine: Machine) -> None:
    known = [device.name for device in machine.devices] or ["CPU"]
    for entry in wanted.override_tensor or ():
        device = entry.rpartition("=")[2].strip()
        if device not in known:
            raise BadRequest(
                f'option "override_tensor": there is no device {device!r}; this machine has {", ".join(known)}'
            )
    gpus = machine.gpus
    if gpus and wanted.main_gpu is not None and wanted.main_gpu >= len(gpus):
        raise BadRequest(f'option "main_gpu" must be below {len(gpus)}, the number of GPUs; it is {wanted.main_gpu}')
    if gpus and wanted.tensor_split is not None and len(wanted.tensor_split) > len(gpus):
        raise BadRequest(f'option "tensor_split" has {len(wanted.tensor_split)} shares for {len(gpus)} GPUs')


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
