"""What every create does with files: a folder to work in, names for blobs, layers, readable errors."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store.blobs import PARTIAL_SUFFIX
from interns1_local.store.manifest import Layer
from interns1_local.store.model_store import ModelStore


@contextmanager
def new_layers(store: ModelStore) -> Iterator[list[Layer]]:
    """A list for the layers of a model in the making. Where making it fails, those go that were not there before."""
    known, layers = set(store.blobs.digests()), list[Layer]()
    try:
        yield layers
    except BaseException:
        store.discard({layer.digest for layer in layers} - known)
        raise


def blob_layer(store: ModelStore, path: Path, media_type: str) -> Layer:
    if (digest := store.blobs.digest_of(path)) is not None:
        return Layer(media_type, digest, path.stat().st_size)
    return Layer(media_type, *store.blobs.add_file(path))


def adopt(store: ModelStore, path: Path, media_type: str) -> Layer:
    return Layer(media_type, *store.blobs.adopt(path))


def link_files(files: Mapping[str, Path], folder: Path) -> None:
    """Give uploaded blobs the names that a checkpoint's files have. No name may lead out of the folder."""
    for name, path in files.items():
        relative = PurePosixPath(name.replace("\\", "/"))
        if relative.is_absolute() or PureWindowsPath(name).drive or ".." in relative.parts or not relative.parts:
            raise BadRequest("file path must be relative")
        target = folder.joinpath(*relative.parts)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, target)
        except OSError:
            target.symlink_to(path)


@contextmanager
def open_workspace(store: ModelStore) -> Iterator[Path]:
    """A folder on the store's own disk, so that results move into place without a copy."""
    store.blobs.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=store.blobs.folder, prefix="interns1-", suffix=PARTIAL_SUFFIX) as name:
        yield Path(name)


def read_gguf(path: Path, arrays: bool = False, name: str = "") -> Any:
    """What a GGUF file says of itself. `name` is what its owner calls it, where it is stored under another name."""
    from quant.errors import QuantError
    from quant.gguf_file import read_metadata

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            shown = f"supplied file was not in GGUF format: {name or path.name}"
            raise BadRequest(f"{shown}; a checkpoint becomes GGUF by `interns1 convert`")
    try:
        return read_metadata(path, arrays=arrays)
    except QuantError as error:
        raise BadRequest(str(error).replace(str(path), name or path.name)) from error


def check_widths(model: Any, projector: Any, name: str) -> None:
    """A vision file of another model gives vectors of another width."""
    width, joined = (
        metadata.fields.get(key)
        for metadata, key in (
            (model, f"{model.architecture}.embedding_length"),
            (projector, "clip.vision.projection_dim"),
        )
    )
    if width and joined and width != joined:
        raise BadRequest(
            f"the vision file {name} belongs to another model: its vectors have {joined} numbers, the model's {width}"
        )


@contextmanager
def foreign_errors() -> Iterator[None]:
    """Errors of quant and convert about what the user gave are the user's to read."""
    from convert.errors import ConvertError
    from quant.errors import QuantError

    try:
        yield
    except (ConvertError, QuantError) as error:
        raise BadRequest(str(error)) from error
