"""The table of GGML tensor types: id in GGUF files, block size, bytes per block."""

from __future__ import annotations

from dataclasses import dataclass

from quant.errors import BadTensor, UnknownType


@dataclass(frozen=True, slots=True)
class GGMLType:
    """How a row of values is stored: blocks of `block_size` values in `block_bytes` bytes each."""

    name: str
    id: int
    block_size: int
    block_bytes: int

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.block_bytes / self.block_size

    @property
    def is_quantized(self) -> bool:
        return self.block_size > 1

    def row_bytes(self, n_values: int) -> int:
        """Bytes of a row; the row must be whole blocks."""
        if n_values % self.block_size:
            raise BadTensor(
                f"A row of {n_values} values is not a multiple of {self.name}'s block of {self.block_size}."
            )
        return n_values // self.block_size * self.block_bytes


_ROWS = (
    ("F32", 0, 1, 4),
    ("F16", 1, 1, 2),
    ("Q4_0", 2, 32, 18),
    ("Q4_1", 3, 32, 20),
    ("Q5_0", 6, 32, 22),
    ("Q5_1", 7, 32, 24),
    ("Q8_0", 8, 32, 34),
    ("Q2_K", 10, 256, 84),
    ("Q3_K", 11, 256, 110),
    ("Q4_K", 12, 256, 144),
    ("Q5_K", 13, 256, 176),
    ("Q6_K", 14, 256, 210),
    ("IQ2_XXS", 16, 256, 66),
    ("IQ2_XS", 17, 256, 74),
    ("IQ3_XXS", 18, 256, 98),
    ("IQ1_S", 19, 256, 50),
    ("IQ4_NL", 20, 32, 18),
    ("IQ3_S", 21, 256, 110),
    ("IQ2_S", 22, 256, 82),
    ("IQ4_XS", 23, 256, 136),
    ("I8", 24, 1, 1),
    ("I16", 25, 1, 2),
    ("I32", 26, 1, 4),
    ("I64", 27, 1, 8),
    ("F64", 28, 1, 8),
    ("IQ1_M", 29, 256, 56),
    ("BF16", 30, 1, 2),
    ("TQ1_0", 34, 256, 54),
    ("TQ2_0", 35, 256, 66),
    ("MXFP4", 39, 32, 17),
    ("NVFP4", 40, 64, 36),
    ("Q1_0", 41, 128, 18),
    ("Q2_0", 42, 64, 18),
)

TYPES: dict[str, GGMLType] = {row[0]: GGMLType(*row) for row in _ROWS}
TYPES_BY_ID: dict[int, GGMLType] = {entry.id: entry for entry in TYPES.values()}


def ggml_type(name: str) -> GGMLType:
    """The type called `name`, in any case."""
    try:
        return TYPES[name.upper()]
    except KeyError:
        raise UnknownType.named("tensor type", name, TYPES) from None
