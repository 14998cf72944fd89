"""One science vocabulary: a SentencePiece model and the place of its pieces among the model's token ids."""

from __future__ import annotations

from interns1_local.errors import LoadError
from interns1_local.tokenizer.vocabulary import Domain

UNKNOWN = 0


class DomainModel:
    """Encodes text into pieces, and knows the token id of every piece."""

    def __init__(self, name: str, domain: Domain) -> None:
        self.name = name
        self.offset = domain.offset
        # Most models have no such vocabulary.
        import sentencepiece

        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=domain.model_proto)
            self.pieces = [self._model.IdToPiece(index) for index in range(self._model.GetPieceSize())]
        except (RuntimeError, ValueError, TypeError) as error:
            raise LoadError(f"the {name} vocabulary of this model is not a SentencePiece model: {error}") from error
        unknown = self._model.unk_id()
        self._ids = {piece: index + self.offset for index, piece in enumerate(self.pieces) if index != unknown}

    def encode(self, text: str) -> list[int | str]:
        """The text as token ids; characters that this vocabulary does not know stay text."""
        ids = self._model.EncodeAsIds(text)
        if UNKNOWN not in ids:
            return [index + self.offset for index in ids]
        pieces = self._model.EncodeAsPieces(text)
        return [index + self.offset if index else piece for piece, index in zip(pieces, ids, strict=True)]

    def token_id(self, piece: str) -> int | None:
        """The token id of a piece, or None when this vocabulary does not have it."""
        return self._ids.get(piece)

    def piece_bytes(self, index: int) -> bytes:
        """What piece number `index` adds to the text."""
        piece = self.pieces[index]
        if self._model.IsByte(index):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("\u2581", " ").encode("utf-8", "replace")
