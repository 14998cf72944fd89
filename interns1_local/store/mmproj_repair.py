"""Vision files of the InternVL kind that give every patch its neighbour's position, and how they are repaired.

A checkpoint's position table starts with the class token's row. llama.cpp appends the class token after the patches and
adds the table as it stands, so the rows must be stored with that one last. Files of the stock converter are not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from interns1_local.errors import BadRequest
from interns1_local.store.blobs import digest_of_file
from interns1_local.store.manifest import PROJECTOR, Layer

if TYPE_CHECKING:
    from interns1_local.store.model_store import ModelStore
    from quant.gguf_file import GGUFMetadata, TensorInfo

Order = Literal["cls_last", "cls_first"]

ROLLED_KEY = "interns1.mmproj.cls_last"
SOURCE_KEY = "interns1.mmproj.source_digest"
ANNOTATION = "interns1.repaired-from"

_POSITIONS, _CLASS = "v.position_embd.weight", "v.class_embd"
_PROJECTOR_KEYS = ("clip.projector_type", "clip.vision.projector_type")
_MAX_PATCHES = 4096


def stored_order(metadata: GGUFMetadata) -> Order | None:
    """Where the class token's row stands in the file's position table; None for towers of other families."""
    fields = metadata.fields
    names = {tensor.name for tensor in metadata.tensors}
    if metadata.architecture != "clip" or not any(fields.get(key) == "internvl" for key in _PROJECTOR_KEYS):
        return None
    if not {_POSITIONS, _CLASS} <= names:
        return None
    return "cls_last" if fields.get(ROLLED_KEY) is True else "cls_first"


def needs_repair(metadata: GGUFMetadata) -> bool:
    return stored_order(metadata) == "cls_first"


def reorder(
    source: Path, output: Path, order: Order, digest: str | None = None, keys: Mapping[str, Any] | None = None
) -> None:
    """Write the vision file `source` again with its position rows in `order`, and marked so.

    Args:
        digest: of `source`, kept in the metadata.
        keys: what the checkpoint's processors say about tiles and films, where it is known; the file's own go first.
    """
    from quant.errors import QuantError
    from quant.gguf_file import read_metadata
    from quant.rewrite import rewrite

    try:
        metadata = read_metadata(source, arrays=False)
        before = stored_order(metadata)
        if before is None:
            raise BadRequest(f"{source} is not a vision file of the InternVL kind")
        table = next(tensor for tensor in metadata.tensors if tensor.name == _POSITIONS)
        row = _row_bytes(metadata, table)
        cut = row if order == "cls_last" else table.n_bytes - row
        ranges = ((0, table.n_bytes),) if before == order else ((cut, table.n_bytes), (0, cut))
        fields: dict[str, Any] = {ROLLED_KEY: order == "cls_last", **missing_keys(metadata.fields, keys or {})}
        if digest is not None:
            fields[SOURCE_KEY] = digest
        rewrite(source, output, fields, {_POSITIONS: ranges})
    except QuantError as error:
        raise BadRequest(str(error)) from error


def repaired_layer(store: ModelStore, path: Path, workspace: Path, keys: Mapping[str, Any] | None = None) -> Layer:
    """The repaired copy of a vision file as a layer, which names the original's digest."""
    digest = store.blobs.digest_of(path) or digest_of_file(path)
    copy = workspace / "repaired.gguf"
    reorder(path, copy, "cls_last", digest, keys)
    stored, size = store.blobs.adopt(copy)
    return Layer(PROJECTOR, stored, size, {"annotations": {ANNOTATION: digest}})


def missing_keys(fields: Mapping[str, Any], keys: Mapping[str, Any]) -> dict[str, Any]:
    """Of `keys` those that the file lacks, and the bounds of tiles: from `keys`, the file's own, or the family's."""
    low = _count(keys, "min_patches", fields.get("clip.vision.preproc_min_tiles", 1))
    high = _count(keys, "max_patches", fields.get("clip.vision.preproc_max_tiles", 12))
    if low > high:
        raise BadRequest(f"preprocessor_config.json asks for {low} to {high} tiles; the first may not be the larger")
    wanted: dict[str, Any] = {
        **keys,
        "interns1.vision.min_patches": low,
        "interns1.vision.max_patches": high,
        "interns1.vision.use_thumbnail": True,
        "clip.vision.preproc_min_tiles": low,
        "clip.vision.preproc_max_tiles": high,
    }
    return {key: value for key, value in wanted.items() if key not in fields}


def _count(keys: Mapping[str, Any], key: str, default: Any) -> int:
    value = keys.get(f"interns1.vision.{key}", default)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _MAX_PATCHES:
        raise BadRequest(f"{key} of the picture processor is {value!r}; a count from 1 to {_MAX_PATCHES} was expected")
    return value


def _row_bytes(metadata: GGUFMetadata, table: TensorInfo) -> int:
    """Bytes of one position; the table must have one for each patch and one for the class token."""
    rows = math.prod(table.shape[:-1])
    size, patch = metadata.fields.get("clip.vision.image_size"), metadata.fields.get("clip.vision.patch_size")
    if not isinstance(size, int) or not isinstance(patch, int) or size < 1 or patch < 1:
        raise BadRequest(f"{metadata.path} says neither how large its pictures nor how large its patches are")
    if rows != (size // patch) ** 2 + 1:
        raise BadRequest(
            f"{metadata.path} has {rows} positions; pictures of {size} and patches of {patch} pixels have "
            f"{(size // patch) ** 2} and one for the class token"
        )
    return table.n_bytes // rows
