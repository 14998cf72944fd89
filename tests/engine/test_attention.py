"""When attention is computed without flash attention: one rule for what is computed and for what is planned."""

from __future__ import annotations

import pytest

from interns1_local.engine.attention import LARGEST_SCORES, attends_exactly, tile_rows


@pytest.mark.parametrize(
    ("weights_are_exact", "kv_type", "n_cells", "expected"),
    [
        (True, "f16", 4096, True),
        (True, "f32", 4096, True),
        (True, "f16/f32", 4096, True),
        (True, "q8_0", 4096, False),
        (True, "f16/q8_0", 4096, False),
        (False, "f16", 4096, False),
        # Scores of 512 tokens and 32 heads in 4 bytes each.
        (True, "f16", LARGEST_SCORES // (4 * 512 * 32), True),
        (True, "f16", LARGEST_SCORES // (4 * 512 * 32) + 1, False),
    ],
)
def test_attends_exactly(weights_are_exact: bool, kv_type: str, n_cells: int, expected: bool) -> None:
    assert attends_exactly(weights_are_exact, kv_type, n_cells, 512, 32) is expected


@pytest.mark.parametrize(("kv_type", "expected"), [("f16", 64), ("f32", 64), ("f16/f32", 0), ("q8_0", 0), ("bf16", 0)])
def test_tile_rows(kv_type: str, expected: int) -> None:
    assert tile_rows(kv_type) == expected
