"""Vision files of the stock converter are repaired when they are stored; others are left alone."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from interns1_local.errors import BadRequest
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.manifest import PROJECTOR, Layer, Manifest
from interns1_local.store.mmproj_repair import ANNOTATION, SOURCE_KEY, missing_keys, needs_repair, reorder
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from quant.gguf_file import read_metadata
from tests.stock_files import POSITIONS, positions, stock_mmproj, stock_model, tensor_bytes
from tests.tiny import tiny_gguf, vision_tensors

NEW = ModelName.parse("new")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return tiny_gguf(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stock(ours: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stock")
    return stock_model(ours[0], folder / "model.gguf"), stock_mmproj(ours[1], folder / "mmproj.gguf")


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def statuses(store: ModelStore, plan: ModelPlan) -> list[str]:
    seen: list[dict[str, Any]] = []
    create(store, NEW, plan, seen.append)
    return [status["status"] for status in seen]


def test_the_stock_file_has_the_rows_of_the_checkpoint(stock: tuple[Path, Path]) -> None:
    table = vision_tensors(56, 1)["model.vision_tower.embeddings.position_embeddings"][0]
    assert np.allclose(positions(stock[1]), table, atol=0.01)
    assert needs_repair(read_metadata(stock[1]))


def test_stored_repaired(store: ModelStore, ours: tuple[Path, Path], stock: tuple[Path, Path], tmp_path: Path) -> None:
    processor = tmp_path / "preprocessor_config.json"
    processor.write_text(json.dumps({"min_patches": 2, "max_patches": 7}))
    texts = statuses(store, ModelPlan(files={path.name: path for path in (*stock, processor)}))
    assert any(text.startswith("repairing the vision file") for text in texts)
    model = store.resolve(NEW)
    assert model.mmproj_path is not None
    assert tensor_bytes(model.mmproj_path) == tensor_bytes(ours[1])
    fields = read_metadata(model.mmproj_path).fields
    digest = f"sha256:{hashlib.sha256(stock[1].read_bytes()).hexdigest()}"
    expected = {
        "interns1.mmproj.cls_last": True, SOURCE_KEY: digest, "interns1.vision.min_patches": 2,
        "interns1.vision.max_patches": 7, "clip.vision.preproc_max_tiles": 7, "interns1.vision.use_thumbnail": True,
    }  # fmt: skip
    assert {key: fields[key] for key in expected} == expected
    layer = model.manifest.of_type(PROJECTOR)[0]
    assert layer.extra == {"annotations": {ANNOTATION: digest}}
    kept = {key: value for key, value in read_metadata(stock[1]).raw_fields().items()}
    assert kept.items() <= read_metadata(model.mmproj_path).raw_fields().items()
    assert not any(path.name.endswith("-partial") for path in store.root.rglob("*"))


def test_ours_is_left_alone(store: ModelStore, ours: tuple[Path, Path]) -> None:
    texts = statuses(store, ModelPlan(files={path.name: path for path in ours}))
    assert not any("repairing" in text for text in texts)
    path = store.resolve(NEW).mmproj_path
    assert path is not None and path.read_bytes() == ours[1].read_bytes()


def test_from_a_model_that_others_stored(store: ModelStore, ours: tuple[Path, Path], stock: tuple[Path, Path]) -> None:
    base = create(store, ModelName.parse("base"), ModelPlan(files={"m.gguf": stock[0]}))
    digest, size = store.blobs.add_file(stock[1])
    store.write(base.name, Manifest(base.manifest.config, (*base.manifest.layers, Layer(PROJECTOR, digest, size))))
    statuses(store, ModelPlan(base=store.resolve("base"), system="S"))
    path = store.resolve(NEW).mmproj_path
    assert path is not None and (positions(path) == positions(ours[1])).all()
    assert store.resolve("base").mmproj_path == store.blobs.path(digest)


def foreign(path: Path, projector: str, *, rows: int = 17, positions: bool = True) -> Path:
    writer = gguf.GGUFWriter(path, "clip")
    writer.add_string("clip.projector_type", projector)
    writer.add_uint32("clip.vision.image_size", 56)
    writer.add_uint32("clip.vision.patch_size", 14)
    writer.add_tensor("v.class_embd", np.zeros(32, np.float32))
    if positions:
        writer.add_tensor(POSITIONS, np.zeros((rows, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_other_towers_are_left_alone(store: ModelStore, stock: tuple[Path, Path], tmp_path: Path) -> None:
    assert not needs_repair(read_metadata(foreign(tmp_path / "none.gguf", "internvl", positions=False)))
    other = foreign(tmp_path / "other.gguf", "llava")
    statuses(store, ModelPlan(files={"m.gguf": stock[0], "p.gguf": other}))
    path = store.resolve(NEW).mmproj_path
    assert path is not None and path.read_bytes() == other.read_bytes()


def test_a_table_of_another_size_is_refused(store: ModelStore, stock: tuple[Path, Path], tmp_path: Path) -> None:
    wrong = foreign(tmp_path / "wrong.gguf", "internvl", rows=16)
    with pytest.raises(BadRequest, match="has 16 positions; pictures of 56 and patches of 14 pixels have 16 and one"):
        create(store, NEW, ModelPlan(files={"m.gguf": stock[0], "p.gguf": wrong}))
    assert store.names() == [] and not any("partial" in path.name for path in store.root.rglob("*"))


def test_there_and_back(ours: tuple[Path, Path], stock: tuple[Path, Path], tmp_path: Path) -> None:
    reorder(ours[1], tmp_path / "first.gguf", "cls_first")
    assert (positions(tmp_path / "first.gguf") == positions(stock[1])).all()
    assert needs_repair(read_metadata(tmp_path / "first.gguf"))
    reorder(tmp_path / "first.gguf", tmp_path / "last.gguf", "cls_last")
    assert tensor_bytes(tmp_path / "last.gguf") == tensor_bytes(ours[1])


@pytest.mark.parametrize(
    "counts", [{"min_patches": 0}, {"max_patches": "12"}, {"min_patches": 9, "max_patches": 3}, {"max_patches": 1e9}]
)
def test_settings_that_make_no_sense(counts: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        missing_keys({}, {f"interns1.vision.{key}": count for key, count in counts.items()})
