"""GGUF -> GGUF: the same bytes as a direct conversion and as llama.cpp's quantizer; keys are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from quant.errors import BadTensor, BrokenGGUF, OutputError, UnknownType
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec, create
from quant.recipes import RECIPES
from quant.requantize import requantize
from tests.tiny import quiet_llama_cpp, tiny_gguf


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_gguf(tmp_path_factory.mktemp("source"), type="F32")


def tensor_bytes(path: Path) -> dict[str, tuple[str, bytes]]:
    data = path.read_bytes()
    return {t.name: (t.type, data[t.offset : t.offset + t.n_bytes]) for t in read_metadata(path).tensors}


@pytest.mark.parametrize("type", ["BF16", "Q8_0", "Q4_K_M", "Q6_K"])
def test_equals_a_direct_conversion(type: str, source: tuple[Path, Path], tmp_path: Path) -> None:
    direct, _ = tiny_gguf(tmp_path / "direct", type=type)
    report = requantize(source[0], tmp_path / "out.gguf", type, jobs=2)
    assert (tmp_path / "out.gguf").read_bytes() == direct.read_bytes()
    assert report.n_bytes == direct.stat().st_size and sum(report.types.values()) == 27


@pytest.mark.parametrize("type", ["Q4_K_M", "Q5_K_S", "Q3_K_M", "Q8_0"])
def test_equals_llama_cpp(type: str, source: tuple[Path, Path], tmp_path: Path) -> None:
    llama_cpp = quiet_llama_cpp()
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = RECIPES[type].file_type, 1
    assert llama_cpp.llama_model_quantize(str(source[0]).encode(), str(tmp_path / "theirs").encode(), params) == 0
    requantize(source[0], tmp_path / "ours", type, jobs=1)
    assert tensor_bytes(tmp_path / "ours") == tensor_bytes(tmp_path / "theirs")


def test_from_one_quantized_type_to_another(source: tuple[Path, Path], tmp_path: Path) -> None:
    requantize(source[0], tmp_path / "q8", "Q8_0")
    requantize(tmp_path / "q8", tmp_path / "f32", "F32")
    types = {tensor.type for tensor in read_metadata(tmp_path / "f32").tensors}
    assert types == {"F32"}
    assert read_metadata(tmp_path / "f32").fields["general.file_type"] == 0


def test_what_keeps_its_type_keeps_its_bytes(source: tuple[Path, Path], tmp_path: Path) -> None:
    requantize(source[0], tmp_path / "q4", "Q4_K_M", jobs=1)
    requantize(tmp_path / "q4", tmp_path / "again", "Q4_K", jobs=1)
    requantize(tmp_path / "q4", tmp_path / "copy", "copy", jobs=1)
    assert (tmp_path / "again").read_bytes() == (tmp_path / "q4").read_bytes() == (tmp_path / "copy").read_bytes()


def test_mmproj(source: tuple[Path, Path], tmp_path: Path) -> None:
    requantize(source[1], tmp_path / "out.gguf", "Q8_0")
    types = {tensor.name: tensor.type for tensor in read_metadata(tmp_path / "out.gguf").tensors}
    assert types["v.blk.0.attn_q.weight"] == "Q8_0"
    assert types["v.position_embd.weight"] == types["v.patch_embd.weight"] == types["v.class_embd"] == "F32"
    with pytest.raises(BadTensor, match="An mmproj file can be"):
        requantize(source[1], tmp_path / "out.gguf", "Q4_K_M")


def test_errors(source: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="the file to be read"):
        requantize(source[0], source[0], "Q8_0")
    with pytest.raises(UnknownType):
        requantize(source[0], tmp_path / "out", "Q9")
    with pytest.raises(BadTensor, match="importance matrix"):
        requantize(source[0], tmp_path / "out", "IQ2_XS")
    (tmp_path / "short").write_bytes(source[0].read_bytes()[:-1000])
    with pytest.raises(BrokenGGUF, match="truncated"):
        requantize(tmp_path / "short", tmp_path / "out", "Q8_0")
    with create(tmp_path / "ints", {}, [TensorSpec("w.weight", (32, 32), "I32")]) as out:
        out.write("w.weight", 0, bytes(4096))
    with pytest.raises(BadTensor, match="I32 values"):
        requantize(tmp_path / "ints", tmp_path / "out", "Q8_0")
    assert not (tmp_path / "out").exists()
