"""Models in several files: llama.cpp's names and keys, read as one, requantized as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from convert.hf_to_gguf import convert
from quant.errors import BrokenGGUF, QuantError
from quant.gguf_file import read_metadata
from quant.gguf_output import TensorSpec
from quant.requantize import requantize
from quant.splits import parse_size, part_path, plan_parts, read_model
from tests.convert.llama_cpp import Llama
from tests.tiny_internlm import tiny_internlm2

MAX = 100_000
PROMPT = [1, 300, 33, 260, 7]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """whole.gguf and the same model in parts named split-*.gguf."""
    folder = tmp_path_factory.mktemp("split")
    checkpoint = tiny_internlm2(folder / "checkpoint")
    convert(checkpoint, folder / "whole.gguf", type="F32", jobs=1)
    report = convert(checkpoint, folder / "split.gguf", type="F32", jobs=1, split_max_bytes=MAX)
    parts = sorted(folder.glob("split-*.gguf"))
    assert len(parts) == report.model.n_parts > 2 and report.model.path == parts[0]
    assert report.model.n_bytes == sum(path.stat().st_size for path in parts)
    assert not (folder / "split.gguf").exists()
    return folder


def parts_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("split-*.gguf"))


def tensors_of(path: Path) -> dict[str, bytes]:
    model = read_model(path)
    return {t.name: (t.path or path).read_bytes()[t.offset : t.offset + t.n_bytes] for t in model.tensors}


def test_keys_and_sizes(made: Path) -> None:
    parts = [read_metadata(path) for path in parts_of(made)]
    whole = read_metadata(made / "whole.gguf")
    for index, part in enumerate(parts):
        assert part.fields["split.no"] == index and part.fields["split.count"] == len(parts)
        assert part.fields["split.tensors.count"] == len(whole.tensors)
        assert sum(tensor.n_bytes for tensor in part.tensors) <= MAX or len(part.tensors) == 1
        assert len(part.fields) == 3 or index == 0
    assert [t.name for part in parts for t in part.tensors] == [t.name for t in whole.tensors]


def test_read_as_one(made: Path) -> None:
    first, whole = parts_of(made)[0], made / "whole.gguf"
    assert tensors_of(first) == tensors_of(whole)
    assert read_model(first).architecture == "internlm2"
    assert len(read_metadata(first).tensors) < len(read_model(first).tensors)


def test_llama_cpp_loads_the_parts(made: Path) -> None:
    with Llama(made / "whole.gguf") as whole, Llama(parts_of(made)[0]) as split:
        assert (whole.logits(PROMPT) == split.logits(PROMPT)).all()


def test_requantized_as_one(made: Path, tmp_path: Path) -> None:
    requantize(parts_of(made)[0], tmp_path / "joined.gguf", "Q8_0", jobs=1)
    requantize(made / "whole.gguf", tmp_path / "plain.gguf", "Q8_0", jobs=1)
    assert (tmp_path / "joined.gguf").read_bytes() == (tmp_path / "plain.gguf").read_bytes()
    report = requantize(parts_of(made)[0], tmp_path / "parts.gguf", "Q8_0", split_max_bytes=30_000, jobs=1)
    assert report.path.name.startswith("parts-00001-of-")
    assert tensors_of(report.path) == tensors_of(tmp_path / "plain.gguf")


def missing(folder: Path) -> None:
    parts_of(folder)[1].unlink()


def swapped(folder: Path) -> None:
    one, two = parts_of(folder)[1:3]
    data = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(data)


def renamed(folder: Path) -> None:
    first = parts_of(folder)[0]
    first.rename(folder / "split-00001-of-00099.gguf")


@pytest.mark.parametrize(
    ("damage", "message"),
    [(missing, "is missing beside"), (swapped, "does not say that it is part 2"), (renamed, "name the first")],
)
def test_damaged_sets(damage: Callable[[Path], None], message: str, made: Path, tmp_path: Path) -> None:
    for path in parts_of(made):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    damage(tmp_path)
    with pytest.raises(BrokenGGUF, match=message):
        read_model(parts_of(tmp_path)[0])


def test_not_the_first_part(made: Path) -> None:
    with pytest.raises(BrokenGGUF, match="name the first"):
        read_model(parts_of(made)[1])


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("50G", 50 * 10**9),
        ("500m", 500 * 10**6),
        ("1TB", 10**12),
        (" 1234 ", 1234),
        ("2K", 2000),
        ("24GiB", 24 << 30),
        ("3mi", 3 << 20),
        ("7B", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "0", "-1G", "1.5G", "5X", "5iB", "٣G", "9" * 5000])
def test_what_is_not_a_size(text: str) -> None:
    with pytest.raises(QuantError, match="is not a size"):
        parse_size(text)


def test_names_and_limits() -> None:
    assert part_path(Path("a/m.gguf"), 1, 3) == Path("a/m-00002-of-00003.gguf")
    specs = [TensorSpec(f"t{n}", (8,), "F32") for n in range(10_000)]
    assert plan_parts(Path("m.gguf"), specs, None) == [(Path("m.gguf"), specs)]
    assert len(plan_parts(Path("m.gguf"), specs[:10], 64)) == 5
    with pytest.raises(QuantError, match="choose a larger size"):
        plan_parts(Path("m.gguf"), specs, 1)
