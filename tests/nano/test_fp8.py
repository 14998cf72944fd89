"""The FP8 twin of the shipped checkpoint converts to what its dequantized weights convert to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from convert.hf_to_gguf import convert
from interns1_local.nano import CHECKPOINT
from quant.gguf_file import read_metadata
from tests.nano.fp8_twin import dequantize_block, make_twin


def dequantize_twin(twin: Path, target: Path) -> None:
    """The twin as a plain float32 checkpoint, by the formula of the format."""
    target.mkdir()
    for file in CHECKPOINT.iterdir():
        if not file.name.startswith("model"):
            (target / file.name).write_bytes(file.read_bytes())
    tensors = {}
    for shard in sorted(twin.glob("model-*.safetensors")):
        with safe_open(shard, framework="pt") as opened:
            names = set(opened.keys())
            for name in names:
                if name.endswith("_scale_inv"):
                    continue
                tensor = opened.get_tensor(name)
                if name + "_scale_inv" in names:
                    tensor = dequantize_block(tensor, opened.get_tensor(name + "_scale_inv"))
                tensors[name] = tensor.float().contiguous()
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("type_name", ["F32", "Q8_0"])
def test_twin_equals_its_dequantized_self(type_name: str, tmp_path: Path) -> None:
    twin, plain = tmp_path / "twin", tmp_path / "plain"
    make_twin(CHECKPOINT, twin)
    dequantize_twin(twin, plain)
    written = []
    for folder in (twin, plain):
        path = folder / "model.gguf"
        convert(folder, path, type=type_name)
        data = np.memmap(path, np.uint8, "r")
        tensors = read_metadata(path).tensors
        written.append({t.name: (t.type, bytes(data[t.offset : t.offset + t.n_bytes])) for t in tensors})
    assert written[0] == written[1]
