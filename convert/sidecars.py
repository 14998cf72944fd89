"""The tokenizer's and the settings' files of a checkpoint, for a GGUF that another converter made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from convert import metadata, science_vocab
from convert.added_tokens import AddedToken, read_added_tokens
from convert.architectures.interns1_vision import video_fields
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint
from convert.source import open_source
from convert.vocab_bpe import CONTROL, USER_DEFINED, Vocabulary, json_of_added_tokens

# What stock converters put where a science piece belongs.
_PLACEHOLDER = re.compile(r"\[PAD\d+\]|<\|(SMILES|IUPAC|FASTA)_.*\|>", re.DOTALL)
_IMAGE_TOKENS = {"context": "<IMG_CONTEXT>", "start": "<img>", "end": "</img>"}


class SidecarFolder(Checkpoint):
    """A checkpoint's folder of which only the small files are there."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """A file of more than `max_bytes` is not read."""
        self._source = open_source(folder)
        self._max_bytes = max_bytes
        self.folder = Path()  # messages name the file alone: it may lie where nobody put it
        self.config = {}
        self.tensors = {}
        self.used = set()

    def json(self, name: str, *, required: bool = False) -> Any:
        try:
            content = super().json(name, required=required)
        except RecursionError:
            raise BrokenCheckpoint(f"{name} is nested too deeply.") from None
        if not isinstance(content, dict):
            raise BrokenCheckpoint(f"{name} is not a JSON object.")
        return content

    def raw(self, name: str) -> bytes | None:
        size = self._source.size(name) or 0
        if size > self._max_bytes:
            raise BrokenCheckpoint(f"{name} has {size} bytes; at most {self._max_bytes} are read.")
        return super().raw(name)


def vision_fields(folder: Path, max_bytes: int) -> dict[str, Any]:
    """What the processors' files in `folder` say about tiles and films, as keys of a vision file.

    Raises:
        BrokenCheckpoint: a file is damaged.
    """
    with SidecarFolder(folder, max_bytes) as sidecars:
        processor = sidecars.json("preprocessor_config.json")
        counts = {key: processor.get(key) for key in ("min_patches", "max_patches")}
        tiles = {f"interns1.vision.{key}": count for key, count in counts.items() if count is not None}
        return {**tiles, **video_fields(sidecars)}


def sidecar_fields(folder: Path, model: Mapping[str, Any], max_bytes: int) -> dict[str, Any]:
    """The keys that the files of `folder` add to a GGUF file with the fields `model`.

    Nothing is added to a file of our own converter, which is whole.

    Raises:
        BrokenCheckpoint: a file is damaged, or belongs to another model.
    """
    if "interns1.tokenizer.added_tokens" in model or "interns1.tokenizer.domains" in model:
        return {}
    with SidecarFolder(folder, max_bytes) as sidecars:
        fields = {**metadata.sampling(sidecars), **metadata.chat_template(sidecars)}
        if model.get("tokenizer.ggml.model") == "gpt2":
            fields |= _tokenizer_fields(sidecars, model)
    return fields


def _tokenizer_fields(sidecars: SidecarFolder, model: Mapping[str, Any]) -> dict[str, Any]:
    tokens: Sequence[str] = model.get("tokenizer.ggml.tokens") or []
    types = [int(kind) for kind in model.get("tokenizer.ggml.token_type", ())] or [1] * len(tokens)
    if not tokens or len(types) != len(tokens):
        raise BrokenCheckpoint(f"The GGUF file's vocabulary has {len(tokens)} tokens and {len(types)} types.")
    named = _named_tokens(sidecars, tokens)
    kinds = (CONTROL, USER_DEFINED)
    own = [AddedToken(id, tokens[id], kind == CONTROL) for id, kind in enumerate(types) if kind in kinds]
    added = named or own
    base = {text: id for id, text in enumerate(tokens) if not _PLACEHOLDER.fullmatch(text)}
    vocabulary = Vocabulary(base, [], added, {})
    domains = science_vocab.read_domains(sidecars, vocabulary, len(tokens))
    for domain in domains:
        _check_run(domain, tokens)
    if not domains and not named:
        return {}
    images = {part: vocabulary.added_id(text) for part, text in _IMAGE_TOKENS.items()}
    return {
        "interns1.tokenizer.added_tokens": json_of_added_tokens(added),
        **science_vocab.fields(domains),
        **{f"interns1.image.{part}_token_id": id for part, id in images.items() if id is not None},
    }


def _check_run(domain: science_vocab.Domain, tokens: Sequence[str]) -> None:
    """The pieces fill the placeholders before their tag, neither more nor fewer."""
    start = domain.ids.stop
    while start > 0 and _PLACEHOLDER.fullmatch(tokens[start - 1]):
        start -= 1
    if start != domain.offset:
        raise BrokenCheckpoint(
            f"tokenizer_{domain.name.upper()}.model has {domain.n_pieces} pieces; the GGUF has "
            f"{domain.ids.stop - start} places for them, ids {start}..{domain.ids.stop - 1}: "
            f"the file belongs to another model."
        )


def _named_tokens(sidecars: SidecarFolder, tokens: Sequence[str]) -> list[AddedToken]:
    """The added tokens of the files, which must be the GGUF's."""
    added = read_added_tokens(sidecars, {})
    for token in added:
        stored = tokens[token.id] if 0 <= token.id < len(tokens) else None
        if stored != token.content and not (stored is not None and _PLACEHOLDER.fullmatch(stored)):
            raise BrokenCheckpoint(
                f"The added token {token.content!r} has id {token.id} in the files beside the GGUF, where the GGUF has "
                f"{'no token' if stored is None else repr(stored)}: the files belong to another model. Move them away."
            )
    return added
