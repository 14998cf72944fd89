"""The driver: every layout of the same weights gives the same file; wrong checkpoints leave no output."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.errors import BrokenCheckpoint, ConvertError, UnsupportedArchitecture
from convert.hf_to_gguf import Progress, convert
from quant.codec import quantize_rows
from quant.errors import BadTensor, QuantError, UnknownType
from quant.gguf_file import read_metadata
from tests.safetensors_files import decode, encode, from_fp8, to_fp8, write_shards
from tests.tiny import text_tensors, tiny_interns1, tiny_qwen3


def tensor_bytes(path: Path, name: str) -> tuple[str, tuple[int, ...], bytes]:
    tensor = next(tensor for tensor in read_metadata(path).tensors if tensor.name == name)
    return tensor.type, tensor.shape, path.read_bytes()[tensor.offset : tensor.offset + tensor.n_bytes]


def vocab_size(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text())
    return int(config.get("text_config", config)["vocab_size"])


@pytest.mark.parametrize("options", [{"packed": True}, {"old_names": True}, {"shards": 1}, {"vision": False}])
def test_every_layout_gives_the_same_file(options: dict[str, Any], tmp_path: Path) -> None:
    for name, more in (("plain", {}), ("other", options)):
        folder = tiny_interns1(tmp_path / name / "checkpoint", **more)
        convert(folder, tmp_path / name / "model.gguf", type="Q8_0", mmproj=tmp_path / name / "mmproj.gguf", jobs=2)
    for file in ("model.gguf", "mmproj.gguf")[: 1 if "vision" in options else 2]:
        assert (tmp_path / "plain" / file).read_bytes() == (tmp_path / "other" / file).read_bytes()
    assert (tmp_path / "other" / "mmproj.gguf").exists() != ("vision" in options)


def test_transposed_packed_experts(tmp_path: Path) -> None:
    tensors = text_tensors(True, 512, 0, "model.", "lm_head.weight")
    folder = tiny_qwen3(tmp_path / "checkpoint")
    convert(folder, tmp_path / "plain.gguf", type="F32")
    tensors = text_tensors(True, vocab_size(folder), 0, "model.", "lm_head.weight")
    for layer in range(2):
        at = f"model.layers.{layer}.mlp.experts."
        parts = {
            p: np.stack([tensors.pop(f"{at}{e}.{p}_proj.weight").T for e in range(8)]) for p in ("gate", "up", "down")
        }
        tensors[f"{at}gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=2)
        tensors[f"{at}down_proj"] = parts["down"]
    write_shards(folder, {name: encode(value, "BF16") for name, value in tensors.items()}, 1)
    convert(folder, tmp_path / "turned.gguf", type="F32", jobs=1)
    assert (tmp_path / "plain.gguf").read_bytes() == (tmp_path / "turned.gguf").read_bytes()


def test_fp8_equals_its_dequantized_twin(tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", fp8=True)
    convert(folder, tmp_path / "fp8.gguf", type="Q4_K_M", jobs=2)
    names = "model.language_model.", "lm_head.weight"
    weights = text_tensors(True, vocab_size(folder), 0, *names)
    twin = from_fp8(to_fp8({name: encode(value, "BF16") for name, value in weights.items()}))
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    (folder / "config.json").write_text(json.dumps(config))
    write_shards(folder, twin, 2)
    convert(folder, tmp_path / "twin.gguf", type="Q4_K_M", jobs=2)
    assert (tmp_path / "fp8.gguf").read_bytes() == (tmp_path / "twin.gguf").read_bytes()


@pytest.mark.parametrize("scale_dtype", ["F32", "BF16"])
@pytest.mark.parametrize(
    ("place", "block"), [("config", (64, 32)), ("text_config", (128, 64)), ("config", (48, 96)), ("config", (1, 256))]
)
def test_fp8_blocks_are_those_of_the_config(
    place: str, block: tuple[int, int], scale_dtype: str, tmp_path: Path
) -> None:
    """To float32 exactly: 4 bits of value and 24 (8) of scale do not fit into BF16."""
    folder = tiny_interns1(tmp_path / "checkpoint", vision=False)
    names = "model.language_model.", "lm_head.weight"
    plain = {n: encode(v, "BF16") for n, v in text_tensors(True, vocab_size(folder), 0, *names).items()}
    scaled = to_fp8(plain, block, scale_dtype)
    settings = {"quantization_config": {"quant_method": "fp8", "weight_block_size": list(block)}}
    for tensors, more, file in ((from_fp8(scaled, block), {}, "twin.gguf"), (scaled, settings, "fp8.gguf")):
        write_shards(folder, tensors, 2)
        (change_top if place == "config" else change_config)(folder, **more)
        convert(folder, tmp_path / file, type="F32", jobs=1)
    assert (tmp_path / "fp8.gguf").read_bytes() == (tmp_path / "twin.gguf").read_bytes()
    values = decode(from_fp8(scaled, block)["model.language_model.layers.0.self_attn.q_proj.weight"])
    assert not np.array_equal(values, decode(encode(values, "BF16")))


def test_experts_are_stacked_in_order(tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", vision=False, dtype="F32")
    report = convert(folder, tmp_path / "model.gguf", type="Q4_K_M")
    weights = text_tensors(True, vocab_size(folder), 0, "", "lm_head.weight")
    stacked = np.concatenate([weights[f"layers.1.mlp.experts.{e}.down_proj.weight"] for e in range(8)])
    type, shape, data = tensor_bytes(tmp_path / "model.gguf", "blk.1.ffn_down_exps.weight")
    assert (shape, data) == ((8, 256, 256), quantize_rows(stacked, type).tobytes())
    assert report.mmproj is None and report.model.n_bytes == (tmp_path / "model.gguf").stat().st_size
    assert sum(report.model.types.values()) == 27


def test_progress_counts_the_bytes_of_both_files(tmp_path: Path) -> None:
    seen: list[Progress] = []
    folder = tiny_interns1(tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", mmproj=tmp_path / "v.gguf", progress=seen.append)
    expected = sum(t.n_bytes for file in ("m.gguf", "v.gguf") for t in read_metadata(tmp_path / file).tensors)
    assert (seen[0].bytes_done, seen[-1].bytes_done, seen[-1].bytes_total) == (0, expected, expected)
    assert seen[-1].tensors_done == seen[-1].tensors_total == 27 + 46


# --- errors ---


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["text_config"].update(changes)
    path.write_text(json.dumps(config))


def change_top(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    tensors = text_tensors(True, vocab_size(folder), 0, "model.language_model.", "lm_head.weight")
    edit(tensors)
    write_shards(folder, {name: encode(value, "F32") for name, value in tensors.items()}, 2)


NORM = "model.language_model.layers.1.input_layernorm.weight"
EXPERT = "model.language_model.layers.1.mlp.experts.5.up_proj.weight"


def nan(tensors: dict[str, Any]) -> None:
    tensors[EXPERT][3, 3] = np.nan


def infinity(tensors: dict[str, Any]) -> None:
    tensors[NORM][3] = -np.inf


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: rewrite(f, nan), BadTensor, rf"blk\.1\.ffn_up_exps.*{EXPERT} in .*-of-00002.safetensors.* infinity"),
        (
            lambda f: rewrite(f, infinity),
            BadTensor,
            rf"blk\.1\.attn_norm.*{NORM} in .*-of-00002.safetensors.* infinity",
        ),
        (lambda f: rewrite(f, lambda t: t.pop(EXPERT)), BrokenCheckpoint, f"Tensor {EXPERT} is missing"),
        (lambda f: rewrite(f, lambda t: t.pop("lm_head.weight")), BrokenCheckpoint, "Tensor lm_head.weight is missing"),
        (
            lambda f: rewrite(f, lambda t: t.update({NORM: np.ones(255)})),
            BrokenCheckpoint,
            rf"{NORM} .*\[255\].*\[256\]",
        ),
        (lambda f: rewrite(f, lambda t: t.update(x=np.ones(3))), BrokenCheckpoint, "no place for tensor x"),
        (
            lambda f: rewrite(f, lambda t: t.pop("model.language_model.embed_tokens.weight")),
            BrokenCheckpoint,
            "no token embedding",
        ),
        (lambda f: change_top(f, architectures=["GPT2LMHeadModel"]), UnsupportedArchitecture, "GPT2LMHeadModel cannot"),
        (lambda f: change_top(f, text_config=None), BrokenCheckpoint, "no text_config"),
        (lambda f: change_config(f, architectures=["Llama"]), UnsupportedArchitecture, "text model Llama"),
        (lambda f: change_config(f, hidden_act="gelu"), UnsupportedArchitecture, "hidden_act is 'gelu'"),
        (lambda f: change_config(f, mlp_only_layers=[1]), UnsupportedArchitecture, "mlp_only_layers"),
        (lambda f: change_config(f, hidden_size="x"), BrokenCheckpoint, "hidden_size is 'x'; a count"),
        (lambda f: change_config(f, rope_scaling={"rope_type": "x"}), UnsupportedArchitecture, "rope scaling 'x'"),
        (lambda f: change_config(f, num_experts=9), BrokenCheckpoint, r"mlp\.gate\.weight"),
        (lambda f: change_top(f, quantization_config={"quant_method": "gptq"}), None, ""),
    ],
)
def test_errors_leave_no_output(
    damage: Callable[[Path], None], error: type[Exception] | None, message: str, tmp_path: Path
) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", vision=False)
    damage(folder)
    if error is None:
        convert(folder, tmp_path / "out" / "model.gguf")  # nothing in it is FP8: the setting does not matter
        return
    with pytest.raises(error, match=message):
        convert(folder, tmp_path / "out" / "model.gguf")
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"quant_method": "gptq"}, UnsupportedArchitecture, "quantized with 'gptq'"),
        ({"quant_method": "fp8", "weight_block_size": [1]}, BrokenCheckpoint, "two counts"),
        ({"quant_method": "fp8", "weight_block_size": [64, 64]}, BrokenCheckpoint, "blocks of 64x64"),
    ],
)
def test_fp8_errors(settings: dict[str, Any], error: type[Exception], message: str, tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", vision=False, fp8=True)
    change_top(folder, quantization_config=settings)
    with pytest.raises(error, match=message):
        convert(folder, tmp_path / "model.gguf")


def test_fp8_without_its_scale(tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint", vision=False)
    tensors = text_tensors(True, vocab_size(folder), 0, "model.language_model.", "lm_head.weight")
    encoded = to_fp8({name: encode(value, "F32") for name, value in tensors.items()})
    write_shards(folder, {n: t for n, t in encoded.items() if not n.endswith("_scale_inv")}, 1)
    (folder / "model.safetensors.index.json").unlink()
    with pytest.raises(BrokenCheckpoint, match="go together"):
        convert(folder, tmp_path / "model.gguf")


def test_bad_arguments(tmp_path: Path) -> None:
    folder = tiny_interns1(tmp_path / "checkpoint")
    with pytest.raises(UnknownType, match="Did you mean Q4_K_M"):
        convert(folder, tmp_path / "m.gguf", type="q4_km")
    with pytest.raises(ConvertError, match="importance matrix"):
        convert(folder, tmp_path / "m.gguf", type="IQ2_XS")
    with pytest.raises(ConvertError, match="cannot both"):
        convert(folder, tmp_path / "m.gguf", mmproj=tmp_path / "m.gguf")
    with pytest.raises(QuantError, match="An mmproj file can be"):
        convert(folder, tmp_path / "m.gguf", mmproj=tmp_path / "v.gguf", mmproj_type="Q4_K_M")
    assert not list(tmp_path.glob("*.gguf"))
