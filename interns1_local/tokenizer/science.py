"""The tokenizer of Intern-S1: byte pairs, with a vocabulary of its own for each kind of scientific notation.

A tag such as `<SMILES>` switches the vocabulary until its closing tag; molecules and proteins without a tag are found
and switch it too. A piece that a science vocabulary does not know falls back to byte pairs. `<MOLFORMULA>` ends the
search.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from itertools import groupby

from interns1_local.errors import Unsupported
from interns1_local.tokenizer.added_tokens import AddedTokenSplitter
from interns1_local.tokenizer.fasta import find_sequences
from interns1_local.tokenizer.molecules import SmilesDetection, choose_detection, molecule_test
from interns1_local.tokenizer.sentencepiece_domain import DomainModel
from interns1_local.tokenizer.smiles import find_molecules
from interns1_local.tokenizer.vocabulary import AddedToken, Domain, ImageSlot, ImageTokens, Token

__all__ = ["AddedToken", "Domain", "ImageSlot", "ImageTokens", "ScienceTokenizer", "Token", "normalize"]

_PROTECT_BEGIN, _PROTECT_END = "<MOLFORMULA>", "</MOLFORMULA>"
# Marks around what was found without a tag. They have no id; they only switch the vocabulary.
_FOUND = {
    "smiles": ("<SMILES_AUTO_DETECT>", "</SMILES_AUTO_DETECT>"),
    "fasta": ("<FASTA_AUTO_DETECT>", "</FASTA_AUTO_DETECT>"),
}


class ScienceTokenizer:
    """Encodes prompts. With no domains it is plain: NFC, added tokens, byte pairs."""

    def __init__(
        self,
        base_encode: Callable[[str], list[int]],
        added_tokens: Sequence[AddedToken],
        domains: Mapping[str, Domain],
        image: ImageTokens | None,
        *,
        base_piece: Callable[[int], str] | None = None,
        detection: SmilesDetection | None = None,
    ) -> None:
        """`base_piece` gives the vocabulary's spelling of a base token, as in the file (a space is `Ġ`).

        `detection` says what accepts a molecule without a tag; by default the reference's own choice, see
        `choose_detection`.
        """
        self._base_encode = base_encode
        self._base_piece = base_piece
        self._image = image
        self._models = {name: DomainModel(name, domain) for name, domain in domains.items()}
        self._is_molecule = molecule_test(detection or choose_detection()) if "smiles" in domains else None
        marks = (_PROTECT_BEGIN, _PROTECT_END) if domains else ()
        self._splitter = AddedTokenSplitter(added_tokens, marks)
        self._added = self._splitter.tokens
        # Beside picture slots, the spelling of a picture's place in somebody's text is only text.
        beside = [token for token in added_tokens if image is None or token.id != image.context]
        self._splitter_beside_slots = AddedTokenSplitter(beside, marks)
        self._image_text = next((token.content for token in added_tokens if image and token.id == image.context), "")
        self._opens, self._closes = self._switches()

    def encode(self, prompt: str | Sequence[str | ImageSlot]) -> list[int | ImageSlot]:
        """Token ids of a prompt. Each slot stays in its place, between the ids that open and close a picture."""
        splitter = self._splitter if isinstance(prompt, str) else self._splitter_beside_slots
        parts = _split(prompt, splitter)
        added = splitter.tokens
        if self._models:
            parts = self._mark_found(parts, added)
        ids: list[int | ImageSlot] = []
        stack: list[DomainModel] = []
        for part in parts:
            if isinstance(part, ImageSlot):
                ids.extend((self._image_tokens.start, part, self._image_tokens.end))
            elif part in (_PROTECT_BEGIN, _PROTECT_END) and self._models:
                # These marks have no id of their own: the model reads them as letters.
                ids.extend(self._encode_base(part, stack[-1] if stack else None))
            elif part in added or part in self._opens or part in self._closes:
                if part in added:
                    ids.append(added[part].id)
                if part in self._opens:
                    stack.append(self._opens[part])
                elif part in self._closes and stack:
                    stack.pop()
            elif part:
                ids.extend(self._encode_domain(part, stack[-1]) if stack else self._encode_base(part, None))
        return ids

    def tokens(self, text: str) -> list[Token]:
        """The tokens of a text with their spelling and vocabulary, for display."""
        added = {token.id: token.content for token in self._added.values()}
        tokens = []
        for id in self.encode(text):
            if isinstance(id, int):
                tokens.append(Token(id, added[id]) if id in added else self._token(id))
        return tokens

    def _token(self, id: int) -> Token:
        for name, model in self._models.items():
            if model.offset <= id < model.offset + len(model.pieces):
                return Token(id, model.pieces[id - model.offset], name)
        return Token(id, self._base_piece(id) if self._base_piece else "")

    @property
    def _image_tokens(self) -> ImageTokens:
        if self._image is None:
            raise Unsupported("this model does not take pictures: its vocabulary has no picture tokens")
        return self._image

    def _switches(self) -> tuple[dict[str, DomainModel], dict[str, DomainModel]]:
        """The tags that switch to a vocabulary, and those that switch back."""
        tags = {name.upper(): model for name, model in self._models.items()}
        if "smiles" in self._models:
            tags["SELFIES"] = self._models["smiles"]
        opens = {f"<{tag}>": model for tag, model in tags.items() if f"<{tag}>" in self._added}
        closes = {f"</{tag}>": model for tag, model in tags.items() if f"</{tag}>" in self._added}
        for name, (begin, end) in _FOUND.items():
            if name in self._models:
                opens[begin] = closes[end] = self._models[name]
        return opens, closes

    def _mark_found(self, parts: Iterable[str | ImageSlot], added: Container[str]) -> list[str | ImageSlot]:
        """Put marks around molecules and proteins wherever no tag is open."""
        marked: list[str | ImageSlot] = []
        depth = 0
        for part in parts:
            if not isinstance(part, str) or part in added or part in (_PROTECT_BEGIN, _PROTECT_END):
                marked.append(part)
                if part in self._opens or part == _PROTECT_BEGIN:
                    depth += 1
                elif part in self._closes or part == _PROTECT_END:
                    depth = max(0, depth - 1)
            elif depth or not part:
                marked.append(part)
            else:
                marked.extend(self._found_in(part))
        return marked

    def _found_in(self, text: str) -> list[str]:
        parts = [text]
        if self._is_molecule is not None:
            parts = _cut(text, find_molecules(text, self._is_molecule), _FOUND["smiles"])
        if "fasta" in self._models:
            # Molecules are searched once more: a long run of capital letters in one is a protein to the reference.
            parts = [piece for part in parts for piece in _cut(part, find_sequences(part), _FOUND["fasta"])]
        return parts

    def _encode_domain(self, text: str, model: DomainModel) -> list[int]:
        ids: list[int] = []
        for item in model.encode(text):
            if isinstance(item, int):
                ids.append(item)
            else:
                ids.extend(self._encode_base(item, model))
        return ids

    def _encode_base(self, text: str, model: DomainModel | None) -> list[int]:
        """Byte pairs. Inside a tag, a pair that the science vocabulary spells the same way takes its id from there."""
        if self._models:
            text = text.replace("\u2581", " ")
        ids = self._base_encode(text)
        if self._image is not None and self._image.context in ids:
            # Some encoders know added tokens too. In text this one must stay letters, so it is cut after the first.
            head, tail = self._image_text[:1], self._image_text[1:]
            pieces = text.split(self._image_text)
            ids = self._base_encode(pieces[0] + head)
            for place, piece in enumerate(pieces[1:], 2):
                ids = ids + self._base_encode(tail + piece + (head if place < len(pieces) else ""))
        if model is None or self._base_piece is None:
            return ids
        own = [model.token_id(self._base_piece(id)) for id in ids]
        return [id if mine is None else mine for id, mine in zip(ids, own, strict=True)]


def _split(prompt: str | Sequence[str | ImageSlot], splitter: AddedTokenSplitter) -> list[str | ImageSlot]:
    if isinstance(prompt, str):
        return list(splitter.split(normalize(prompt)))
    parts: list[str | ImageSlot] = []
    for is_slot, run in groupby(prompt, key=lambda part: isinstance(part, ImageSlot)):
        if is_slot:
            parts.extend(run)
        else:
            parts.extend(splitter.split(normalize("".join(part for part in run if isinstance(part, str)))))
    return parts


def normalize(text: str) -> str:
    """The text as the tokenizer reads it: Unicode normal form C, half surrogates replaced."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # Half surrogates: whole pairs are joined, the rest cannot be encoded and is replaced.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return unicodedata.normalize("NFC", text)


def _cut(text: str, spans: Iterable[tuple[int, int]], marks: tuple[str, str]) -> list[str]:
    parts = []
    position = 0
    for start, end in spans:
        if start > position:
            parts.append(text[position:start])
        parts.extend((marks[0], text[start:end], marks[1]))
        position = end
    if position < len(text):
        parts.append(text[position:])
    return parts
