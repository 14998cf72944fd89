"""What each device and the RAM hold under given load options: weights, cache, buffers, vision tower."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from interns1_local.runners import estimate
from interns1_local.runners.devices import RAM, Device, Machine
from interns1_local.runners.estimate import Graph
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.model_shape import INPUT, ModelShape, Weight

GIB = 2**30
# GGML_SCHED_MAX_COPIES, less the one that every graph has.
CALLS_WAITING = 3


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Bytes on one device, or in RAM. `mapped` weights are read from the file and can be dropped by the system.

    `pictures` is what remembered ones come to at most. `reserve` is left to others. `shared`
    is what GPUs without memory of their own take of the RAM.
    """

    name: str
    free: int
    capacity: int
    weights: int = 0
    mapped: int = 0
    kv: int = 0
    compute: int = 0
    vision: int = 0
    pictures: int = 0
    program: int = 0
    draft: int = 0
    shared: int = 0
    reserve: int = 0
    # In another machine.
    is_remote: bool = False

    @property
    def total(self) -> int:
        return self.private + self.mapped + self.program_mapped + self.pictures + self.shared

    @property
    def private(self) -> int:
        """What the system cannot drop: too much of this ends a process."""
        return self.weights + self.kv + self.compute + self.vision + self.program + self.draft

    @property
    def program_mapped(self) -> int:
        return estimate.PROGRAM_MAPPED if self.program else 0

    @property
    def usable(self) -> int:
        return max(0, self.free - self.reserve)

    @property
    def fits(self) -> bool:
        return self.total <= self.usable or not self.total


@dataclass(frozen=True, slots=True)
class Sizing:
    """The fixed part of a measurement. Reserves and `picture_bytes` (remembered ones, at most) in bytes."""

    shape: ModelShape
    graph: Graph
    machine: Machine
    gpus: tuple[Device, ...]
    ram_reserve: int
    gpu_reserve: int
    picture_bytes: int = 0


def measure(
    options: LoadOptions, sizing: Sizing, spread: bool = False
) -> tuple[tuple[MemoryUse, ...], tuple[float, ...]]:
    """The use of each GPU that gets layers, with the RAM last; and how many layers each GPU gets, () for one GPU.

    Several GPUs are used when one is too small, or when `spread` says so.
    """
    shape, gpus = sizing.shape, sizing.gpus
    n_gpu = min(options.num_gpu or 0, shape.n_layers + 1) if gpus else 0
    ram, empty = _ram(sizing), [_gpu(gpu, sizing) for gpu in gpus]
    if not n_gpu:
        return (_fill_ram(ram, options, sizing, range(INPUT, shape.n_layers + 1)),), ()
    first = shape.n_layers + 1 - n_gpu
    layers = list(range(first, shape.n_layers + 1))
    counts = _split(layers, empty, options, sizing, spread)
    uses, at = [], 0
    for index, (use, count) in enumerate(zip(empty, counts, strict=True)):
        held = layers[at : at + count]
        at += count
        vision_here = index == _vision_gpu(gpus)
        uses.append(_fill_gpu(use, options, sizing, held, vision_here))
    on_cpu = [INPUT, *range(first)]
    ram = _fill_ram(ram, options, sizing, on_cpu, layers)
    if any(gpu.shares_memory for gpu in gpus):
        taken = sum(use.total for use, gpu in zip(uses, gpus, strict=True) if gpu.shares_memory)
        ram = replace(ram, shared=taken)
    split = tuple(map(float, counts)) if len(gpus) > 1 else ()
    return (*(use for use in uses if use.total), ram), split


def _vision_gpu(gpus: tuple[Device, ...]) -> int | None:
    """llama.cpp's vision goes to the first GPU of this machine."""
    return next((index for index, gpu in enumerate(gpus) if not gpu.is_remote), None)


def _split(layers: list[int], empty: list[MemoryUse], options: LoadOptions, sizing: Sizing, spread: bool) -> list[int]:
    """Layers for each GPU, in order."""
    if len(empty) == 1:
        return [len(layers)]
    if options.tensor_split is not None:
        return _by_shares(len(layers), [*options.tensor_split, *[0.0] * len(empty)][: len(empty)])
    if not spread:
        one = max(range(len(empty)), key=lambda index: (empty[index].usable, -index))
        use = _fill_gpu(empty[one], options, sizing, layers, one == _vision_gpu(sizing.gpus))
        if use.fits:
            return [len(layers) if index == one else 0 for index in range(len(empty))]
    return _by_room(layers, empty, options, sizing)


def _by_shares(count: int, shares: list[float]) -> list[int]:
    """As llama.cpp divides layers: layer i goes to the first device whose summed share is above i / count."""
    total, summed, bounds = sum(shares), 0.0, []
    for share in shares:
        summed += share
        bounds.append(summed / total)
    counts = [0] * len(shares)
    for index in range(count):
        counts[next((at for at, bound in enumerate(bounds) if bound > index / count), len(shares) - 1)] += 1
    return counts


def _by_room(layers: list[int], empty: list[MemoryUse], options: LoadOptions, sizing: Sizing) -> list[int]:
    """Fill the GPUs evenly: the share of its room that each uses is about the same."""
    costs = [_layer_cost(layer, options, sizing) for layer in layers]
    fixed = [
        _fill_gpu(use, options, sizing, [], index == _vision_gpu(sizing.gpus), forced=True).total
        for index, use in enumerate(empty)
    ]
    room = [max(0, use.usable - taken) for use, taken in zip(empty, fixed, strict=True)]
    wanted = sum(costs) / max(1, sum(room))
    counts, at = [], 0
    for index, space in enumerate(room):
        budget, count = space * min(1.0, wanted), 0
        is_last = index == len(room) - 1
        while at + count < len(layers):
            cost = costs[at + count]
            if not is_last and budget < cost / 2:
                break
            budget -= cost
            count += 1
        counts.append(count)
        at += count
    return counts


def _layer_cost(layer: int, options: LoadOptions, sizing: Sizing) -> int:
    weights = sum(weight.n_bytes for weight in sizing.shape.by_layer[layer] if not _on_cpu(weight, options))
    return weights + _kv(sizing, [layer])


def _kv(sizing: Sizing, layers: Sequence[int]) -> int:
    """Keys and values of all contexts, for the layers among `layers`."""
    shape = sizing.shape
    graphs = [graph for graph in (sizing.graph, estimate.pooling_graph(sizing.graph, shape)) if graph is not None]
    held = [layer for layer in layers if 0 <= layer < shape.n_layers]
    return sum(estimate.kv_bytes(shape, graph, layer) for graph in graphs for layer in held)


def _draft(sizing: Sizing, is_mapped: bool) -> tuple[int, int]:
    """Bytes of a draft model on the CPU: its own, and those of mapped weights."""
    draft = sizing.shape.draft
    if draft is None:
        return 0, 0
    graph = estimate.draft_graph(sizing.graph, draft)
    copied, mapped = _cpu_weights(draft.weights, sizing.machine)
    kv = sum(estimate.kv_bytes(draft, graph, layer) for layer in range(draft.n_layers))
    compute = estimate.compute_bytes(draft, graph) + estimate.output_bytes(draft, graph)
    compute += estimate.work_bytes(draft, graph) + estimate.TOKEN_BYTES * draft.vocabulary
    return copied + kv + compute + (0 if is_mapped else mapped), mapped if is_mapped else 0


def _cpu_weights(weights: Sequence[Weight], machine: Machine) -> tuple[int, int]:
    """Bytes of the weights that the CPU copies into an order that suits it, and of those it reads as the file has them.

    A matrix with two roles is there twice only where the second is copied.
    """
    features = frozenset[str]() if machine.amx_broken_by else estimate.cpu_features(machine.system_info)
    sizes = [0 if weight.layer == INPUT else estimate.repacked_bytes(weight, features) for weight in weights]
    plain = (w.n_bytes for w, size in zip(weights, sizes, strict=True) if not size and "(output)" not in w.name)
    return sum(sizes), sum(plain)


def _ram(sizing: Sizing) -> MemoryUse:
    machine = sizing.machine
    return MemoryUse(RAM, machine.memory_free, machine.memory_total, reserve=sizing.ram_reserve)


def _gpu(gpu: Device, sizing: Sizing) -> MemoryUse:
    free, total = gpu.free, gpu.total
    if not total and gpu.shares_memory:
        free, total = sizing.machine.memory_free, sizing.machine.memory_total
    return MemoryUse(gpu.name, free, total, reserve=sizing.gpu_reserve, is_remote=gpu.is_remote)


def _fill_gpu(
    use: MemoryUse, options: LoadOptions, sizing: Sizing, layers: list[int], vision: bool, forced: bool = False
) -> MemoryUse:
    shape, graph = sizing.shape, sizing.graph
    tower = estimate.vision_bytes(shape.vision) if vision and shape.vision is not None else 0
    if not layers and not forced:
        return replace(use, vision=tower)
    pooling = estimate.pooling_graph(graph, shape)
    held = [weight for layer in layers for weight in shape.by_layer[layer] if not _on_cpu(weight, options)]
    elsewhere = [w for layer in layers for w in shape.by_layer[layer] if _on_cpu(w, options)]
    # Prompts are computed here with weights that stay in RAM, each copied over for the while.
    visiting = max((weight.n_bytes for weight in elsewhere), default=0)
    return replace(
        use,
        weights=sum(weight.n_bytes for weight in held),
        kv=_kv(sizing, layers),
        compute=sum(
            estimate.compute_bytes(shape, entry) + _waiting_bytes(options, sizing, entry)
            for entry in (graph, pooling)
            if entry
        )
        + visiting,
        vision=tower,
        # llama.cpp divides it among this machine's GPUs as it likes: each has room for all of it.
        draft=0 if use.is_remote else sum(_draft(sizing, False)),
    )


def _fill_ram(
    use: MemoryUse, options: LoadOptions, sizing: Sizing, layers: range | list[int], others: list[int] | None = None
) -> MemoryUse:
    """The CPU's own `layers`, and what of the `others` (on GPUs) is kept in RAM."""
    shape, graph = sizing.shape, sizing.graph
    others = others or []
    held = [weight for layer in layers for weight in shape.by_layer[layer]]
    held += [weight for layer in others for weight in shape.by_layer[layer] if _on_cpu(weight, options)]
    copied, mapped = _cpu_weights(held, sizing.machine)
    computes = bool([layer for layer in layers if layer != INPUT]) or not others
    compute = 0
    for entry in (graph, estimate.pooling_graph(graph, shape)):
        if entry is not None:
            compute += estimate.compute_bytes(shape, entry) if computes else estimate.input_bytes(shape, entry)
            compute += estimate.output_bytes(shape, entry)
            compute += _waiting_bytes(options, sizing, entry) if others else 0
            compute += estimate.work_bytes(shape, entry) if computes else 0
    is_mapped = options.use_mmap is not False
    on_gpu = bool(others) and _vision_gpu(sizing.gpus) is not None
    draft, draft_mapped = _draft(sizing, is_mapped) if not on_gpu else (0, 0)
    tower = 0 if on_gpu or shape.vision is None else estimate.vision_bytes(shape.vision)
    return replace(
        use,
        weights=copied + (0 if is_mapped else mapped) + shape.adapter_bytes,
        mapped=(mapped if is_mapped else 0) + draft_mapped,
        kv=_kv(sizing, layers),
        compute=compute,
        vision=tower,
        pictures=sizing.picture_bytes if shape.vision is not None else 0,
        program=estimate.program_bytes(shape) + (estimate.outline_bytes(shape) if tower else 0),
        draft=draft,
    )


def _waiting_bytes(options: LoadOptions, sizing: Sizing, graph: Graph) -> int:
    """The inputs of further calls, which llama.cpp has room for where several GPUs of one machine hold all layers."""
    is_all = (options.num_gpu or 0) > sizing.shape.n_layers
    is_cut = options.split_mode not in (None, "layer") or options.override_tensor or options.n_cpu_moe
    if len(sizing.gpus) < 2 or not is_all or is_cut or any(gpu.is_remote for gpu in sizing.gpus):
        return 0
    return CALLS_WAITING * estimate.input_bytes(sizing.shape, graph)


def _on_cpu(weight: Weight, options: LoadOptions) -> bool:
    for entry in options.override_tensor or ():
        pattern, _, device = entry.rpartition("=")
        if re.search(pattern, weight.name):
            return device.strip() == "CPU"
    return weight.is_expert and weight.layer < (options.n_cpu_moe or 0)


def format_gib(count: int, unit: bool = True) -> str:
    """5476083302 -> `5.1 GiB`; small amounts in MiB."""
    if count < GIB // 10 and unit:
        return f"{count / 2**20:.0f} MiB"
    return f"{count / GIB:.1f}" + (" GiB" if unit else "")
