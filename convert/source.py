"""Where a checkpoint's files are: a folder, or a repository of the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from convert.errors import BrokenCheckpoint
from quant.positional_file import PositionalFile

HUB_PREFIX = "hf:"
MODELSCOPE_PREFIX = "ms:"


class Source(Protocol):
    """Files by name. `read` is safe from any thread and may give fewer bytes than asked for."""

    label: Path  # what messages call it
    name: str  # the model's name when its config has none

    def files(self) -> list[str]: ...

    def size(self, file: str) -> int | None:
        """None when there is no such file."""
        ...

    def stamp(self, file: str) -> str:
        """Changes when the file changes."""
        ...

    def read(self, file: str, start: int, n_bytes: int) -> bytes: ...

    def close(self) -> None: ...


def open_source(where: Path | str) -> Source:
    """A folder's path, or hf:owner/repo[@revision]; ms: in the place of hf: is ModelScope."""
    text = str(where)
    if text.startswith(HUB_PREFIX):
        from convert.hub_source import HubSource

        return HubSource(text.removeprefix(HUB_PREFIX))
    if text.startswith(MODELSCOPE_PREFIX):
        from convert.modelscope_source import ModelScopeSource

        return ModelScopeSource(text.removeprefix(MODELSCOPE_PREFIX))
    return FolderSource(Path(where))


class FolderSource:
    """Files of a folder, each opened once."""

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise BrokenCheckpoint(f"{folder} is not a folder with a checkpoint.")
        self.label = folder
        self.name = folder.resolve().name
        self._opened: dict[str, PositionalFile] = {}

    def files(self) -> list[str]:
        return sorted(path.name for path in self.label.iterdir() if path.is_file())

    def size(self, file: str) -> int | None:
        path = self.label / file
        return path.stat().st_size if path.is_file() else None

    def stamp(self, file: str) -> str:
        status = (self.label / file).stat()
        return f"{self.label.resolve() / file} {status.st_size} {status.st_mtime_ns}"

    def read(self, file: str, start: int, n_bytes: int) -> bytes:
        opened = self._opened.setdefault(file, PositionalFile(self.label / file))
        return opened.read(start, n_bytes)

    def close(self) -> None:
        for opened in self._opened.values():
            opened.close()
        self._opened.clear()
