"""Options that a worker is started with: their types, their limits, and when a loaded worker serves other ones."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from interns1_local.engine.attention import PLAIN_KV_TYPES, kv_types
from interns1_local.errors import BadRequest

KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")
SPLIT_MODES = ("none", "layer", "row")
SWITCHES = ("auto", "on", "off")
NUMA = ("distribute", "isolate", "numactl")
MAX_CONTEXT = 2**24
MAX_PARALLEL = 256
MAX_OVERRIDES = 64
MAX_DEVICES = 128

# Nobody asks for these: they follow from the model and the machine.
DERIVED = frozenset({"rope_freq_base", "most_gpu_layers"})
_LIMITS = {
    "num_ctx": (1, 2**31 - 1),
    "num_batch": (1, 2**20),
    "num_gpu": (-1, 2**31 - 1),
    "num_thread": (0, 4096),
    "num_parallel": (1, 2**31 - 1),
    "n_cpu_moe": (0, 2**31 - 1),
    "main_gpu": (0, MAX_DEVICES - 1),
}
_PLACEMENT = ("num_gpu", "n_cpu_moe", "override_tensor", "split_mode", "tensor_split", "main_gpu")


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options that a worker is started with. None leaves the choice to the machine.

    `override_tensor` holds "REGEX=DEVICE"; `tensor_split` a share for each GPU; `kv_cache_type` a type of keys and
    values, or "KEYS/VALUES".
    """

    num_ctx: int | None = None
    num_batch: int | None = None
    num_gpu: int | None = None
    num_thread: int | None = None
    num_parallel: int | None = None
    kv_cache_type: str | None = None
    use_mmap: bool | None = None
    # It follows from num_ctx, see `fit_context`.
    rope_freq_base: float | None = None
    n_cpu_moe: int | None = None
    override_tensor: tuple[str, ...] | None = None
    split_mode: str | None = None
    tensor_split: tuple[float, ...] | None = None
    main_gpu: int | None = None
    flash_attention: str | None = None
    backend_sampling: str | None = None
    use_mlock: bool | None = None
    numa: str | None = None
    # Of a complete set: the layers that GPUs could hold at most, 0 without a GPU.
    most_gpu_layers: int | None = None

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> LoadOptions:
        """The load options among a request's or a Modelfile's options; other options are left alone."""
        chosen = {}
        for entry in fields(cls):
            value = options.get(entry.name)
            if value is not None and entry.name not in DERIVED:
                chosen[entry.name] = _typed(entry.name, value)
        # Ollama writes "choose by yourself" as 0 threads and -1 layers.
        unset = (("num_thread", 0), ("num_gpu", -1), ("flash_attention", "auto"), ("numa", ""))
        for name, value in unset:
            if chosen.get(name) == value:
                del chosen[name]
        found = cls(**chosen)
        found.check()
        return found

    def check(self) -> None:
        """BadRequest when options contradict each other."""
        if self.kv_cache_type is not None and self.flash_attention == "off":
            values = kv_types(self.kv_cache_type)[1]
            if values not in PLAIN_KV_TYPES:
                raise BadRequest(
                    f'option "kv_cache_type" {self.kv_cache_type}: values of type {values} need flash attention; '
                    'set "flash_attention" to on, or use f16'
                )

    def over(self, defaults: LoadOptions) -> LoadOptions:
        """These options where they are set, `defaults` elsewhere."""
        chosen = {e.name: getattr(self, e.name) for e in fields(self) if getattr(self, e.name) is not None}
        return replace(defaults, **chosen)

    def within(self, trained_context: int) -> LoadOptions:
        """These options with a context no longer than the model was trained for (0: unknown)."""
        if self.num_ctx is None or not 0 < trained_context < self.num_ctx:
            return self
        return replace(self, num_ctx=trained_context)

    def satisfies(self, wanted: LoadOptions) -> bool:
        """Whether a worker started with these (complete) options serves `wanted` as well as a new one would."""
        for entry in fields(self):
            have, want = getattr(self, entry.name), getattr(wanted, entry.name)
            if want is None or have == want or entry.name == "most_gpu_layers":
                continue
            if entry.name in ("num_ctx", "num_parallel", "num_batch") and have is not None and have >= want:
                continue
            if entry.name in _PLACEMENT and self.most_gpu_layers is not None:
                # Without a GPU it makes no difference; more layers than there are is all of them.
                if not self.most_gpu_layers and entry.name != "override_tensor":
                    continue
                if entry.name == "num_gpu" and have == min(want, self.most_gpu_layers):
                    continue
            return False
        return True


def _typed(name: str, value: Any) -> Any:
    match name:
        case "kv_cache_type":
            return _kv_type(_text(name, value))
        case "split_mode":
            return _one_of(name, _text(name, value), SPLIT_MODES)
        case "flash_attention" | "backend_sampling":
            return _one_of(name, {True: "on", False: "off"}.get(value, value), SWITCHES)
        case "numa":
            return _one_of(name, {True: "distribute", False: ""}.get(value, value), ("", *NUMA))
        case "use_mmap" | "use_mlock":
            if not isinstance(value, bool):
                raise BadRequest(f'option "{name}" must be of type boolean')
            return value
        case "override_tensor":
            return _overrides(value)
        case "tensor_split":
            return _shares(value)
    return _whole(name, value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadRequest(f'option "{name}" must be of type string')
    return value.strip().lower()


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> str:
    text = _text(name, value)
    if text not in choices:
        shown = ", ".join(choice for choice in choices if choice)
        raise BadRequest(f'option "{name}" must be one of {shown}; it is {value!r}')
    return text


def _kv_type(text: str) -> str:
    if len(text) > 40 or any(part not in KV_TYPES for part in kv_types(text)):
        raise BadRequest(
            f'option "kv_cache_type" must be one of {", ".join(KV_TYPES)}, or two of them as KEYS/VALUES; '
            f"it is {text[:40]!r}"
        )
    keys, values = kv_types(text)
    return keys if keys == values else text


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise BadRequest(f'option "{name}" must be of type integer')
    if int(value) != value:
        raise BadRequest(f'option "{name}" must be of type integer')
    low, high = _LIMITS[name]
    if value < low:
        raise BadRequest(f'option "{name}" must be at least {low}; it is {value}')
    if value > high:
        raise BadRequest(f'option "{name}" must be at most {high}; it is {value}')
    return int(value)


def _overrides(value: Any) -> tuple[str, ...]:
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, list | tuple) or not all(isinstance(entry, str) for entry in entries):
        raise BadRequest('option "override_tensor" must be a list of "REGEX=DEVICE"')
    if len(entries) > MAX_OVERRIDES:
        raise BadRequest(f'option "override_tensor" may have {MAX_OVERRIDES} entries; it has {len(entries)}')
    for entry in entries:
        pattern, equals, device = entry.rpartition("=")
        if not equals or not pattern or not device.strip():
            raise BadRequest(f'option "override_tensor": {entry[:80]!r} is not REGEX=DEVICE, such as \\.ffn_up=CPU')
        check_pattern(pattern)
    return tuple(entries)


def check_pattern(pattern: str) -> None:
    """BadRequest for what is no regular expression, or one that C++ and Python read differently or endlessly."""
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise BadRequest(f'option "override_tensor": {pattern[:80]!r} is no regular expression: {error}') from None
    if len(pattern) > 200 or "\0" in pattern or "(?" in pattern or re.search(r"[*+}]\s*\)\s*[*+{]", pattern):
        raise BadRequest(
            f'option "override_tensor": {pattern[:80]!r} is too complex; use up to 200 characters, '
            "no groups beginning with ? and no repeats of repeats"
        )


def _shares(value: Any) -> tuple[float, ...]:
    entries = value.split(",") if isinstance(value, str) else value
    try:
        if not isinstance(entries, list | tuple) or any(isinstance(entry, bool) for entry in entries):
            raise TypeError
        shares = tuple(float(entry) for entry in entries)
    except (TypeError, ValueError):
        raise BadRequest('option "tensor_split" must be a list of numbers, a share for each GPU') from None
    if not 1 <= len(shares) <= MAX_DEVICES or any(not 0 <= share < 1e9 for share in shares) or not sum(shares):
        raise BadRequest(
            f'option "tensor_split" must be 1 to {MAX_DEVICES} shares of 0 or more that are not all 0; '
            f"it is {list(shares)[:8]}"
        )
    return shares
