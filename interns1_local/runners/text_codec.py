"""The worker's tokenizer and detokenizer, built from what the model's file says."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from interns1_local.errors import LoadError
from interns1_local.tokenizer.detokenizer import CONTROL, NORMAL, USER_DEFINED, VISIBLE, Detokenizer, Pieces
from interns1_local.tokenizer.molecules import SmilesDetection
from interns1_local.tokenizer.science import (
    AddedToken,
    Domain,
    ImageSlot,
    ImageTokens,
    ScienceTokenizer,
    Token,
    normalize,
)
from interns1_local.tokenizer.sentencepiece_text import SentencePieceText, model_proto
from interns1_local.tokenizer.spans import token_spans
from interns1_local.tokenizer.words import WordEncoder

# llama.cpp's names for the way that Qwen2's tokenizer splits words.
_QWEN2_WORDS = ("qwen2", "deepseek-r1-qwen")
_ADDED_TOKENS = "interns1.tokenizer.added_tokens"
_IMAGE_TEXTS = {"context": "<IMG_CONTEXT>", "start": "<img>", "end": "</img>"}

Encode = Callable[..., list[int]]
Types = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Description:
    """A text as a model reads it, and its tokens: id, piece, domain, and start and end in characters of the text."""

    content: str
    tokens: list[dict[str, Any]]


class TextCodec:
    """Text to ids and ids to bytes for one model. `encode(text, parse_special)` is llama.cpp's own vocabulary."""

    def __init__(self, fields: Mapping[str, Any], encode: Encode, *, detection: SmilesDetection | None = None) -> None:
        """`detection` says what accepts a molecule; by default the reference's own choice, see tokenizer/molecules."""
        tokens: Sequence[str] = fields.get("tokenizer.ggml.tokens") or []
        types = np.array(fields.get("tokenizer.ggml.token_type", ()), np.int64)
        types = types if len(types) else np.full(len(tokens), NORMAL, np.int64)
        if not tokens or len(types) != len(tokens):
            raise LoadError(f"the file's vocabulary has {len(tokens)} tokens and {len(types)} types")
        self._encode = encode
        self._byte_level = fields.get("tokenizer.ggml.model") == "gpt2"
        model: Literal["gpt2", "llama"] = "gpt2" if self._byte_level else "llama"
        domains = _domains(fields)
        added = _added_tokens(fields, tokens, types)
        self._image = _image_tokens(fields, added)
        self._encode_text = _sentencepiece_encoder(fields, tokens, types, added) or partial(encode, parse_special=True)
        if self._byte_level:
            self._tokenizer = ScienceTokenizer(
                _base_encoder(fields, tokens, types) or encode,
                added,
                domains,
                self._image,
                base_piece=lambda token: tokens[token],
                detection=detection,
            )
        special = {token.id for token in added if token.special}
        # The stock converter types every <|token|> as control; the checkpoint's own list knows better.
        special |= set(np.flatnonzero(types == CONTROL).tolist()) - {token.id for token in added}
        texts = set(VISIBLE)
        visible = {i for i in special if i < len(tokens) and tokens[i] in texts}
        visible |= {token.id for token in added if token.content in texts}
        self._tokens = tokens
        # No text of an answer: hidden, or a mark that parsers look for. Other added tokens are text.
        self.mark_ids = special | visible
        self._detokenizer = Detokenizer(Pieces(tokens, types, domains, model), special, visible)

    def encode(self, prompt: str | Sequence[str | ImageSlot]) -> list[int | ImageSlot]:
        """Ids of a prompt, with each image slot in its place."""
        if self._byte_level:
            return self._tokenizer.encode(prompt)
        ids: list[int | ImageSlot] = []
        for part in [prompt] if isinstance(prompt, str) else prompt:
            ids += [part] if isinstance(part, ImageSlot) else self._encode_text(part)
        return ids

    def describe(self, text: str, stock: bool = False) -> Description:
        """How the model reads a text: the text as it is read, and of each token id, piece, domain and place in it.

        With `stock`, how llama.cpp alone reads it: not normalized, without science vocabularies.
        """
        whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if stock:
            found = [Token(token, self._tokens[token]) for token in self._encode(whole, True)]
        elif self._byte_level:
            whole = normalize(text)
            found = self._tokenizer.tokens(text)
        else:
            found = [Token(token, self._tokens[token]) for token in self._encode_text(whole)]
        # SentencePiece's sign for a space: to byte pairs it is one, as many characters long.
        shown = whole if stock else whole.replace("\u2581", " ")
        spans = token_spans(shown, [self.token_bytes(token.id, False) for token in found])
        tokens = [
            asdict(replace(token, start=start, end=end)) for token, (start, end) in zip(found, spans, strict=True)
        ]
        return Description(whole, tokens)

    def token_bytes(self, token: int, skip_special: bool = True) -> bytes:
        """What a token adds to the text."""
        return self._detokenizer.token_bytes(token, skip_special)


def _base_encoder(fields: Mapping[str, Any], tokens: Sequence[str], types: Types) -> Callable[[str], list[int]] | None:
    """The fast encoder of byte pairs, where the file splits words as Qwen2 does and its merges are whole."""
    merges = fields.get("tokenizer.ggml.merges")
    if (
        fields.get("tokenizer.ggml.model") != "gpt2"
        or fields.get("tokenizer.ggml.pre") not in _QWEN2_WORDS
        or not merges
    ):
        return None
    kinds = types.tolist()
    vocabulary = {token: id for id, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == NORMAL}
    try:
        return WordEncoder(vocabulary, merges).encode
    except LoadError:
        return None  # llama.cpp takes merges that lead nowhere


def _sentencepiece_encoder(
    fields: Mapping[str, Any], tokens: Sequence[str], types: Types, added: Sequence[AddedToken]
) -> Callable[[str], list[int]] | None:
    """SentencePiece itself for files that we wrote; of others, llama.cpp knows best what is a token in a text."""
    if fields.get("tokenizer.ggml.model") != "llama" or not fields.get(_ADDED_TOKENS):
        return None
    try:
        proto = model_proto(fields, tokens, types.tolist(), {token.id for token in added})
        return SentencePieceText(proto, added).encode
    except LoadError:
        return None


def _domains(fields: Mapping[str, Any]) -> dict[str, Domain]:
    found = {}
    for name in fields.get("interns1.tokenizer.domains") or []:
        key = f"interns1.tokenizer.{name}"
        try:
            found[name] = Domain(bytes(bytearray(fields[f"{key}.model"])), int(fields[f"{key}.offset"]))
        except (KeyError, ValueError, TypeError) as error:
            raise LoadError(f"the file's science vocabulary {name!r} is not whole: {error!r}") from error
    return found


def _added_tokens(fields: Mapping[str, Any], tokens: Sequence[str], types: Types) -> list[AddedToken]:
    stored = fields.get(_ADDED_TOKENS)
    if not stored:
        found = np.flatnonzero((types == CONTROL) | (types == USER_DEFINED)).tolist()
        return [AddedToken(i, tokens[i], bool(types[i] == CONTROL)) for i in found]
    names = ("id", "content", "special", "lstrip", "rstrip", "single_word")
    try:
        return [AddedToken(**{name: entry[name] for name in names if name in entry}) for entry in json.loads(stored)]
    except (ValueError, TypeError, KeyError) as error:
        raise LoadError(f"the file's list of added tokens cannot be read: {error!r}") from error


def _image_tokens(fields: Mapping[str, Any], added: Sequence[AddedToken]) -> ImageTokens | None:
    """From our own keys, or by their spelling in files that others converted."""
    by_text = {token.content: token.id for token in added}
    ids = {
        name: fields.get(f"interns1.image.{name}_token_id", by_text.get(text)) for name, text in _IMAGE_TEXTS.items()
    }
    if any(value is None for value in ids.values()):
        return None
    return ImageTokens(**{name: int(value) for name, value in ids.items()})
