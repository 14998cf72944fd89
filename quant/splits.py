"""Models in several files, in llama.cpp's layout: name-00001-of-00003.gguf, the keys in the first."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quant.errors import BrokenGGUF, QuantError
from quant.gguf_file import ALIGNMENT, GGUFMetadata, TensorInfo, align, read_metadata
from quant.gguf_output import GGUFOutput, TensorSpec, create, layout
from quant.gguf_values import INT32, UINT16, Typed

NUMBER, COUNT, TENSORS = "split.no", "split.count", "split.tensors.count"
KEYS = (NUMBER, COUNT, TENSORS)

_MAX_PARTS = 9999
_NAME = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_POWERS = ("", "K", "M", "G", "T")


def parse_size(text: str) -> int:
    """50G, 24GiB, 500M or a number of bytes; units are decimal, as in llama.cpp, unless they have an i."""
    found = re.fullmatch(r"(\d{1,18})(?:([KMGT])(I?))?B?", text.strip().upper(), re.ASCII)
    if not found or int(found[1]) == 0:
        raise QuantError(f"{text!r} is not a size; write 50G, 24GiB, 500M or a number of bytes.")
    base = 1024 if found[3] else 1000
    return int(found[1]) * int(base ** _POWERS.index(found[2] or ""))


def part_path(path: Path, index: int, count: int) -> Path:
    """The name of part `index` (from 0) of the model `path`."""
    return path.with_name(f"{path.name.removesuffix('.gguf')}-{index + 1:05d}-of-{count:05d}.gguf")


def plan_parts(path: Path, tensors: Sequence[TensorSpec], max_bytes: int | None) -> list[tuple[Path, list[TensorSpec]]]:
    """The files of a model and their tensors, in order. A model that fits into one keeps its plain name."""
    groups: list[list[TensorSpec]] = [[]]
    size = 0
    for tensor in tensors:
        if max_bytes and groups[-1] and size + tensor.n_bytes > max_bytes:
            groups.append([])
            size = 0
        groups[-1].append(tensor)
        size += tensor.n_bytes
    if len(groups) == 1:
        return [(path, groups[0])]
    if len(groups) > _MAX_PARTS:
        raise QuantError(f"{path} would have {len(groups)} parts; choose a larger size.")
    return [(part_path(path, index, len(groups)), group) for index, group in enumerate(groups)]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """A file that a run would write."""

    path: Path
    n_bytes: int
    tensors: list[TensorSpec]


def plan_files(
    path: Path, fields: Mapping[str, Any], tensors: Sequence[TensorSpec], max_bytes: int | None
) -> list[PlannedFile]:
    """The files of a model with their sizes."""
    parts = plan_parts(path, tensors, max_bytes)
    files = []
    for index, (file, group) in enumerate(parts):
        header, infos = layout(_part_fields(fields, index, len(parts), len(tensors)), group)
        last = infos[-1] if infos else None
        files.append(PlannedFile(file, align(last.offset + last.n_bytes, ALIGNMENT) if last else len(header), group))
    return files


def _part_fields(fields: Mapping[str, Any], index: int, count: int, n_tensors: int) -> dict[str, Any]:
    keys = dict(fields) if index == 0 else {}
    if count > 1:
        keys |= {NUMBER: Typed(UINT16, index), COUNT: Typed(UINT16, count), TENSORS: Typed(INT32, n_tensors)}
    return keys


@contextlib.contextmanager
def create_parts(
    path: Path,
    fields: Mapping[str, Any],
    tensors: Sequence[TensorSpec],
    *,
    max_bytes: int | None = None,
    sources: str | None = None,
    restart: bool = False,
) -> Iterator[dict[str, GGUFOutput]]:
    """Open the files of a model: tensor name -> its file. The first file gets its final name last."""
    parts = plan_parts(path, tensors, max_bytes)
    with contextlib.ExitStack() as stack:
        outputs: dict[str, GGUFOutput] = {}
        for index, (file, group) in enumerate(parts):
            keys = _part_fields(fields, index, len(parts), len(tensors))
            output = stack.enter_context(create(file, keys, group, sources=sources, restart=restart))
            outputs |= dict.fromkeys((tensor.name for tensor in group), output)
        yield outputs
        finish(outputs.values())


def finish(outputs: Iterable[GGUFOutput]) -> None:
    """All bytes of all files are on the disk before the first file gets its final name."""
    for output in outputs:
        output.finish()


def read_model(path: Path | str, arrays: bool = True) -> GGUFMetadata:
    """A whole model from its only file or its first part; each tensor says in which file it is."""
    first = read_metadata(path, arrays)
    count = first.fields.get(COUNT, 1)
    parts = [first]
    if count != 1:
        parts += [_read_part(first, index, count) for index in range(1, _checked_count(first, count))]
    tensors = [replace(tensor, path=part.path) for part in parts for tensor in part.tensors]
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise BrokenGGUF(f"Two parts of {path} have a tensor of the same name.")
    total = first.fields.get(TENSORS, len(tensors))
    if total != len(tensors):
        raise BrokenGGUF(f"{path} claims {total} tensors in {count} parts; they have {len(tensors)}.")
    return replace(first, tensors=tensors, n_bytes=sum(part.n_bytes for part in parts))


def stamp(metadata: GGUFMetadata) -> str:
    """Changes when a file of the model changes."""
    lines = []
    for path in sorted({tensor.path or metadata.path for tensor in metadata.tensors}):
        status = os.stat(path)
        lines.append(f"{path.resolve()} {status.st_size} {status.st_mtime_ns}")
    return "\n".join(lines)


def file_of(metadata: GGUFMetadata, tensor: TensorInfo) -> Path:
    return tensor.path or metadata.path


def _checked_count(first: GGUFMetadata, count: Any) -> int:
    name = _NAME.fullmatch(first.path.name)
    if not isinstance(count, int) or not 1 < count <= _MAX_PARTS:
        raise BrokenGGUF(f"{first.path} claims {count!r} parts.")
    if name is None or int(name[3]) != count or int(name[2]) != 1 or first.fields.get(NUMBER) != 0:
        expected = part_path(first.path.with_name("model.gguf"), 0, count).name
        raise BrokenGGUF(f"{first.path} is one of {count} parts; name the first, as in {expected}.")
    return count


def _read_part(first: GGUFMetadata, index: int, count: int) -> GGUFMetadata:
    name = _NAME.fullmatch(first.path.name)
    assert name is not None
    path = part_path(first.path.with_name(f"{name[1]}.gguf"), index, count)
    if not path.is_file():
        raise BrokenGGUF(f"{path.name} is missing beside {first.path}.")
    part = read_metadata(path)
    if part.fields.get(NUMBER) != index or part.fields.get(COUNT) != count:
        raise BrokenGGUF(f"{path} does not say that it is part {index + 1} of {count}.")
    return part
