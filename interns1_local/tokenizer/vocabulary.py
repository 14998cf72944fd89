"""What a science tokenizer is built from and gives back: added tokens, domains, picture slots, displayed tokens."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is found in text as a whole, before any other splitting, with the strip rules of Hugging Face."""

    id: int
    content: str
    special: bool
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


@dataclass(frozen=True, slots=True)
class Domain:
    """A science vocabulary: a serialized SentencePiece model whose piece `i` is token `offset + i`."""

    model_proto: bytes = field(repr=False)
    offset: int


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """Ids around a picture, and of the place that each of its embeddings takes."""

    context: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ImageSlot:
    """The place of the i-th picture in a prompt."""

    index: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token for display; `domain` names the science vocabulary that it comes from.

    `start` and `end` are its characters in the normalized text; None where its spelling is not found there.
    """

    id: int
    piece: str
    domain: str | None = None
    start: int | None = None
    end: int | None = None
