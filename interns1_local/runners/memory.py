"""Load options that nobody chose: context, sequences, batch and threads that suit the model and this machine."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from interns1_local.config import Settings
from interns1_local.runners.devices import machine_memory
from interns1_local.runners.model_spec import LoadOptions, ModelFacts, fit_context

DEFAULT_CONTEXT = 32768
SMALLEST_CONTEXT = 2048
DEFAULT_PARALLEL = 8
DEFAULT_BATCH = 512

# A default context may take this share of the machine's memory for keys and values, no more.
KV_SHARE = 0.25

# Keys and values of all sequences together may outgrow one full context up to this.
KV_TOGETHER = 256 * 2**20
CONTEXTS_TOGETHER = 4


def complete_options(
    wanted: LoadOptions,
    facts: ModelFacts,
    settings: Settings,
    memory: int | None = None,
    cores: int | None = None,
) -> LoadOptions:
    """`wanted` with every gap filled: from the settings, else by the machine's memory and cores."""
    default = LoadOptions(settings.context_length or _default_context(facts, memory or machine_memory()))
    filled = replace(
        wanted,
        # What is set for all models stretches none.
        num_ctx=wanted.num_ctx or default.within(facts.context_length).num_ctx,
        num_parallel=wanted.num_parallel or settings.num_parallel or DEFAULT_PARALLEL,
        num_batch=wanted.num_batch or DEFAULT_BATCH,
        num_thread=wanted.num_thread or settings.threads or cores or physical_cores(),
        num_gpu=-1 if wanted.num_gpu is None else wanted.num_gpu,
        kv_cache_type=wanted.kv_cache_type or settings.kv_cache_type or "f16",
        use_mmap=True if wanted.use_mmap is None else wanted.use_mmap,
    )
    return fit_context(filled, facts)


def choose_cells(options: LoadOptions, facts: ModelFacts) -> int:
    """Cells of the cache that all sequences share: one full context at least, several where they are small."""
    assert options.num_ctx is not None and options.num_parallel is not None, "options must be complete"
    wanted = options.num_ctx * min(options.num_parallel, CONTEXTS_TOGETHER)
    return max(options.num_ctx, min(wanted, KV_TOGETHER // max(facts.kv_bytes_per_token, 1)))


def physical_cores() -> int:
    """Cores this process may run on, not counting a core's second thread."""
    try:
        usable = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // (2 if (os.cpu_count() or 2) > 2 else 1))
    siblings = {_siblings(cpu) for cpu in usable}
    return max(1, len(siblings))


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _default_context(facts: ModelFacts, memory: int) -> int:
    affordable = int(memory * KV_SHARE) // max(facts.kv_bytes_per_token, 1)
    context = max(SMALLEST_CONTEXT, min(DEFAULT_CONTEXT, affordable))
    return context - context % 256
