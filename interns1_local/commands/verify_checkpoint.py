"""The checkpoint of `interns1 verify` as a folder: transformers reads files, and a hub's are fetched for the while."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from convert.source import HUB_PREFIX, MODELSCOPE_PREFIX, Source, open_source
from interns1_local.commands.format import format_bytes
from interns1_local.commands.progress import Advance
from interns1_local.errors import LoadError

_ENDINGS = (".json", ".jinja", ".model", ".txt", ".safetensors")
_PIECE = 8 << 20


@contextmanager
def local_checkpoint(where: str, advance: Advance) -> Iterator[Path]:
    """The folder `where`, or one with the files of hf:owner/repo[@revision], which is removed afterwards."""
    if not where.startswith((HUB_PREFIX, MODELSCOPE_PREFIX)):
        yield Path(where)
        return
    with closing(open_source(where)) as source, tempfile.TemporaryDirectory(prefix="interns1-verify-") as parent:
        folder = Path(parent) / source.name
        folder.mkdir()
        _fetch(source, folder, advance)
        yield folder


def _fetch(source: Source, folder: Path, advance: Advance) -> None:
    sizes = {file: source.size(file) or 0 for file in source.files() if file.endswith(_ENDINGS)}
    total, free = sum(sizes.values()), shutil.disk_usage(folder).free
    if total > free:
        raise LoadError(
            f"{source.label} has {format_bytes(total)} and {folder.parent.parent} has room for {format_bytes(free)}; "
            "name another folder in the environment variable TMPDIR"
        )
    done = 0
    for file, size in sizes.items():
        if Path(file).name != file or "\\" in file:
            raise LoadError(f"{source.label} has a file named {file!r}, which is no plain name")
        with open(folder / file, "xb") as out:
            while out.tell() < size:
                out.write(source.read(file, out.tell(), _PIECE))
                advance(f"fetching {source.label}", done + out.tell(), total)
        done += size
