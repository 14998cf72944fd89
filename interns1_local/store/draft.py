"""A model's draft model: a smaller one of the same vocabulary, in a GGUF file, that guesses ahead what it will say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store import manifest as media
from interns1_local.store.create_files import blob_layer, read_gguf
from interns1_local.store.manifest import Layer
from interns1_local.store.model_store import ModelStore

TOKENS = "tokenizer.ggml.tokens"
# Vocabularies are filled up to round numbers of rows.
MOST_PADDING = 1024


def draft_files(source: str | None, base_dir: Path, store: ModelStore) -> dict[str, Path]:
    """The file that DRAFT names: one relative to the Modelfile, or that of a stored model."""
    if not source:
        return {}
    path = base_dir / Path(source).expanduser()
    if path.is_file():
        return {path.name: path}
    if path.is_dir() or source.startswith((".", "/", "~")) or source.lower().endswith(".gguf"):
        raise BadRequest(f"DRAFT {source}: there is no such file; give a GGUF file or a stored model's name")
    return {source: store.resolve(source).model_path}


def replace_draft(
    layers: list[Layer], store: ModelStore, files: Mapping[str, Path], report: Callable[[dict[str, Any]], None]
) -> None:
    """Put the draft model of `files` in the place of an old one. BadRequest when its vocabulary is another."""
    path = draft_file(files)
    model = next(layer for layer in layers if layer.media_type == media.MODEL)
    report({"status": "parsing GGUF"})
    difference = vocabulary_difference(path, store.blobs.path(model.digest))
    if difference is not None:
        raise BadRequest(difference)
    kept = [layer for layer in layers if layer.media_type != media.DRAFT]
    layers[:] = [*kept, blob_layer(store, path, media.DRAFT)]


def draft_file(files: Mapping[str, Path]) -> Path:
    """The one file of a draft model."""
    if len(files) != 1:
        raise BadRequest(f"a draft model is one GGUF file; given were {', '.join(files) or 'none'}")
    return next(iter(files.values()))


def vocabulary_difference(draft: Path, model: Path) -> str | None:
    """Why the draft model cannot guess for the model; None when it can. Raises BadRequest for what is no GGUF file."""
    if not draft.is_file():
        raise BadRequest(f"the draft model's file {draft} is missing; create or pull the model again")
    ours, theirs = (read_gguf(path, arrays=True).fields.get(TOKENS, ()) for path in (draft, model))
    advice = "give a smaller model of the same family"
    if not ours or abs(len(ours) - len(theirs)) > MOST_PADDING:
        return f"the draft model has {len(ours)} tokens and the model has {len(theirs)}: {advice}"
    for token, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"the draft model's token {token} is {one!r} and the model's is {other!r}: {advice}"
    return None
