"""A memory plan as text: a bar for each device, and which quantization of a model fits where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from interns1_local.errors import BadRequest
from interns1_local.runners.devices import Device, Machine
from interns1_local.runners.fit import Plan, Wishes, count_of, fit
from interns1_local.runners.known_shapes import KnownModel
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.memory_use import MemoryUse, format_gib

BAR = 48
TYPES = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_XXS")
# A simulated machine's own needs: its system and desktop.
SYSTEM_BYTES = 2 * 2**30
_UNITS = {"": 2**30, "m": 2**20, "g": 2**30, "t": 2**40, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_UNITS |= {"mib": 2**20, "gib": 2**30, "tib": 2**40}
# Part of a bar, its letter where there are no colours, and its colour.
_PARTS = (
    ("weights", "W", "blue"),
    ("context", "K", "magenta"),
    ("buffers", "B", "yellow"),
    ("vision", "V", "cyan"),
    ("draft model", "D", "red"),
    ("program", "P", "green"),
)


def parse_size(text: str) -> int:
    """`24GiB`, `24G`, `24` -> bytes; `24GB` is 24 * 10**9."""
    found = re.fullmatch(r"\s*(\d{1,7}(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found.group(2) not in _UNITS or not float(found.group(1)):
        raise BadRequest(f"{text!r} is not a size such as 24GiB or 128GB")
    return int(float(found.group(1)) * _UNITS[found.group(2)])


def simulated_machine(vram: Sequence[str], ram: str | None, real: Machine) -> Machine:
    """A machine with these GPUs and this RAM, used by its system only; what is not given is the real one's."""
    gpus = [Device(f"GPU{i}", "simulated", "gpu", "simulated", *(2 * [parse_size(s)])) for i, s in enumerate(vram)]
    total = real.memory_total if ram is None else parse_size(ram)
    free = real.memory_free if ram is None else total - min(SYSTEM_BYTES, total // 8)
    others = real.devices if not vram else tuple(d for d in real.devices if not d.holds_layers)
    info = real.system_info or "CPU : AVX2 = 1 | REPACK = 1 |"
    return Machine((*gpus, *others), total, free, real.backends, real.version, info, real.can_lock)


def plan_lines(name: str, plan: Plan) -> list[str]:
    """The plan in full."""
    options = plan.options
    lines = [plan.line(name) if plan.fits else f"{name}: does not fit; the nearest plan:", ""]
    for use in plan.devices:
        lines += _device_lines(use)
    legend = "  ".join(f"{click.style(letter, fg=colour)} {part}" for part, letter, colour in _PARTS)
    lines += ["", f"  {legend}  . free", ""]
    attention = {"off": "exact", "on": "flash attention", "auto": "flash attention"}[options.flash_attention or "auto"]
    lines.append(
        f"  context {options.num_ctx} tokens for one request, {plan.n_cells} for all; KV {options.kv_cache_type}; "
        f"batch {options.num_batch}; {count_of(options.num_parallel or 1, 'sequence')}; {attention}"
    )
    if options.n_cpu_moe and plan.gpus:
        lines.append(f"  experts of the first {options.n_cpu_moe} of {plan.n_layers} layers stay in RAM (n_cpu_moe)")
    if options.tensor_split:
        lines.append(f"  layers by GPU: {', '.join(f'{share:.0f}' for share in options.tensor_split)} (tensor_split)")
    lines += [f"  because: {reason}" for reason in plan.reasons]
    return lines


def plan_json(name: str, plan: Plan) -> dict[str, Any]:
    """The plan for programs; memory in bytes."""
    options = {key: value for key, value in asdict(plan.options).items() if value is not None}
    devices = [{**asdict(use), "total": use.total, "fits": use.fits} for use in plan.devices]
    return {
        "model": name,
        "fits": plan.fits,
        "options": options,
        "cells": plan.n_cells,
        "layers": plan.n_layers + 1,
        "devices": devices,
        "reasons": list(plan.reasons),
    }


def fitting_types(
    model: KnownModel, machine: Machine, wanted: LoadOptions, wishes: Wishes
) -> list[tuple[str, int, Plan]]:
    """(quantization, bytes of weights, plan) of each of TYPES on `machine`, with a vision file of 8 bits."""
    found = []
    for type in TYPES:
        shape = model.shape(type, "Q8_0")
        found.append((type, shape.weight_bytes, fit(wanted, shape, machine, wishes)))
    return found


def type_rows(found: Sequence[tuple[str, int, Plan]]) -> list[list[str]]:
    """A row for each quantization: its size, whether it fits, and how."""
    rows = []
    for type, n_bytes, plan in found:
        options = plan.options
        if not plan.fits:
            short = max(use.total - use.usable for use in plan.devices)
            how = f"no: {format_gib(short)} short"
        elif not plan.gpus:
            how = "in RAM"
        elif options.n_cpu_moe:
            how = f"on GPU, experts of {options.n_cpu_moe}/{plan.n_layers} layers in RAM"
        elif (options.num_gpu or 0) > plan.n_layers:
            how = "on GPU"
        else:
            how = f"{options.num_gpu}/{plan.n_layers + 1} layers on GPU"
        context = f"{options.num_ctx}, {options.kv_cache_type}" if plan.fits else ""
        rows.append([type, f"{n_bytes / 1e9:.1f} GB", how, context])
    return rows


def best_type(found: Sequence[tuple[str, int, Plan]]) -> str | None:
    """The largest quantization that fits."""
    return next((type for type, _, plan in found if plan.fits), None)


def _device_lines(use: MemoryUse) -> list[str]:
    parts = (
        use.weights + use.mapped,
        use.kv,
        use.compute,
        use.vision,
        use.draft,
        use.program + use.program_mapped + use.shared,
    )
    # What is in use by others takes the right end of the bar.
    scale = BAR / max(use.capacity, use.total, 1)
    bar, shown = "", 0
    for size, (_, letter, colour) in zip(parts, _PARTS, strict=True):
        width = max(round(size * scale), 1 if size else 0)
        bar += click.style(letter * width, fg=colour)
        shown += width
    others = round((use.capacity - use.free) * scale)
    free = max(0, BAR - shown - others)
    state = "" if use.fits else click.style(f"  {format_gib(use.total - use.usable)} too much", fg="red")
    texts = [f"{name} {format_gib(size)}" for size, (name, *_) in zip(parts, _PARTS, strict=True) if size]
    if use.pictures:
        texts.append(f"and up to {format_gib(use.pictures)} of remembered pictures (INTERNS1_IMAGE_CACHE)")
    head = f"  {use.name:<8} [{bar}{'.' * free}{'#' * max(0, min(others, BAR - shown))}]"
    return [f"{head} {format_gib(use.total)} of {format_gib(use.capacity)}{state}", f"           {', '.join(texts)}"]
