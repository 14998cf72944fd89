"""InternLM's tokenizers: added tokens are cut out, the library that trained the vocabulary encodes what is between."""

from __future__ import annotations

from pathlib import Path

import sentencepiece

from interns1_local.errors import LoadError
from interns1_local.reference.added_tokens import AddedTokens
from interns1_local.reference.folder import added_tokens


class SentencePieceTokenizer:
    """`encode(text)` -> ids, with no token added around them."""

    def __init__(self, folder: Path) -> None:
        file = folder / "tokenizer.model"
        if not file.is_file():
            raise LoadError(f"{folder} has no tokenizer.model; download it from the model's page")
        self.model = sentencepiece.SentencePieceProcessor(model_file=str(file))
        self.added = added_tokens(folder)
        self.split = AddedTokens(folder).split

    def encode(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self.split(text):
            ids += [self.added[part]] if part in self.added else self.model.encode(part)
        return ids

    def decode(self, ids: list[int], skip_special: bool = True) -> str:
        """The text of ids; added tokens are left out with `skip_special`."""
        names = {id: text for text, id in self.added.items()}
        out: list[str] = []
        for id in ids:
            if id in names:
                out += [] if skip_special else [names[id]]
            elif 0 <= id < self.model.get_piece_size():
                out.append(self.model.id_to_piece(id).replace("\u2581", " "))
        return "".join(out)
