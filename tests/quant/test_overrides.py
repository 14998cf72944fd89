"""--tensor-type: llama-quantize's choices and bytes, clear errors, and no mixing when a stopped run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from convert.hf_to_gguf import convert, plan_conversion
from quant.errors import BadTensor, QuantError, UnknownType
from quant.ggml_types import ggml_type
from quant.gguf_file import read_metadata
from quant.overrides import ENCODABLE, named_types, parse_override
from quant.recipes import RECIPES, choose_types, recipe, recipe_of_type
from quant.requantize import plan_requantize, requantize
from quant.stream import Progress
from tests.quant.test_recipes import facts, text_tensors, write_model
from tests.quant.test_requantize import tensor_bytes
from tests.tiny import quiet_llama_cpp, tiny_gguf


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, model.gguf (F32) and mmproj.gguf."""
    folder = tmp_path_factory.mktemp("overrides")
    tiny_gguf(folder)
    return folder


def llama_quantize(source: Path, output: Path, type: str, overrides: list[str]) -> None:
    """As llama-quantize does: the pattern in lower case."""
    api = quiet_llama_cpp()
    params = api.llama_model_quantize_default_params()
    entries = (api.llama_model_tensor_override * (len(overrides) + 1))()
    for entry, text in zip(entries, overrides, strict=False):
        pattern, _, name = text.partition("=")
        entry.pattern, entry.type = pattern.lower().encode(), ggml_type(name).id
    params.ftype, params.nthread, params.tt_overrides = RECIPES[type].file_type, 1, entries
    assert api.llama_model_quantize(str(source).encode(), str(output).encode(), params) == 0


@pytest.mark.parametrize(
    ("type", "overrides"),
    [
        ("Q4_K_M", ["attn_v=q8_0"]),
        ("Q4_K_M", [r"blk\.0\.ffn_(up|down)_exps=Q5_K", "ffn=q6_k", "ATTN_K=f16", "output=q4_0"]),
        ("Q8_0", ["token_embd=bf16", "^output$=q4_k", "weight=q6_k"]),
        ("Q4_K_M", ["blk.0.attn_v=iq4_xs", "norm=q8_0"]),
    ],
)
def test_equals_llama_cpp(type: str, overrides: list[str], made: Path, tmp_path: Path) -> None:
    matching = [text for text in overrides if not text.startswith(("norm", "^output$"))]
    llama_quantize(made / "model.gguf", tmp_path / "theirs", type, overrides)
    requantize(made / "model.gguf", tmp_path / "ours", type, tensor_types=matching, jobs=1)
    convert(made / "checkpoint", tmp_path / "direct", type=type, tensor_types=matching, jobs=1)
    assert tensor_bytes(tmp_path / "ours") == tensor_bytes(tmp_path / "theirs") == tensor_bytes(tmp_path / "direct")


@pytest.mark.parametrize(
    ("type", "experts", "hidden"), [("Q4_K_M", 0, 256), ("Q3_K_M", 0, 256), ("Q4_K_M", 4, 256), ("Q4_K_M", 0, 288)]
)
def test_the_others_choose_as_in_llama_cpp(type: str, experts: int, hidden: int, tmp_path: Path) -> None:
    """A tensor with a type of its own is not counted, so the ones after it take its place in the recipe."""
    tensors, model = text_tensors(experts, hidden), facts(experts)
    overrides = [r"blk\.(0|2|7)\.attn_v=q8_0", r"blk\.1\.ffn_down=q3_k", r"blk\.5\.attn_q=q2_k"]
    write_model(tmp_path / "in.gguf", tensors, model, hidden)
    llama_quantize(tmp_path / "in.gguf", tmp_path / "out.gguf", type, overrides)
    theirs = {tensor.name: tensor.type for tensor in read_metadata(tmp_path / "out.gguf").tensors}
    ours = choose_types(tensors, recipe(type), model, named_types(tensors, overrides))
    assert {name: to or "F32" for (name, _), to in zip(tensors, ours, strict=True)} == theirs


def test_rows_that_no_block_fills() -> None:
    tensors = [("a.weight", (64, 96)), ("b.weight", (64, 48)), ("c.weight", (64, 64))]
    assert named_types(tensors, ["c=q2_0", ".=q4_k"]) == {"a.weight": "Q5_0", "b.weight": "F16", "c.weight": "Q2_0"}


def test_the_last_sign_separates() -> None:
    override = parse_override(r"attn_(?=v)\D=Q8_0")
    assert override.type == "Q8_0" and override.pattern.search("blk.0.attn_v.weight")
    assert not {"I32", "F64"} & set(ENCODABLE)


def test_float_recipes_and_copies_take_them_too(made: Path, tmp_path: Path) -> None:
    """llama-quantize leaves them out there without a word."""
    source = made / "model.gguf"
    before = {t.name: t.type for t in read_metadata(source).tensors}
    for type, rest in (("F16", "F16"), ("COPY", "F32")):
        specs = plan_requantize(source, type, tensor_types=["attn_q=q8_0"]).specs
        types = {spec.name: spec.type for spec in specs}
        assert types["blk.1.attn_q.weight"] == "Q8_0" and types["blk.1.attn_k.weight"] == rest
        assert types["blk.1.attn_q_norm.weight"] == before["blk.1.attn_q_norm.weight"] == "F32"


@pytest.mark.parametrize(
    ("override", "error", "message"),
    [
        ("attn_v", QuantError, "write REGEX=TYPE"),
        ("=q8_0", QuantError, "write REGEX=TYPE"),
        ("attn_v=", QuantError, "write REGEX=TYPE"),
        ("attn_(=q8_0", QuantError, "not a regular expression"),
        ("attn_v=q4_k_m", UnknownType, "tensor type 'q4_k_m'. Did you mean Q4_K"),
        ("attn_v=i32", UnknownType, "no tensor type 'i32'"),
        ("attn_w=q8_0", BadTensor, "'attn_w=q8_0' matches no tensor"),
        ("norm=q8_0", BadTensor, "matches no tensor that may change"),
        ("attn_v=iq2_xs", BadTensor, "IQ2_XS for tensor blk.0.attn_v.weight needs an importance matrix"),
    ],
)
def test_mistakes(override: str, error: type[QuantError], message: str, made: Path, tmp_path: Path) -> None:
    with pytest.raises(error, match=message):
        requantize(made / "model.gguf", tmp_path / "out", "Q8_0", tensor_types=["attn_k=q8_0", override])
    with pytest.raises(error, match=message):
        convert(made / "checkpoint", tmp_path / "out", tensor_types=["attn_k=q8_0", override])
    assert not list(tmp_path.glob("*out*"))


def test_an_mmproj_file(made: Path, tmp_path: Path) -> None:
    requantize(made / "mmproj.gguf", tmp_path / "out", "F16", tensor_types=["attn_q=q8_0"])
    types = {tensor.name: tensor.type for tensor in read_metadata(tmp_path / "out").tensors}
    assert types["v.blk.0.attn_q.weight"] == "Q8_0" and types["v.blk.0.attn_k.weight"] == "F16"
    with pytest.raises(BadTensor, match="mmproj file can be"):
        requantize(made / "mmproj.gguf", tmp_path / "no", "F16", tensor_types=["attn_q=q4_0"])


@pytest.mark.parametrize(
    ("first", "second", "continues"),
    [
        (["ffn=q6_k"], ["ffn=q6_k"], True),
        ([], ["attn_v=q8_0"], True),  # what the recipe gives anyway
        (["ffn=q6_k"], ["ffn=q5_k"], False),
        ([], ["blk.1.attn_v=q6_k"], False),
    ],
)
@pytest.mark.parametrize("split", [None, 200_000])
def test_a_stopped_run(
    first: list[str], second: list[str], continues: bool, split: int | None, made: Path, tmp_path: Path
) -> None:
    """Files with other types are made anew; a part whose types have not changed may go on."""

    def stop(progress: Progress) -> None:
        if progress.tensors_done >= 12:
            raise KeyboardInterrupt

    def run(name: str, overrides: list[str], **more: object) -> None:
        requantize(
            made / "model.gguf",
            tmp_path / name / "m.gguf",
            "Q4_K_M",
            tensor_types=overrides,
            split_max_bytes=split,
            jobs=1,
            **more,  # type: ignore[arg-type]
        )

    seen: list[Progress] = []
    with pytest.raises(KeyboardInterrupt):
        run("out", first, progress=stop)
    run("out", second, progress=seen.append)
    run("fresh", second)
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "fresh").iterdir()}
    if split is None:
        assert (seen[0].tensors_done >= 12) is continues


def test_the_plan_of_a_conversion_shows_it(made: Path) -> None:
    plan = plan_conversion(made / "checkpoint", Path("m.gguf"), type="Q4_K_M", tensor_types=["attn_output=f16"])
    types = {spec.name: spec.type for spec in plan.files[0].tensors}
    assert types["blk.0.attn_output.weight"] == "F16" and types["blk.0.attn_q.weight"] == "Q4_K"


def test_the_recipe_that_is_named_after_a_type() -> None:
    expected = {"Q4_K": "Q4_K_M", "Q3_K": "Q3_K_M", "Q6_K": "Q6_K", "IQ2_S": "IQ2_M", "IQ2_XS": "IQ2_XS", "F16": "F16"}
    assert {type: recipe_of_type(type).name for type in expected} == expected
    # A type with no recipe of its own gets one of about as many bits.
    assert recipe_of_type("NVFP4").default in ("Q4_0", "Q4_K", "IQ4_NL")
