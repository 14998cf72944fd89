"""Rows <-> bytes: the same bytes as libggml's own encoders and the gguf package, and the checks on values."""

from __future__ import annotations

import ctypes

import gguf
import numpy as np
import pytest

from quant import libggml
from quant.codec import dequantize_rows, quantize_rows
from quant.errors import BadTensor, UnknownType
from quant.ggml_types import TYPES, ggml_type

ENCODERS = {
    "Q4_0": "quantize_q4_0",
    "Q4_1": "quantize_q4_1",
    "Q5_0": "quantize_q5_0",
    "Q5_1": "quantize_q5_1",
    "Q8_0": "quantize_q8_0",
    "Q2_K": "quantize_q2_K",
    "Q3_K": "quantize_q3_K",
    "Q4_K": "quantize_q4_K",
    "Q5_K": "quantize_q5_K",
    "Q6_K": "quantize_q6_K",
    "IQ4_NL": "quantize_iq4_nl",
    "IQ4_XS": "quantize_iq4_xs",
}


def sample(n_rows: int = 3, columns: int = 512) -> np.ndarray:
    rng = np.random.default_rng(7)
    rows = rng.standard_normal((n_rows, columns)).astype(np.float32)
    rows[-1] = 0
    rows[0] *= 100
    return rows


@pytest.mark.parametrize("with_imatrix", [False, True])
@pytest.mark.parametrize("name", ENCODERS)
def test_bytes_equal_libggml(name: str, with_imatrix: bool) -> None:
    rows = sample()
    imatrix = np.linspace(0.1, 2, rows.shape[1], dtype=np.float32) if with_imatrix else None
    encode = ctypes.CDLL(str(libggml.library_path()))[ENCODERS[name]]
    encode.restype = ctypes.c_size_t
    encode.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    expected = np.zeros((len(rows), ggml_type(name).row_bytes(rows.shape[1])), np.uint8)
    weights = None if imatrix is None else imatrix.ctypes.data
    encode(rows.ctypes.data, expected.ctypes.data, len(rows), rows.shape[1], weights)
    assert np.array_equal(quantize_rows(rows, name, imatrix), expected)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", "Q4_0", "Q5_0", "Q8_0"])
def test_bytes_equal_the_gguf_package(name: str) -> None:
    rows = sample()
    expected = gguf.quants.quantize(rows, gguf.GGMLQuantizationType[name])
    assert quantize_rows(rows, name).tobytes() == expected.tobytes()


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", *ENCODERS])
def test_decoding_equals_the_gguf_package(name: str) -> None:
    rows = sample()
    data = quantize_rows(rows, name)
    expected = gguf.quants.dequantize(data, gguf.GGMLQuantizationType[name])
    decoded = dequantize_rows(data, name, rows.shape[1])
    assert np.allclose(decoded, expected.reshape(rows.shape), rtol=1e-6, atol=1e-6)


def test_type_table_equals_the_gguf_package() -> None:
    # The package is older than this type; the decoder holds it against libggml's own table.
    assert dequantize_rows(np.zeros(TYPES["Q2_0"].block_bytes, np.uint8), "Q2_0", 64).shape == (1, 64)
    for name, kind in TYPES.items():
        if name == "Q2_0":
            continue
        number = gguf.GGMLQuantizationType[name]
        assert (kind.id, kind.block_size, kind.block_bytes) == (number.value, *gguf.GGML_QUANT_SIZES[number])


@pytest.mark.parametrize(
    ("value", "type", "message"),
    [
        (np.nan, "Q4_K", "NaN or infinity .*row 1"),
        (np.inf, "F32", "NaN or infinity"),
        (-np.inf, "Q8_0", "NaN or infinity"),
        (70000.0, "F16", "does not fit into F16"),
    ],
)
def test_bad_values(value: float, type: str, message: str) -> None:
    rows = np.zeros((2, 256), np.float32)
    rows[1, 3] = value
    with pytest.raises(BadTensor, match=message):
        quantize_rows(rows, type)


def test_bad_shapes_and_names() -> None:
    with pytest.raises(BadTensor, match="multiple of Q4_K's block of 256"):
        quantize_rows(np.zeros((1, 128), np.float32), "Q4_K")
    with pytest.raises(BadTensor, match="must be a matrix"):
        quantize_rows(np.zeros(256, np.float32), "Q4_K")
    with pytest.raises(BadTensor, match="needs an importance matrix"):
        quantize_rows(np.zeros((1, 256), np.float32), "IQ2_XXS")
    with pytest.raises(BadTensor, match="256 columns"):
        quantize_rows(np.zeros((1, 256), np.float32), "Q4_K", np.ones(3, np.float32))
    with pytest.raises(BadTensor, match="not whole rows"):
        dequantize_rows(np.zeros(35, np.uint8), "Q8_0", 32)
    with pytest.raises(UnknownType, match="Did you mean Q4_K"):
        quantize_rows(np.zeros((1, 256), np.float32), "Q4K")


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_library_names_end_as_the_system_wants(platform: str) -> None:
    ending = {"linux": (".so.0", ".so"), "darwin": (".dylib",), "win32": (".dll",)}[platform]
    assert all(name.endswith(ending) for name in libggml.library_names(platform))
