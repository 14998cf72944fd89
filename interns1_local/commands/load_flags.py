"""The flags of `interns1 serve` that say how models are loaded; each has an option and a variable of its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import click

from interns1_local.config import Settings

_FLAGS: tuple[tuple[str, Any, str, str], ...] = (
    ("--num-ctx", int, "TOKENS", "Context of each model (default: what fits, up to 32768)."),
    ("--num-parallel", int, "N", "Requests of a model computed at once (default: 8)."),
    ("--num-batch", int, "TOKENS", "Tokens computed in one call (default: 512)."),
    ("--threads", int, "N", "Threads of each model (default: one a core)."),
    ("--num-gpu", int, "LAYERS", "Layers on GPUs, 0 for none (default: as many as fit)."),
    ("--n-cpu-moe", int, "LAYERS", "Layers whose experts stay in RAM (default: what does not fit)."),
    ("--override-tensor", str, "REGEX=DEVICE", "Tensors that go to a device by name; may be repeated."),
    ("--split-mode", str, "none|layer|row", "How several GPUs share a model (default: layer)."),
    ("--tensor-split", str, "3,1", "Shares of the GPUs (default: by their free memory)."),
    ("--main-gpu", int, "N", "The GPU to use with --split-mode none (default: 0)."),
    ("--kv-cache-type", str, "TYPE[/TYPE]", "Type of keys and values: f16, q8_0, q4_0 and others (default: f16)."),
    ("--flash-attention", str, "auto|on|off", "Flash attention (default: auto)."),
    ("--backend-sampling", str, "auto|on|off", "Tokens chosen on the GPU (default: off; auto: when it serves many)."),
    ("--mmap/--no-mmap", None, "", "Map weights from the file, or read them (default: map)."),
    ("--mlock/--no-mlock", None, "", "Keep weights in RAM, never swapped out (default: no)."),
    ("--numa", str, "distribute|isolate|numactl", "How memory is spread over nodes (default: not)."),
)
# Flags whose load option has another name.
_OPTIONS = {"threads": "num_thread", "mmap": "use_mmap", "mlock": "use_mlock"}
# Options with a setting of their own, which bounds what is chosen.
_SETTINGS = {
    "num_ctx": "context_length",
    "num_parallel": "num_parallel",
    "num_thread": "threads",
    "kv_cache_type": "kv_cache_type",
}


def load_flags(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the flags to a command, which gets them as keyword arguments."""
    for name, kind, shown, text in reversed(_FLAGS):
        value = {"type": kind, "metavar": shown, "multiple": name == "--override-tensor"} if kind else {}
        command = click.option(name, default=None, help=text, **value)(command)
    return command


def with_flags(settings: Settings, flags: Mapping[str, Any]) -> Settings:
    """`settings` with the flags that were given; BadRequest for values that no model could be loaded with."""
    from interns1_local.runners.load_options import LoadOptions

    given = {_OPTIONS.get(name, name): value for name, value in flags.items() if value not in (None, ())}
    if "override_tensor" in given:
        given["override_tensor"] = list(given["override_tensor"])
    own = {setting: given.pop(name) for name, setting in _SETTINGS.items() if name in given}
    merged = dataclasses.replace(settings, **own, load={**settings.load, **given})
    checked = {name: getattr(merged, setting) or None for name, setting in _SETTINGS.items()}
    LoadOptions.from_options({**merged.load, **checked})
    return merged
