"""What the adapters of a model are called, where a request chooses one of them.

A Modelfile says it (`ADAPTER ./file.gguf AS name`), or the file does, or PEFT's folder; the manifest keeps it, as the
`name` of the adapter's layer. Where others made the manifest, the one adapter is called `adapter`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store.manifest import ADAPTER, Layer

# What a request says that wants the model without its adapters.
NO_ADAPTER = "none"
UNNAMED = "adapter"
MOST_CHARACTERS = 80
# The key of a layer in a manifest.
NAME_KEY = "name"

_AS = re.compile(r"(.*\S)\s+AS\s+(\S.*)", re.IGNORECASE)
_BESIDE_WEIGHTS = (".safetensors", ".json", ".md", ".txt")

# The files of one adapter, by the names that they have.
Files = Mapping[str, Path]


@dataclass(frozen=True, slots=True)
class StoredAdapter:
    """A LoRA of a model."""

    name: str
    path: Path

    @property
    def size(self) -> int:
        """Bytes of the file; 0 when it is missing, which loading it will say."""
        return self.path.stat().st_size if self.path.is_file() else 0


def adapter_lines(lines: Iterable[str], folder: Path) -> dict[str, Files]:
    """The files of the adapters that a Modelfile's ADAPTER lines name, relative to `folder`, in their order."""
    found: dict[str, Files] = {}
    for line in lines:
        name, files = _adapter_line(line, folder)
        _add(found, name, files)
    return found


def adapter_groups(files: Files) -> dict[str, Files]:
    """Files whose names say to which adapter they belong: NAME.gguf, or NAME/ before the names of PEFT's files."""
    groups: dict[str, dict[str, Path]] = {}
    found: dict[str, Files] = {}
    for file, path in files.items():
        where = PurePosixPath(file.replace("\\", "/"))
        if where.name.lower().endswith(_BESIDE_WEIGHTS):
            groups.setdefault(where.parent.name or UNNAMED, {})[where.name] = path
        else:
            _add(found, _stem(where.name), {where.name: path})
    for name, group in groups.items():
        # What explains a GGUF file may lie beside it.
        if not found or any(file.lower().endswith(".safetensors") for file in group):
            _add(found, name, group)
    return found


def upload_names(adapters: Mapping[str, Files]) -> dict[str, Path]:
    """The files of all adapters by names from which `adapter_groups` makes the same again."""
    named: dict[str, Path] = {}
    for name, files in adapters.items():
        single = len(files) == 1 and not next(iter(files)).lower().endswith(_BESIDE_WEIGHTS)
        named |= {f"{name}.gguf" if single else f"{name}/{file}": path for file, path in files.items()}
    return named


def names_of(layers: Iterable[Layer]) -> list[str]:
    """What a manifest calls its adapters. Two that are called the same are not told apart by a request."""
    given = [layer.extra.get(NAME_KEY) for layer in layers]
    return [name if isinstance(name, str) and not _wrong(name) else UNNAMED for name in given]


def check_default(parameters: Mapping[str, Any], layers: Iterable[Layer]) -> None:
    """BadRequest where a Modelfile's parameter chooses an adapter that a model of these layers does not have."""
    name = str(parameters.get("adapter") or NO_ADAPTER).strip()
    names = names_of(layer for layer in layers if layer.media_type == ADAPTER)
    if name not in names and name.lower() != NO_ADAPTER:
        known = f"it has {', '.join(names)}" if names else "it has none"
        raise BadRequest(f"PARAMETER adapter {name}: the model has no adapter of this name; {known}")


def line_of(adapter: StoredAdapter) -> str:
    """The value of the ADAPTER line that names the adapter's file and its name."""
    return str(adapter.path) if _stem(adapter.path.name) == adapter.name else f"{adapter.path} AS {adapter.name}"


def _adapter_line(line: str, folder: Path) -> tuple[str, Files]:
    path, name = folder / Path(line).expanduser(), ""
    if not path.exists() and (match := _AS.fullmatch(line)):
        line, name = match.groups()
        path = folder / Path(line).expanduser()
    if path.is_file():
        return name or _stem(path.name), {path.name: path}
    if not path.is_dir():
        raise BadRequest(f"ADAPTER {line}: there is no such file or folder")
    found = sorted([*path.glob("*.gguf"), *path.glob("*.safetensors"), *path.glob("adapter_config.json")])
    if not found:
        raise BadRequest(f"ADAPTER {line}: this folder holds no adapter (a GGUF file, or PEFT's two files)")
    return name or path.resolve().name, {file.name: file for file in found}


def _add(found: dict[str, Files], name: str, files: Files) -> None:
    if reason := _wrong(name):
        raise BadRequest(f"an adapter cannot be called {name!r}: {reason}; say ADAPTER PATH AS NAME")
    if name in found:
        raise BadRequest(f"two adapters are called {name!r}, and a request could not choose; say ADAPTER PATH AS NAME")
    found[name] = files


def _wrong(name: str) -> str:
    """Why nothing can be called so; "" when it can."""
    if name.lower() == NO_ADAPTER:
        return "in a request this means the model without its adapters"
    if not name.strip() or name != name.strip() or not name.isprintable() or "/" in name or "\\" in name:
        return "a name has visible characters, and no slashes"
    return f"a name has at most {MOST_CHARACTERS} characters" if len(name) > MOST_CHARACTERS else ""


def _stem(file: str) -> str:
    return file[: -len(".gguf")] if file.lower().endswith(".gguf") else file
