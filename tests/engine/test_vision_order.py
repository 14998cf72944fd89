"""Which position llama.cpp gives to a patch: measured, remembered, and known when it changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from interns1_local.engine import vision_order
from interns1_local.engine.vision_order import CACHE_FILE, build_order, build_stamp, measure_order
from interns1_local.errors import LoadError


def shown(rows: list[int]) -> np.ndarray:
    """What the tower gives out when the patches get these rows."""
    values = np.zeros((4, 8), np.float32)
    values[np.arange(4), rows] = 5
    return values.reshape(-1)


def test_the_installed_build_has_the_class_token_last() -> None:
    assert measure_order() == "cls_last"


def test_a_table_in_the_other_order_shows_the_other_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rolled rows in this build stand for straight rows in a build with the class token first."""
    written = vision_order._write

    def write(path: Path, fields: dict[str, object], tensors: dict[str, np.ndarray]) -> None:
        if "v.position_embd.weight" in tensors:
            tensors["v.position_embd.weight"] = np.roll(tensors["v.position_embd.weight"], -1, axis=0)
        written(path, fields, tensors)

    monkeypatch.setattr(vision_order, "_write", write)
    assert measure_order() == "cls_first"


@pytest.mark.parametrize(("rows", "order"), [([0, 1, 2, 3], "cls_last"), ([1, 2, 3, 4], "cls_first")])
def test_orders(rows: list[int], order: str) -> None:
    assert vision_order._order_of(shown(rows)) == order


@pytest.mark.parametrize("rows", [[0, 0, 0, 0], [3, 2, 1, 0], [4, 1, 2, 3], [2, 3, 4, 5]])
def test_an_unknown_order_is_an_error(rows: list[int]) -> None:
    with pytest.raises(LoadError, match="an order that this version does not know"):
        vision_order._order_of(shown(rows))


def test_remembered_for_this_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert build_order(tmp_path / "cache") == "cls_last"
    path = tmp_path / "cache" / CACHE_FILE
    assert json.loads(path.read_text()) == {build_stamp(): "cls_last"}
    assert [entry.name for entry in path.parent.iterdir()] == [CACHE_FILE]
    monkeypatch.setattr(vision_order, "measure_order", lambda: "cls_first")
    assert build_order(tmp_path / "cache") == "cls_last", "not measured again"
    monkeypatch.setattr(vision_order, "build_stamp", lambda: "a newer build")
    assert build_order(tmp_path / "cache") == "cls_first"
    assert json.loads(path.read_text()) == {"a newer build": "cls_first"}


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"x": 1}', "\0\1"])
def test_a_damaged_memory_is_measured_again(tmp_path: Path, content: str) -> None:
    (tmp_path / CACHE_FILE).write_text(content)
    assert build_order(tmp_path) == "cls_last"


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert build_order(tmp_path / "file" / "cache") == "cls_last"
