"""The native kernels: libggml's bytes at every CPU level, the self-check, and life without the library."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from quant import codec, kernels, libggml
from quant.errors import BadTensor, UnknownType
from quant.ggml_types import ggml_type
from quant.kernels import self_check
from quant.kernels.library import KERNEL_TYPES, Library, installed

ROOT = Path(__file__).parents[2]
FOLDER = "quant/kernels"


@pytest.fixture(scope="session")
def native(tmp_path_factory: pytest.TempPathFactory) -> Library | None:
    """The kernels of this checkout, built as an install builds them. None: not on this machine."""
    sources = [ROOT / "setup.py", *(ROOT / FOLDER / "native").iterdir()]
    ready = installed(ROOT / FOLDER)
    if ready and ready.path.stat().st_mtime >= max(source.stat().st_mtime for source in sources):
        return ready
    target = tmp_path_factory.mktemp("native")
    folders = ["--build-lib", str(target), "--build-temp", str(target / "objects")]
    subprocess.run([sys.executable, "setup.py", "-q", "build_ext", *folders], cwd=ROOT, check=True, capture_output=True)
    return installed(target / FOLDER)


def libggml_bytes(name: str, rows: np.ndarray, imatrix: np.ndarray | None) -> np.ndarray:
    kind = ggml_type(name)
    out = np.empty((len(rows), kind.row_bytes(rows.shape[1])), np.uint8)
    libggml.quantize_chunk(kind, rows, out, imatrix)
    return out


def imatrices(columns: int) -> Iterator[tuple[str, np.ndarray | None]]:
    rng = np.random.default_rng(columns)
    weights = rng.exponential(1, columns)
    yield "none", None
    yield "positive", weights.astype(np.float32)
    yield "half zero", np.where(rng.random(columns) < 0.5, 0, weights).astype(np.float32)
    yield "nearly all zero", np.where(rng.random(columns) < 0.95, 0, weights).astype(np.float32)
    yield "zero", np.zeros(columns, np.float32)
    yield "wide", np.exp(6 * rng.standard_normal(columns)).astype(np.float32)


def samples(columns: int) -> Iterator[tuple[str, np.ndarray]]:
    rng = np.random.default_rng(columns + 1)
    normal = rng.standard_normal((2, columns))
    yield "normal", normal
    yield "weights rounded to bf16", (normal.astype(np.float32) * np.float32(0.02)).view(np.uint32) & 0xFFFF0000
    yield "positive", np.abs(normal)
    yield "negative", -np.abs(normal)
    yield "zero", np.zeros_like(normal)
    yield "half zero", np.where(np.arange(columns) % 2, normal, 0)
    yield "zero blocks", np.where(np.arange(columns) < columns // 2 + 16, normal, 0)
    yield "one value a block", np.where(np.arange(columns) % 64 == 5, 1, 0) * np.ones((2, 1))
    for value in (1, -1, 0.3, -0.3):
        yield f"constant {value}", np.full_like(normal, value)
    for scale in (1e-42, 1e-38, 1e-30, 1e-20, 1e-15, 1e-9, 1e-5, 1e4, 1e10, 1e19, 1e30):
        yield f"times {scale:g}", normal * scale
    yield "heavy tail", rng.standard_cauchy(normal.shape)
    yield "very heavy tail", np.exp(8 * normal) * rng.choice([-1, 1], normal.shape)
    yield "a size for each block", normal * np.exp(rng.uniform(-80, 20, (2, columns // 32))).repeat(32, axis=1)
    yield "integers", rng.integers(-4, 5, normal.shape)
    yield "two values", rng.choice([-1, 1], normal.shape)
    yield "far from zero", normal * 1e-3 + 5
    yield "nearly constant", normal * 1e-6 - 5


def floats(sample: np.ndarray) -> np.ndarray:
    return sample.view(np.float32) if sample.dtype == np.uint32 else sample.astype(np.float32)


@pytest.mark.parametrize("name", KERNEL_TYPES)
@pytest.mark.parametrize("columns", [256, 1280])
def test_bytes_equal_libggml(native: Library | None, name: str, columns: int) -> None:
    different = []
    for sample, values in samples(columns):
        rows = floats(values)
        for weighting, imatrix in imatrices(columns):
            expected = libggml_bytes(name, rows, imatrix)
            different += [
                (level, sample, weighting)
                for level in (native.levels if native else ())
                if not np.array_equal(native.quantize(ggml_type(name), rows, imatrix, level), expected)
            ]
    assert not different


@pytest.mark.parametrize("name", KERNEL_TYPES)
def test_bytes_equal_libggml_on_any_number_of_blocks(native: Library | None, name: str) -> None:
    kind = ggml_type(name)
    # Work goes in pieces of 4096 values, seen as 4, 8 or 16 lanes: full and broken pieces, rows across their borders.
    shapes = [(n, 256) for n in (1, 2, 3, 15, 16, 17)] + [(7, 768), (3, 4096), (2, 5120), (1, 8192)]
    if kind.block_size == 32:
        shapes += [(1, 32), (5, 96), (3, 4128)]
    for seed, shape in enumerate(shapes):
        rng = np.random.default_rng(seed)
        rows = (rng.standard_t(4, shape) * 0.02).astype(np.float32)
        for imatrix in (None, rng.exponential(1, shape[1]).astype(np.float32)):
            expected = libggml_bytes(name, rows, imatrix)
            for level in native.levels if native else ():
                assert np.array_equal(native.quantize(kind, rows, imatrix, level), expected), (shape, level)


@pytest.mark.parametrize("name", KERNEL_TYPES)
def test_values_that_are_no_numbers_do_no_harm(native: Library | None, name: str) -> None:
    rows = np.zeros((4, 512), np.float32)
    rows[0, 3], rows[1, 300], rows[2, :], rows[3, ::7] = np.nan, np.inf, -np.inf, 3e38
    for level in native.levels if native else ():
        for imatrix in (None, np.ones(512, np.float32), np.full(512, np.nan, np.float32)):
            assert native.quantize(ggml_type(name), rows, imatrix, level).shape[0] == 4


def test_a_machine_that_can_build_has_kernels(native: Library | None) -> None:
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler and sys.platform == "linux" and np.dtype(np.intp).itemsize == 8 and _is_x86():
        assert native is not None and native.levels[0] == "plain"


def _is_x86() -> bool:
    return subprocess.run(["uname", "-m"], capture_output=True, text=True).stdout.strip() == "x86_64"


def test_codec_uses_what_is_available(monkeypatch: pytest.MonkeyPatch, native: Library | None) -> None:
    rows = np.random.default_rng(5).standard_normal((3, 512)).astype(np.float32)
    with_kernels = {name: codec.quantize_rows(rows, name) for name in KERNEL_TYPES}
    monkeypatch.setattr(kernels, "_found", (None, ()))
    assert kernels.available() == ()
    for name in KERNEL_TYPES:
        assert np.array_equal(codec.quantize_rows(rows, name), with_kernels[name])
    if native:
        monkeypatch.setattr(kernels, "_found", (native, KERNEL_TYPES))
        for name in KERNEL_TYPES:
            assert np.array_equal(kernels.quantize(name, rows), with_kernels[name])


def test_wrong_requests(monkeypatch: pytest.MonkeyPatch, native: Library | None) -> None:
    monkeypatch.setattr(kernels, "_found", (native, ("Q4_K",) if native else ()))
    with pytest.raises(UnknownType, match="no native kernel 'Q8_0'"):
        kernels.quantize("Q8_0", np.zeros((1, 256), np.float32))
    if native:
        with pytest.raises(BadTensor, match="multiple of Q4_K's block of 256"):
            kernels.quantize("Q4_K", np.zeros((1, 128), np.float32))
        with pytest.raises(BadTensor, match="rows have 256 columns"):
            kernels.quantize("Q4_K", np.zeros((1, 256), np.float32), np.ones(3, np.float32))
        assert kernels.quantize("q4_k", np.zeros((0, 256), np.float32)).shape == (0, 144)


@pytest.mark.parametrize("content", [None, b"", b"not a library"])
def test_a_missing_or_broken_library_is_no_library(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "_native.so").write_bytes(content)
    assert installed(tmp_path) is None
    assert kernels._checked(installed(tmp_path)) == (None, ())


class WrongLibrary(Library):
    """Kernels with one wrong byte in Q5_K."""

    def quantize(self, kind, rows, imatrix=None, level=""):  # type: ignore[no-untyped-def]
        out = super().quantize(kind, rows, imatrix, level)
        if kind.name == "Q5_K":
            out[-1, -1] ^= 1
        return out


def test_self_check_is_asked_once_and_kept(tmp_path: Path, native: Library | None) -> None:
    if native is None:
        return
    assert self_check.trusted_types(native, tmp_path / "new") == KERNEL_TYPES
    (answer,) = (tmp_path / "new").iterdir()
    assert json.loads(answer.read_text())["types"] == list(KERNEL_TYPES)
    answer.write_text(json.dumps({"types": ["Q6_K", "of another version"]}))
    assert self_check.trusted_types(native, tmp_path / "new") == ("Q6_K",)
    for broken in ("", "[]", '{"types": 3}'):
        answer.write_text(broken)
        assert self_check.trusted_types(native, tmp_path / "new") == KERNEL_TYPES
    (tmp_path / "file").write_text("a file where the folder should be")
    assert self_check.trusted_types(native, tmp_path / "file") == KERNEL_TYPES


def test_kernels_that_differ_are_not_used(
    isolated_home: Path, monkeypatch: pytest.MonkeyPatch, native: Library | None
) -> None:
    if native is None:
        return
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    wrong = WrongLibrary(native.path)
    with pytest.warns(RuntimeWarning, match="kernels for Q5_K differ from libggml"):
        library, types = kernels._checked(wrong)
    assert library is wrong and types == tuple(name for name in KERNEL_TYPES if name != "Q5_K")
    assert list((isolated_home / ".cache").rglob("*.json"))


def test_threads_encode_side_by_side(native: Library | None) -> None:
    if native is None:
        return
    rows = np.random.default_rng(6).standard_normal((8, 1024)).astype(np.float32)
    kind, results = ggml_type("Q4_K"), {}
    threads = [threading.Thread(target=lambda i=i: results.update({i: native.quantize(kind, rows)})) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(np.array_equal(result, results[0]) for result in results.values()) and len(results) == 4
