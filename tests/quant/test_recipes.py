"""Which type a tensor gets: a table of cases, and llama.cpp's own quantizer as the judge."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from quant.errors import BadTensor, UnknownType
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create
from quant.recipes import RECIPES, ModelFacts, choose_types, fit_to_row, recipe
from tests.tiny import quiet_llama_cpp

LAYERS = 16
VOCAB = 64


def text_tensors(
    experts: int = 0, hidden: int = 256, kv_heads: int = 1, tied: bool = False
) -> list[tuple[str, tuple[int, ...]]]:
    out: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (VOCAB, hidden)), ("output_norm.weight", (hidden,))]
    if not tied:
        out.append(("output.weight", (VOCAB, hidden)))
    for layer in range(LAYERS):
        at = f"blk.{layer}."
        out += [(f"{at}{name}.weight", (size,)) for name, size in (("attn_norm", hidden), ("ffn_norm", hidden))]
        out += [(f"{at}{name}.weight", (64,)) for name in ("attn_q_norm", "attn_k_norm")]
        out += [(f"{at}attn_q.weight", (256, hidden)), (f"{at}attn_output.weight", (hidden, 256))]
        out += [(f"{at}attn_{part}.weight", (64 * kv_heads, hidden)) for part in "kv"]
        if experts:
            out.append((f"{at}ffn_gate_inp.weight", (experts, hidden)))
        suffix, lead = ("_exps", (experts,)) if experts else ("", ())
        out += [(f"{at}ffn_{part}{suffix}.weight", (*lead, 256, hidden)) for part in ("gate", "up")]
        out.append((f"{at}ffn_down{suffix}.weight", (*lead, hidden, 256)))
    return out


def facts(experts: int = 0, kv_heads: int = 1, **more: bool) -> ModelFacts:
    return ModelFacts("qwen3moe" if experts else "qwen3", LAYERS, experts, 4, kv_heads, **more)


@pytest.mark.parametrize(
    ("name", "tensor", "model", "expected"),
    [
        ("Q4_K_M", "blk.0.attn_v.weight", facts(), "Q6_K"),
        ("Q4_K_M", "blk.2.attn_v.weight", facts(), "Q4_K"),
        ("Q4_K_M", "blk.4.ffn_down.weight", facts(), "Q6_K"),
        ("Q4_K_M", "blk.15.ffn_down.weight", facts(), "Q6_K"),
        ("Q4_K_M", "output.weight", facts(), "Q6_K"),
        ("Q4_K_M", "token_embd.weight", facts(), "Q4_K"),
        ("Q4_K_M", "blk.0.attn_norm.weight", facts(), None),
        ("Q5_K_S", "blk.0.attn_v.weight", facts(), "Q5_K"),
        ("Q3_K_M", "blk.1.attn_v.weight", facts(), "Q5_K"),
        ("Q2_K", "blk.3.attn_v.weight", facts(), "Q4_K"),
        ("Q8_0", "output.weight", facts(), "Q8_0"),
        ("BF16", "blk.0.attn_q.weight", facts(), "BF16"),
        ("F16", "blk.0.ffn_norm.weight", facts(), None),
        ("Q4_0", "output.weight", facts(), "Q6_K"),
    ],
)
def test_types(name: str, tensor: str, model: ModelFacts, expected: str | None) -> None:
    tensors = text_tensors()
    types = choose_types(tensors, recipe(name), model)
    assert types[[n for n, _ in tensors].index(tensor)] == expected


def test_experts_and_ties() -> None:
    def pick(tensors: list[tuple[str, tuple[int, ...]]], model: ModelFacts) -> dict[str, str | None]:
        types = choose_types(tensors, recipe("q4_k_m"), model)
        return {name: type for (name, _), type in zip(tensors, types, strict=True)}

    eight = pick(text_tensors(experts=8), facts(8))
    assert (eight["blk.3.attn_v.weight"], eight["blk.3.attn_k.weight"]) == ("Q8_0", "Q8_0")
    assert eight["blk.3.attn_output.weight"] == "Q5_K"
    assert eight["blk.3.ffn_gate_inp.weight"] is None
    many = pick(text_tensors(experts=16), facts(16))
    assert (many["blk.3.attn_v.weight"], many["blk.3.attn_output.weight"]) == ("Q4_K", "Q4_K")
    assert pick(text_tensors(tied=True), facts())["token_embd.weight"] == "Q6_K"


@pytest.mark.parametrize(
    ("type", "columns", "expected"),
    [("Q4_K", 256, "Q4_K"), ("Q4_K", 96, "Q5_0"), ("Q6_K", 32, "Q8_0"), ("Q3_K", 64, "Q4_0"), ("IQ4_XS", 32, "IQ4_NL"),
     ("Q5_K", 32, "Q5_1"), ("Q8_0", 48, "F16"), ("Q4_K", 48, "F16")],
)  # fmt: skip
def test_rows_that_are_no_whole_blocks(type: str, columns: int, expected: str) -> None:
    assert fit_to_row(type, columns) == expected


def test_aliases() -> None:
    assert [recipe(name).name for name in ("q3_k", "Q4_K", "Q5_K")] == ["Q3_K_M", "Q4_K_M", "Q5_K_M"]


def test_errors() -> None:
    with pytest.raises(UnknownType, match="Did you mean Q4_K_M"):
        recipe("q4km")
    with pytest.raises(BadTensor, match=r"blk\.16"):
        choose_types([("blk.16.ffn_up_exps.weight", (4, 256, 256))], recipe("Q4_K_M"), facts(4))


def write_model(path: Path, tensors: list[tuple[str, tuple[int, ...]]], model: ModelFacts, hidden: int) -> None:
    a = model.architecture
    fields = {
        "general.architecture": a,
        f"{a}.block_count": LAYERS,
        f"{a}.context_length": 128,
        f"{a}.embedding_length": hidden,
        f"{a}.feed_forward_length": 256,
        f"{a}.attention.head_count": model.n_heads,
        f"{a}.attention.head_count_kv": model.n_heads_kv,
        f"{a}.attention.key_length": 64,
        f"{a}.attention.value_length": 64,
        f"{a}.attention.layer_norm_rms_epsilon": 1e-6,
    }
    if model.n_experts:
        fields |= {f"{a}.expert_count": model.n_experts, f"{a}.expert_used_count": 2}
    with create(path, fields, [TensorSpec(name, shape, "F32") for name, shape in tensors]) as out:
        for name, tensor in out.tensors.items():
            out.write(name, 0, np.zeros(tensor.n_bytes, np.uint8).data)


PEER_CASES = [
    *((name, {}) for name, entry in RECIPES.items() if not entry.needs_imatrix),
    *((name, {"kv_heads": 2}) for name in ("Q4_K_M", "Q2_K", "IQ4_XS", "IQ3_M")),
    *((name, {"tied": True}) for name in ("Q4_K_M", "Q8_0")),
    *((name, {"hidden": 288}) for name in ("Q4_K_M", "Q3_K_L", "Q6_K")),
]


@pytest.mark.parametrize(("name", "variant"), PEER_CASES)
def test_llama_cpp_chooses_the_same(name: str, variant: dict[str, int], tmp_path: Path) -> None:
    check_against_llama_cpp(tmp_path, name, 0, variant)


@pytest.mark.parametrize(
    ("name", "experts"),
    [("Q4_K_M", 8), ("Q3_K_L", 8), ("Q6_K", 8), ("IQ4_XS", 2), ("Q4_K_S", 4), ("MXFP4_MOE", 8), ("TQ2_0", 8)],
)
def test_llama_cpp_chooses_the_same_for_experts(name: str, experts: int, tmp_path: Path) -> None:
    check_against_llama_cpp(tmp_path, name, experts, {})


def check_against_llama_cpp(folder: Path, name: str, experts: int, variant: dict[str, int]) -> None:
    llama_cpp = quiet_llama_cpp()
    tensors = text_tensors(experts, **variant)
    model = facts(experts, kv_heads=variant.get("kv_heads", 1))
    write_model(folder / "in.gguf", tensors, model, variant.get("hidden", 256))
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = RECIPES[name].file_type, 1
    source, target = str(folder / "in.gguf").encode(), str(folder / "out.gguf").encode()
    assert llama_cpp.llama_model_quantize(source, target, params) == 0
    theirs = {tensor.name: tensor.type for tensor in read_metadata(folder / "out.gguf").tensors}
    ours = choose_types(tensors, recipe(name), model)
    assert {tensor: type or "F32" for (tensor, _), type in zip(tensors, ours, strict=True)} == theirs
