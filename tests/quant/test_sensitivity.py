"""Measured errors, their cache, and models fitted to a size; llama.cpp loads what comes out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convert.hf_to_gguf import convert
from interns1_local.nano import CHECKPOINT
from quant import sensitivity
from quant.errors import BadTensor, QuantError
from quant.fit import total_error
from quant.gguf_file import TensorInfo, read_metadata
from quant.gguf_output import TensorSpec, create
from quant.imatrix import load
from quant.recipes import RECIPES, may_convert
from quant.requantize import RequantizePlan, fit_options, plan_fit, requantize, write
from quant.sensitivity import cache_path, candidates, measure, relative_error, sample_rows
from quant.splits import part_path, plan_files, read_model
from quant.stream import Progress
from quant.tensor_reader import TensorReader
from tests.convert.llama_cpp import Llama
from tests.quant.test_imatrix import write_imatrix
from tests.tiny import tiny_gguf

ALWAYS = ["Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]


@pytest.fixture(scope="module")
def nano(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("nano") / "f16.gguf"
    convert(CHECKPOINT, path, type="F16", jobs=1)
    return path


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two matrices in F16; the first columns of `b` are large."""
    random = np.random.default_rng(0)
    values = {name: random.standard_normal((512, 256)).astype(np.float16) for name in ("a.weight", "b.weight")}
    values["b.weight"][:, :8] *= 30
    specs = [TensorSpec(name, rows.shape, "F16") for name, rows in values.items()]
    with create(tmp_path / "small.gguf", {"general.architecture": "llama"}, specs) as out:
        for name, rows in values.items():
            out.write(name, 0, rows.tobytes())
    return tmp_path / "small.gguf"


def small_imatrix(folder: Path) -> Path:
    weights = np.ones((1, 256), np.float32)
    weights[:, :8] = 1e-4
    return write_imatrix(folder / "imatrix.gguf", {"b.weight": (weights, np.ones(1, np.float32))})


def measured(path: Path, imatrix: Path | None = None, **options: Any) -> sensitivity.Errors:
    metadata = read_metadata(path)
    return measure(metadata, metadata.tensors, load(imatrix) if imatrix else None, jobs=1, **options)


# --- what is measured ---


def test_candidates() -> None:
    def types(own: str, columns: int, has_weights: bool = False) -> list[str]:
        return candidates(TensorInfo("w.weight", (4, columns), own, 0, 0), has_weights)

    assert types("F32", 256) == ALWAYS
    assert types("F16", 256) == [*ALWAYS, "F16"]
    assert types("BF16", 512, True) == [*ALWAYS, "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "BF16"]
    assert types("Q6_K", 256) == ALWAYS
    assert types("Q5_K", 96) == ["Q4_0", "IQ4_NL", "Q5_0", "Q5_1", "Q8_0", "Q5_K"]
    assert (types("F32", 48), types("BF16", 48)) == (["F16"], ["BF16"])


@pytest.mark.parametrize(
    ("shape", "values", "matrices", "rows"),
    [((1000, 64), 640, 1, 10), ((100, 4, 64), 10**6, 8, 32), ((2, 3, 64), 10**6, 2, 6), ((9, 64), 1, 1, 1)],
)
def test_rows_at_equal_distances(shape: tuple[int, ...], values: int, matrices: int, rows: int) -> None:
    sample = sample_rows(shape, values)
    assert len(sample) == matrices and sum(len(indices) for _, indices in sample) == rows
    for matrix, indices in sample:
        inside = indices - matrix * shape[-2]
        assert inside.min() >= 0 and inside.max() < shape[-2] and len(set(np.diff(inside))) <= 2
        assert abs((inside.min()) - (shape[-2] - 1 - inside.max())) <= 1


def test_errors_are_those_of_the_decoded_rows(small: Path) -> None:
    errors = measured(small)
    assert list(errors["a.weight"]) == [*ALWAYS, "F16"] and errors["a.weight"]["F16"] == 0
    assert sorted(errors["a.weight"].values(), reverse=True) == [
        errors["a.weight"][type] for type in ("Q2_K", "Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16")
    ]
    requantize(small, small.with_name("q4"), "Q4_0", tensor_types=[".=q4_k"], jobs=1)
    rows = [
        TensorReader(metadata).rows(metadata.tensors[0], np.arange(512)).astype(np.float64)
        for metadata in (read_metadata(small), read_metadata(small.with_name("q4")))
    ]
    whole = ((rows[0] - rows[1]) ** 2).sum() / (rows[0] ** 2).sum()
    assert errors["a.weight"]["Q4_K"] == pytest.approx(whole, rel=1e-6)


def test_a_sample_tells_what_the_whole_would(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(small)
    cache_path(small).unlink()
    monkeypatch.setattr(sensitivity, "SAMPLE_VALUES", 1 << 16)
    for name, errors in measured(small).items():
        assert errors == pytest.approx(whole[name], rel=0.05)


def test_weights_of_columns(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensitivity, "_TYPES_FOR_WEIGHTS", ("IQ3_XXS",))
    plain = measured(small)
    weighted = measured(small, small_imatrix(tmp_path))
    assert weighted["a.weight"] == plain["a.weight"]  # it has no weights
    assert weighted["b.weight"]["Q4_K"] != pytest.approx(plain["b.weight"]["Q4_K"], rel=0.1)
    assert "IQ3_XXS" in weighted["b.weight"] and "IQ3_XXS" not in weighted["a.weight"]


def test_nothing_to_lose_and_nothing_that_fits() -> None:
    zeros, huge = np.zeros((2, 256), np.float32), np.full((2, 256), 1e30, np.float32)
    assert relative_error([(zeros, None)], "Q4_K") == 0
    assert relative_error([(huge, None)], "Q8_0") == sensitivity.UNUSABLE


# --- the cache ---


def test_measured_once(small: Path) -> None:
    seen: list[Progress] = []
    first = measured(small, progress=seen.append)
    assert [(p.phase, p.tensors_done, p.tensors_total) for p in seen] == [("measure", 1, 2), ("measure", 2, 2)]
    assert seen[-1].bytes_done == seen[-1].bytes_total == 2 * 7 * 512 * 256 * 4
    assert [path.name for path in small.parent.glob("*sensitivity*")] == ["small.gguf.sensitivity.json"]
    assert measured(small, progress=seen.append) == first and len(seen) == 2


@pytest.mark.parametrize("change", ["source", "imatrix", "format"])
def test_measured_again_when_something_changed(
    change: str, small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "_TYPES_FOR_WEIGHTS", ())
    measured(small)
    if change == "source":
        os.utime(small, ns=(1, 1))
    if change == "format":
        monkeypatch.setattr(sensitivity, "FORMAT", 0)
    seen: list[Progress] = []
    measured(small, small_imatrix(tmp_path) if change == "imatrix" else None, progress=seen.append)
    assert len(seen) == 2


def test_a_stopped_run_keeps_what_it_measured(small: Path) -> None:
    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(small, progress=stop)
    seen: list[Progress] = []
    measured(small, progress=seen.append)
    assert len(seen) == 1 and not list(small.parent.glob(".*"))


def spoilt(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def spoil(path: Path) -> None:
        content = json.loads(path.read_text())
        path.write_text(json.dumps(change(content) or content))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_bytes(b"\xff\xfe"),
        lambda path: path.write_text("[" * 100_000),
        lambda path: path.write_text("[1]"),
        lambda path: os.truncate(path, sensitivity.MAX_CACHE_BYTES + 1),
        spoilt(lambda content: content.update(errors=[1])),
        spoilt(lambda content: content["errors"].update({"a.weight": 3})),
        spoilt(lambda content: content["errors"]["a.weight"].update(Q4_K=-1.0)),
        spoilt(lambda content: content["errors"]["a.weight"].update(Q4_K=float("nan"))),
        spoilt(lambda content: content["errors"]["a.weight"].update(Q4_K=True)),
        spoilt(lambda content: content["errors"]["a.weight"].update(Q4_K="0.1")),
        spoilt(lambda content: content["errors"]["a.weight"].update(Q9=0.1)),
    ],
)
def test_a_broken_cache_is_not_believed(spoil: Callable[[Path], None], small: Path) -> None:
    first = measured(small)
    spoil(cache_path(small))
    with pytest.warns(RuntimeWarning, match=r"small.gguf.sensitivity.json cannot be used \(.*measured again"):
        assert measured(small) == first
    assert measured(small) == first


def test_a_cache_that_cannot_be_written(small: Path) -> None:
    cache_path(small).mkdir()
    told: list[str] = []
    errors = measured(small, warn=told.append)
    assert set(errors) == {"a.weight", "b.weight"} and not list(small.parent.glob(".*"))
    assert ["cannot be used" in told[0], "cannot be written" in told[1], len(told)] == [True, True, 2]


# --- fitted models ---


def test_no_worse_than_a_recipe_of_the_same_size(nano: Path, tmp_path: Path) -> None:
    size = requantize(nano, tmp_path / "q4.gguf", "Q4_K_M", jobs=1).n_bytes
    plan = plan_fit(nano, size, jobs=1)
    report = write(plan, tmp_path / "fit.gguf", jobs=1)
    assert report.n_bytes == (tmp_path / "fit.gguf").stat().st_size <= size
    free = [tensor for tensor in plan.tensors if may_convert(tensor.name, tensor.shape)]
    errors = measure(plan.metadata, free, jobs=1)
    options = {tensor.name: fit_options(tensor, errors[tensor.name]) for tensor in free}
    fitted, recipe = (
        {tensor.name: tensor.type for tensor in read_metadata(tmp_path / name).tensors}
        for name in ("fit.gguf", "q4.gguf")
    )
    assert fitted == {spec.name: spec.type for spec in plan.specs}
    assert total_error(options, fitted) <= total_error(options, recipe)
    with Llama(tmp_path / "fit.gguf") as model:
        assert np.isfinite(model.logits([1, 2, 3])).all()
    held = {type: sum(s.n_bytes for s in plan.specs if s.type == type) for type in fitted.values()}
    named = next(r for r in RECIPES.values() if r.file_type == read_metadata(report.path).fields["general.file_type"])
    assert named.default == max(held, key=lambda type: held[type])


def len_of(plan: RequantizePlan) -> int:
    return sum(file.n_bytes for file in plan_files(Path("m.gguf"), plan.fields, plan.specs, None))


def test_as_near_to_the_size_as_one_step_allows(nano: Path) -> None:
    for size in (3_000_000, 5_000_000, 8_000_000):
        plan = plan_fit(nano, size, jobs=1)
        total = len_of(plan)
        errors = measure(plan.metadata, [t for t in plan.tensors if may_convert(t.name, t.shape)], jobs=1)
        assert total <= size
        for tensor, spec in zip(plan.tensors, plan.specs, strict=True):
            for option in fit_options(tensor, errors.get(tensor.name, {})):
                now = next(o for o in fit_options(tensor, errors[tensor.name]) if o.type == spec.type)
                assert option.error >= now.error or option.n_bytes - now.n_bytes > size - total


def test_the_smallest_and_the_largest(nano: Path, tmp_path: Path) -> None:
    with pytest.raises(QuantError, match="Choose a size from") as raised:
        plan_fit(nano, 1000, jobs=1)
    smallest = int(str(raised.value).rsplit(" ", 2)[1])
    assert len_of(plan_fit(nano, smallest, jobs=1)) == smallest
    with pytest.raises(QuantError, match=f"has {smallest} bytes"):
        plan_fit(nano, smallest - 1, jobs=1)
    plan = plan_fit(nano, 10**12, jobs=1)
    assert [spec.type for spec in plan.specs] == [tensor.type for tensor in plan.tensors]
    assert plan.fields["general.file_type"] == 1


def test_with_named_types_and_in_parts(nano: Path, tmp_path: Path) -> None:
    plan = plan_fit(nano, 4_000_000, None, ["attn_q=q8_0"], split_max_bytes=900_000, jobs=1)
    report = write(plan, tmp_path / "m.gguf", split_max_bytes=900_000, jobs=1)
    parts = list(tmp_path.glob("m-*.gguf"))
    assert report.path == part_path(tmp_path / "m.gguf", 0, len(parts)) and len(parts) > 3
    assert report.n_bytes == sum(path.stat().st_size for path in parts) <= 4_000_000
    types = {tensor.name: tensor.type for tensor in read_model(report.path).tensors}
    assert {type for name, type in types.items() if name.endswith("attn_q.weight")} == {"Q8_0"}


def test_an_mmproj_file_is_refused(tmp_path: Path) -> None:
    _, mmproj = tiny_gguf(tmp_path)
    with pytest.raises(BadTensor, match="cannot be fitted"):
        plan_fit(mmproj, 10**9, jobs=1)


def test_from_a_quantized_file(small: Path, tmp_path: Path) -> None:
    """What a tensor is already costs no error, so nothing larger is chosen."""
    requantize(small, tmp_path / "q6.gguf", "Q6_K", jobs=1)
    plan = plan_fit(tmp_path / "q6.gguf", 10**9, jobs=1)
    assert {spec.type for spec in plan.specs} == {"Q6_K"}
