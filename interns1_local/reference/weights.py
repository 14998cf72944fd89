"""A checkpoint's tensors, read one at a time into a torch module: one copy of the model in memory, and one tensor.

The released names, the older ones, experts one by one or packed, and FP8 with a scale for each block are all known.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from interns1_local.errors import LoadError, Unsupported
from interns1_local.reference.folder import read_json

SCALE = "_scale_inv"
FLOATS = ("F32", "F16", "BF16", "F8_E4M3")
DEFAULT_BLOCK = (128, 128)
_EXPERT = re.compile(r"(.*\.mlp\.experts)\.(\d+)\.(gate|up|down)_proj\.weight$")

Rename = Callable[[str], str | None]


class CheckpointTensors:
    """The tensors of a folder by their stored names; `read(name)` gives numbers, FP8 already multiplied out."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.block = _block_size(config)
        self._open = ExitStack()
        self._files: dict[str, Any] = {}
        for path in _shards(folder):
            try:
                file = self._open.enter_context(safe_open(path, framework="pt"))
            except (SafetensorError, OSError) as error:
                raise LoadError(f"{path} cannot be read: {error}; download it again") from None
            self._files |= dict.fromkeys(file.keys(), file)
        self.names = [name for name in self._files if not name.endswith(SCALE)]

    def read(self, name: str) -> torch.Tensor:
        """The tensor in its stored type; float32 when it was FP8."""
        if name not in self._files:
            raise LoadError(f"{self.folder} has no tensor {name}; download the checkpoint again")
        file = self._files[name]
        kind = file.get_slice(name).get_dtype()
        if kind not in FLOATS:
            raise Unsupported(f"tensor {name} of {self.folder} has type {kind}; {', '.join(FLOATS)} are known")
        values: torch.Tensor = file.get_tensor(name)
        if kind != "F8_E4M3":
            return values
        if name + SCALE not in self._files:
            raise LoadError(f"{self.folder} has FP8 values {name} without {name}{SCALE}")
        return dequantize(values, self._files[name + SCALE].get_tensor(name + SCALE), self.block)

    def close(self) -> None:
        self._open.close()


@dataclass(frozen=True, slots=True)
class Filled:
    """What loading did: how many tensors, and which had more bits than their place."""

    tensors: int
    rounded: int


def fill(module: torch.nn.Module, tensors: CheckpointTensors, rename: Rename) -> Filled:
    """Copy every tensor to the parameter that `rename(stored name)` names; None leaves a tensor out.

    LoadError when a parameter stays without values, or a tensor finds no place.
    """
    places = dict(module.named_parameters())
    missing: dict[str, int] = {name: _matrices(name, place) for name, place in places.items()}
    homeless: list[str] = []
    rounded = 0
    for stored in tensors.names:
        name = rename(stored)
        if name is None:
            continue
        found = _place(places, name)
        if found is None:
            homeless.append(stored)
            continue
        target, place = found
        values = tensors.read(stored)
        if values.shape != place.shape and values.transpose(-1, -2).shape == place.shape and values.dim() == 3:
            values = values.transpose(-1, -2)  # packed experts of another release: [experts, columns, rows]
        if values.shape != place.shape:
            raise LoadError(f"tensor {stored} has shape {list(values.shape)}; {list(place.shape)} was expected")
        place.copy_(values)
        rounded += not torch.equal(place.float(), values.float())
        missing[target] -= 1 if _EXPERT.match(name) else missing[target]
    lacking = [name for name, count in missing.items() if count]
    if lacking or homeless:
        raise LoadError(
            f"{tensors.folder} does not fit its config.json: without values: {_some(lacking)}; "
            f"without a place: {_some(homeless)}"
        )
    return Filled(len(tensors.names), rounded)


def dequantize(values: torch.Tensor, scale: torch.Tensor, block: tuple[int, int]) -> torch.Tensor:
    """float32 [..., r, c] from FP8 values [..., r, c] and scales [..., ceil(r / block rows), ceil(c / columns)]."""
    rows, columns = values.shape[-2:]
    wide = scale.float().repeat_interleave(block[0], -2).repeat_interleave(block[1], -1)[..., :rows, :columns]
    if wide.shape != values.shape:
        raise LoadError(f"FP8 scales {list(scale.shape)} do not fit blocks of {block} over {list(values.shape)}")
    return values.float() * wide


def compute_in_float32(module: torch.nn.Module) -> None:
    """Let a module with 16-bit weights calculate in float32: each part's weights are widened while it runs."""
    for part in module.modules():
        own = [place for place in part.parameters(recurse=False) if place.dtype != torch.float32]
        if own:
            kind = own[0].dtype
            part.register_forward_pre_hook(lambda _part, _args, own=own: _cast(own, torch.float32))
            part.register_forward_hook(lambda _part, _args, _out, own=own, kind=kind: _cast(own, kind))


def _cast(places: list[torch.nn.Parameter], kind: torch.dtype) -> None:
    for place in places:
        place.data = place.data.to(kind)


def _place(places: dict[str, torch.nn.Parameter], name: str) -> tuple[str, torch.Tensor] | None:
    """The parameter for a tensor, or the part of one: of an expert among packed experts."""
    if name in places:
        return name, places[name].data
    match = _EXPERT.match(name)
    if match is None:
        return None
    prefix, expert, part = match[1], int(match[2]), match[3]
    target = f"{prefix}.down_proj" if part == "down" else f"{prefix}.gate_up_proj"
    if target not in places or expert >= len(places[target]):
        return None
    matrix = places[target].data[expert]
    half = len(matrix) // 2
    return target, {"gate": matrix[:half], "up": matrix[half:], "down": matrix}[part]


def _matrices(name: str, place: torch.Tensor) -> int:
    """How many tensors a parameter takes when its experts are stored one by one."""
    if name.endswith(".experts.gate_up_proj"):
        return 2 * len(place)
    return len(place) if name.endswith(".experts.down_proj") else 1


def _shards(folder: Path) -> Iterator[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files = sorted({str(file) for file in read_json(index).get("weight_map", {}).values()})
    else:
        files = ["model.safetensors"]
    for file in files:
        path = folder / Path(file).name
        if not path.is_file():
            raise LoadError(f"{folder} has no {path.name}; the safetensors files of the checkpoint are needed")
        yield path


def _block_size(config: dict[str, Any]) -> tuple[int, int]:
    text = config.get("text_config") or {}
    settings = config.get("quantization_config") or text.get("quantization_config") or {}
    if settings and settings.get("quant_method") != "fp8":
        raise Unsupported(
            f"the checkpoint is quantized with {settings.get('quant_method')!r}; known are BF16, F16, F32 "
            "and FP8 with a scale for each block: compare with one of these"
        )
    rows, columns = settings.get("weight_block_size") or DEFAULT_BLOCK
    return int(rows), int(columns)


def _some(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "none"
    return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
