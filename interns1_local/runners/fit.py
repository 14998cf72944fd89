"""Fits a model to a machine: pure decisions from shapes, devices and free memory, with the reasons for them.

Candidates are tried from the most wanted to the least, and the first that fits is taken. What the user has set is in
all of them: the planner then only counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from interns1_local.engine.attention import attends_exactly, kv_types
from interns1_local.engine.sampling import least_for_graph
from interns1_local.runners.devices import Device, Machine
from interns1_local.runners.estimate import Graph, kv_bytes
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.memory_use import MemoryUse, Sizing, format_gib, measure
from interns1_local.runners.model_shape import ModelShape

GIB = 2**30
MIB = 2**20
DEFAULT_CONTEXT = 32768
SMALLEST_CONTEXT = 2048
# A context that a conversation can live with: no layer leaves a GPU for a longer one.
USEFUL_CONTEXT = 8192
DEFAULT_PARALLEL = 8
DEFAULT_BATCH = 512
SMALLEST_BATCH = 64
# A default context may take this share of the machine's memory for keys and values, no more.
KV_SHARE = 0.25
# Keys and values of all sequences together may outgrow one full context up to this.
KV_TOGETHER = 256 * MIB
CONTEXTS_TOGETHER = 4
# Left free for others: of RAM a twentieth, and what a driver takes of each GPU for itself.
RAM_RESERVE = 0.05
LARGEST_RAM_RESERVE = GIB
GPU_RESERVE = 512 * MIB


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the settings say for all models; 0 and "" leave it open."""

    num_ctx: int = 0
    num_parallel: int = 0
    kv_cache_type: str = ""
    gpu_overhead: int = 0
    spread: bool = False
    image_cache_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What was chosen. `devices` are the GPUs in use and, last, the RAM."""

    options: LoadOptions
    n_cells: int
    n_layers: int
    devices: tuple[MemoryUse, ...]
    reasons: tuple[str, ...] = ()

    @property
    def ram(self) -> MemoryUse:
        return self.devices[-1]

    @property
    def gpus(self) -> tuple[MemoryUse, ...]:
        return self.devices[:-1]

    @property
    def fits(self) -> bool:
        return all(use.fits for use in self.devices)

    @property
    def gpu_bytes(self) -> int:
        return sum(use.total for use in self.gpus)

    @property
    def total_bytes(self) -> int:
        return sum(use.total for use in self.devices)

    @property
    def loaded_bytes(self) -> int:
        """What the model takes without the pictures that it may come to remember."""
        return self.total_bytes - sum(use.pictures for use in self.devices)

    @property
    def offloaded_bytes(self) -> int:
        """Of `loaded_bytes`, what GPUs and other machines hold: all when the CPU computes no layer, as Ollama says."""
        options = self.options
        at_home = (options.num_gpu or 0) <= self.n_layers or options.n_cpu_moe or options.override_tensor
        return self.gpu_bytes if at_home or not self.gpus else self.loaded_bytes

    @property
    def remote_bytes(self) -> int:
        """Of `offloaded_bytes`, what other machines hold."""
        remote = sum(use.total for use in self.gpus if use.is_remote)
        return self.offloaded_bytes if remote and remote == self.gpu_bytes else remote

    def line(self, name: str) -> str:
        """One line that says what was chosen, and why."""
        options = self.options
        on_gpu = min(options.num_gpu or 0, self.n_layers + 1)
        if self.gpus:
            where = " + ".join(f"{use.name} ({_of(use)})" for use in self.gpus)
            layers = f"{on_gpu}/{self.n_layers + 1} layers on {where}, RAM {_of(self.ram)}"
            if options.n_cpu_moe:
                layers += f", experts of {options.n_cpu_moe} layers in RAM"
        else:
            layers = f"{self.n_layers + 1}/{self.n_layers + 1} layers on the CPU ({_of(self.ram)})"
        kv = format_gib(sum(use.kv for use in self.devices))
        shared = f", {self.n_cells} cells" if self.n_cells != options.num_ctx else ""
        return (
            f"{name}: {layers}, context {options.num_ctx}{shared} (KV {options.kv_cache_type}, {kv}), "
            f"{count_of(options.num_parallel or 1, 'sequence')}: {'; '.join(self.reasons) or 'all fits'}"
        )


@dataclass(frozen=True, slots=True)
class _Ground:
    """What all candidates of one model on one machine have in common."""

    shape: ModelShape
    machine: Machine
    gpus: tuple[Device, ...]
    wishes: Wishes


def fit(wanted: LoadOptions, shape: ModelShape, machine: Machine, wishes: Wishes = Wishes()) -> Plan:
    """The best plan that fits; when none does, the smallest one, whose `fits` is False."""
    ground = _Ground(shape, machine, _usable_gpus(wanted, machine), wishes)
    smallest: Plan | None = None
    for candidate, reasons in _candidates(wanted, ground):
        plan = _measured(candidate, reasons, ground)
        if plan.fits:
            return plan
        if smallest is None or _shortage(plan) <= _shortage(smallest):
            smallest = plan
    assert smallest is not None, "there is always a candidate"
    return smallest


def count_of(number: int, noun: str) -> str:
    """`1 sequence`, `8 sequences`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def choose_cells(num_ctx: int, num_parallel: int, kv_per_token: int) -> int:
    """Cells of the cache that all sequences share: one full context at least, several where they are small."""
    together = num_ctx * min(num_parallel, CONTEXTS_TOGETHER)
    return max(num_ctx, min(together, KV_TOGETHER // max(kv_per_token, 1)))


def default_context(kv_per_token: int, memory: int) -> int:
    """A context whose keys and values take no more than their share of `memory`, and no more than is useful."""
    affordable = int(memory * KV_SHARE) // max(kv_per_token, 1)
    context = max(SMALLEST_CONTEXT, min(DEFAULT_CONTEXT, affordable))
    return context - context % 256


def kv_per_token(shape: ModelShape, kv_type: str) -> int:
    """Bytes of keys and values of one token, over all layers."""
    keys, values = kv_types(kv_type)
    graph = Graph(256, 1, 1, True, keys.upper(), values.upper())
    return sum(kv_bytes(shape, graph, layer) for layer in range(shape.n_layers)) // 256


def _usable_gpus(wanted: LoadOptions, machine: Machine) -> tuple[Device, ...]:
    gpus = machine.gpus
    if wanted.num_gpu == 0:
        return ()
    if wanted.split_mode == "none" and gpus:
        return gpus[wanted.main_gpu or 0 :][:1]
    return gpus


def _candidates(wanted: LoadOptions, ground: _Ground) -> Iterator[tuple[LoadOptions, tuple[str, ...]]]:
    """Complete but for num_gpu, n_cpu_moe and tensor_split where these are to be searched (None)."""
    shape, gpus = ground.shape, ground.gpus
    base = _base(wanted, ground)
    sizes = list(_sizes(wanted, base, ground.wishes))
    if gpus:
        places = ["all"] if wanted.num_gpu is not None or wanted.n_cpu_moe is not None else ["all", "moe", "part"]
        useful = [entry for entry in sizes if _is_useful(entry[0], base)]
        # Where layers leave the GPU, a short context keeps more of them there.
        short_first = sorted(useful, key=lambda entry: entry[0].num_ctx or 0)
        for place in places:
            if place == "moe" and not shape.has_experts:
                continue
            for options, reasons in short_first if place == "part" else useful:
                yield from _placed(place, options, reasons, ground)
        if wanted.num_gpu is not None:
            yield from ((replace(o, num_gpu=min(wanted.num_gpu, shape.n_layers + 1)), r) for o, r in sizes)
            return
    why = ("on GPUs it does not fit",) if gpus else ()
    for options, reasons in sizes:
        yield replace(options, num_gpu=0, n_cpu_moe=0), reasons + why


def _is_useful(options: LoadOptions, base: LoadOptions) -> bool:
    least = min(USEFUL_CONTEXT, base.num_ctx or 0)
    return (options.num_ctx or 0) >= least and options.num_batch == base.num_batch


def _base(wanted: LoadOptions, ground: _Ground) -> LoadOptions:
    shape, machine, wishes = ground.shape, ground.machine, ground.wishes
    kv_type = wanted.kv_cache_type or wishes.kv_cache_type or "f16"
    trained = shape.context_length or 2**31
    pools = machine.memory_total + sum(gpu.total for gpu in machine.gpus if not gpu.shares_memory)
    context = wanted.num_ctx or min(wishes.num_ctx or default_context(kv_per_token(shape, "f16"), pools), trained)
    return replace(
        wanted,
        num_ctx=context,
        num_parallel=wanted.num_parallel or wishes.num_parallel or DEFAULT_PARALLEL,
        num_batch=wanted.num_batch or DEFAULT_BATCH,
        kv_cache_type=kv_type,
        use_mmap=True if wanted.use_mmap is None else wanted.use_mmap,
        most_gpu_layers=shape.n_layers + 1 if machine.gpus else 0,
    )


def _sizes(wanted: LoadOptions, base: LoadOptions, wishes: Wishes) -> Iterator[tuple[LoadOptions, tuple[str, ...]]]:
    """`base` and smaller ones: a shorter context, a cache of 8 bits, then a smaller batch and one sequence."""
    assert base.num_ctx is not None and base.num_batch is not None
    contexts = [base.num_ctx]
    while wanted.num_ctx is None and not wishes.num_ctx and contexts[-1] // 2 >= SMALLEST_CONTEXT:
        contexts.append(contexts[-1] // 2 // 256 * 256)
    free_type = wanted.kv_cache_type is None and not wishes.kv_cache_type and wanted.flash_attention != "off"
    kinds = [base.kv_cache_type, "q8_0"] if free_type else [base.kv_cache_type]
    batches = [base.num_batch]
    while wanted.num_batch is None and batches[-1] // 2 >= SMALLEST_BATCH:
        batches.append(batches[-1] // 2)
    for context in contexts:
        for kind in kinds:
            if kind == "q8_0" and context > USEFUL_CONTEXT and context != contexts[-1] and wanted.num_ctx is None:
                continue
            reasons = [f"context {context} instead of {base.num_ctx}"] if context != base.num_ctx else []
            reasons += [f"KV {kind} instead of {base.kv_cache_type}"] if kind != base.kv_cache_type else []
            yield replace(base, num_ctx=context, kv_cache_type=kind), tuple(reasons)
    small = replace(base, num_ctx=contexts[-1], kv_cache_type=kinds[-1])
    for batch in batches[1:]:
        parallel = small.num_parallel if wanted.num_parallel or wishes.num_parallel else 1
        text = f"batch {batch} and {count_of(parallel or 1, 'sequence')}, as memory is short"
        yield replace(small, num_batch=batch, num_parallel=parallel), (f"context {contexts[-1]}, KV {kinds[-1]}", text)


def _placed(
    place: str, options: LoadOptions, reasons: tuple[str, ...], ground: _Ground
) -> Iterator[tuple[LoadOptions, tuple[str, ...]]]:
    shape = ground.shape
    most = shape.n_layers + 1
    if place == "all":
        n_gpu = most if options.num_gpu is None else min(options.num_gpu, most)
        yield replace(options, num_gpu=n_gpu, n_cpu_moe=options.n_cpu_moe or 0), reasons
        return

    def option(number: int) -> LoadOptions:
        if place == "moe":
            return replace(options, num_gpu=most, n_cpu_moe=number)
        # Parts of a model with experts: those go first.
        return replace(options, num_gpu=most - number, n_cpu_moe=shape.n_layers if shape.has_experts else 0)

    last = shape.n_layers
    if not _measured(option(last), (), ground).fits:
        yield option(last), reasons
        return
    low, high = 1, last
    while low < high:
        middle = (low + high) // 2
        if _measured(option(middle), (), ground).fits:
            high = middle
        else:
            low = middle + 1
    text = (
        f"the experts of {high} of {shape.n_layers} layers do not fit on the GPU"
        if place == "moe"
        else f"{high} of {most} layers do not fit on the GPU"
    )
    yield option(high), (*reasons, text)


def _measured(options: LoadOptions, reasons: tuple[str, ...], ground: _Ground) -> Plan:
    shape, machine, gpus, wishes = ground.shape, ground.machine, ground.gpus, ground.wishes
    assert options.num_ctx and options.num_parallel and options.num_batch and options.kv_cache_type
    keys, values = kv_types(options.kv_cache_type)
    cells = choose_cells(options.num_ctx, options.num_parallel, kv_per_token(shape, "f16"))
    flash = options.flash_attention
    if flash is None:
        on_gpu = any(not gpu.is_remote for gpu in gpus)
        exact = attends_exactly(shape.is_exact, options.kv_cache_type, cells, options.num_batch, shape.n_heads)
        flash = "auto" if on_gpu else "off" if exact else "on"
    batch, parallel = options.num_batch, options.num_parallel
    sampling = options.backend_sampling or "off"
    options = replace(options, flash_attention=flash, backend_sampling=sampling)
    has_output = (options.num_gpu or 0) > shape.n_layers and not any(gpu.is_remote for gpu in gpus)
    samples = least_for_graph(sampling, parallel, bool(gpus) and has_output) is not None
    graph = Graph(cells, batch, parallel, flash != "off", keys.upper(), values.upper(), samples=samples)
    reserve_ram = min(LARGEST_RAM_RESERVE, int(machine.memory_total * RAM_RESERVE))
    sizing = Sizing(
        shape, graph, machine, gpus, reserve_ram, GPU_RESERVE + wishes.gpu_overhead, wishes.image_cache_bytes
    )
    uses, split = measure(options, sizing, wishes.spread)
    if split and options.tensor_split is None:
        options = replace(options, tensor_split=split)
    return Plan(options, cells, shape.n_layers, uses, reasons)


def _shortage(plan: Plan) -> int:
    return sum(max(0, use.total - use.usable) for use in plan.devices)


def _of(use: MemoryUse) -> str:
    return f"{format_gib(use.total, unit=False)} of {format_gib(use.free)}"
