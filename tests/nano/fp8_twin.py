"""Derives the FP8 twin of a checkpoint: block-scaled `weight` with `weight_scale_inv`, as the released FP8 ones.

`python -m tests.nano.fp8_twin interns1_local/nano/checkpoint build/nano-fp8` takes seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

BLOCK = 128
LARGEST = 448.0
QUANTIZED = re.compile(r"self_attn\.[qkvo]_proj\.weight$|mlp\.experts\.\d+\.(gate|up|down)_proj\.weight$")


def quantize_block(weight: torch.Tensor, block: int = BLOCK) -> tuple[torch.Tensor, torch.Tensor]:
    """F8_E4M3 values [r, c] and F32 scales [ceil(r / block), ceil(c / block)]."""
    rows, columns = weight.shape
    up = [-(-n // block) for n in (rows, columns)]
    padded = torch.zeros(up[0] * block, up[1] * block)
    padded[:rows, :columns] = weight.float()
    tiles = padded.view(up[0], block, up[1], block)
    scale = tiles.abs().amax(dim=(1, 3)).clamp(min=1e-12) / LARGEST
    values = (tiles / scale[:, None, :, None]).reshape(padded.shape)[:rows, :columns]
    return values.to(torch.float8_e4m3fn).contiguous(), scale


def dequantize_block(values: torch.Tensor, scale: torch.Tensor, block: int = BLOCK) -> torch.Tensor:
    """The float32 weight that FP8 values and scales mean."""
    wide = scale.float().repeat_interleave(block, 0).repeat_interleave(block, 1)
    return values.float() * wide[: values.shape[0], : values.shape[1]]


def make_twin(source: Path, target: Path) -> None:
    """Write the twin of `source` into `target`."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if not file.name.startswith("model"):
            shutil.copyfile(file, target / file.name)
    weight_map, kept = {}, []
    for shard in sorted(source.glob("model-*.safetensors")):
        tensors = {}
        with safe_open(shard, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                tensor = opened.get_tensor(name)
                if QUANTIZED.search(name):
                    tensors[name], tensors[name + "_scale_inv"] = quantize_block(tensor)
                else:
                    tensors[name] = tensor
                    if name.endswith(".weight"):
                        kept.append(name.removesuffix(".weight"))
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard.name)
    index = {"metadata": {}, "weight_map": dict(sorted(weight_map.items()))}
    (target / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    config = json.loads((source / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "fp8",
        "fmt": "e4m3",
        "activation_scheme": "dynamic",
        "scale_fmt": "ue8m0",
        "weight_block_size": [BLOCK, BLOCK],
        "modules_to_not_convert": kept,
    }
    (target / "config.json").write_text(json.dumps(config, indent=2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()
    make_twin(arguments.source, arguments.target)


if __name__ == "__main__":
    main()
