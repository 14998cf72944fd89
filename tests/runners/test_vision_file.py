"""The vision file that llama.cpp is given suits its order of positions, whoever made the file."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine.llama import Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.sequence import Tile
from interns1_local.errors import LoadError
from interns1_local.runners.model_spec import ModelSpec, read_model_facts
from interns1_local.runners.vision_file import FOLDER, fitting_vision_file
from interns1_local.store.mmproj_repair import Order
from tests.stock_files import positions, stock_mmproj


@pytest.fixture(scope="module")
def stock(tiny_spec: ModelSpec, tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert tiny_spec.mmproj_path is not None
    return stock_mmproj(tiny_spec.mmproj_path, tmp_path_factory.mktemp("stock") / "mmproj.gguf")


def embeddings(spec: ModelSpec, mmproj: Path | None) -> np.ndarray:
    assert mmproj is not None
    model = Model(spec.model_path, ON_CPU)
    encoder = VisionEncoder(mmproj, model, n_threads=1, use_gpu=False)
    pixels = np.random.default_rng(0).integers(0, 256, (56, 56, 3), np.uint8)
    rows = encoder.encode(Tile.of(pixels, encoder.n_tokens(56)))
    encoder.close()
    model.close()
    return rows


def test_a_stock_file_sees_as_ours_does(tiny_spec: ModelSpec, stock: Path, tmp_path: Path) -> None:
    """To the bit; and the unrepaired file sees something else, so the comparison can tell."""
    ours = embeddings(tiny_spec, tiny_spec.mmproj_path)
    with fitting_vision_file(stock, tmp_path) as repaired:
        assert (embeddings(tiny_spec, repaired) == ours).all()
    assert np.abs(embeddings(tiny_spec, stock) - ours).max() > 0.01


@pytest.mark.parametrize("computed", ["cls_last", "cls_first"])
@pytest.mark.parametrize("made_by", ["us", "stock"])
def test_the_file_suits_the_build(
    tiny_spec: ModelSpec, stock: Path, tmp_path: Path, made_by: str, computed: Order
) -> None:
    """A build that is mended upstream gets the checkpoint's own rows, also from a file that was rolled for the old."""
    assert tiny_spec.mmproj_path is not None
    path = stock if made_by == "stock" else tiny_spec.mmproj_path
    wanted = positions(tiny_spec.mmproj_path) if computed == "cls_last" else positions(stock)
    with fitting_vision_file(path, tmp_path, computed) as fitting:
        assert fitting is not None and (positions(fitting) == wanted).all()
        assert (fitting == path) == ((made_by == "us") == (computed == "cls_last")), "no copy without need"


def test_copies_are_kept_and_old_ones_leave(tiny_spec: ModelSpec, stock: Path, tmp_path: Path) -> None:
    with fitting_vision_file(stock, tmp_path, "cls_last") as first:
        assert first is not None
    made = first.stat().st_ino
    old = tmp_path / FOLDER / "old.gguf"
    old.write_bytes(b"")
    os.utime(old, (0, time.time() - 40 * 86400))
    with fitting_vision_file(stock, tmp_path, "cls_last") as second:
        assert second == first and second.stat().st_ino == made and not old.exists()
    first.write_bytes(b"damaged")
    with fitting_vision_file(stock, tmp_path, "cls_last") as third:
        assert third == first and positions(third).shape == (17, 64)


def test_a_folder_that_cannot_be_written(stock: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with fitting_vision_file(stock, tmp_path / "file", "cls_last") as path:
        assert path is not None and path != stock and positions(path).shape == (17, 64)
    assert not path.exists(), "a temporary copy leaves"


def test_no_vision_and_no_file(tmp_path: Path) -> None:
    with fitting_vision_file(None, tmp_path) as path:
        assert path is None
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    for name in ("junk.gguf", "missing.gguf"):
        with pytest.raises(LoadError, match=name), fitting_vision_file(tmp_path / name, tmp_path):
            pass


def test_told(tiny_spec: ModelSpec, stock: Path) -> None:
    assert read_model_facts(tiny_spec.model_path, tiny_spec.mmproj_path).warnings == ()
    warnings = read_model_facts(tiny_spec.model_path, stock).warnings
    assert len(warnings) == 1 and "a repaired copy is used" in warnings[0]
