"""The science vocabularies of Intern-S1: SentencePiece models stored whole, with the id of their first piece."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import sentencepiece

from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint
from convert.vocab_bpe import Vocabulary

DOMAINS = ("SMILES", "IUPAC", "FASTA")

# Some tokenizer versions fill a domain's ids with names of this form in vocab.json.
_FILLER = re.compile(r"<\|(SMILES|IUPAC|FASTA)_.*\|>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Domain:
    """Pieces 0..n of `model` have the ids offset..offset+n."""

    name: str
    model: bytes
    offset: int
    n_pieces: int

    @property
    def ids(self) -> range:
        return range(self.offset, self.offset + self.n_pieces)


def read_domains(checkpoint: Checkpoint, vocabulary: Vocabulary, vocab_size: int) -> list[Domain]:
    """The domains whose model files are present. A domain's pieces end where its opening tag stands."""
    domains = []
    for name in DOMAINS:
        file = f"tokenizer_{name}.model"
        model = checkpoint.raw(file)
        if model is None:
            continue
        tag = vocabulary.added_id(f"<{name}>")
        if tag is None:
            raise BrokenCheckpoint(f"{checkpoint.folder / file} is there, but there is no added token <{name}>.")
        n_pieces = _count_pieces(model, str(checkpoint.folder / file))
        domain = Domain(name.lower(), model, tag - n_pieces, n_pieces)
        _check_free(domain, vocabulary, vocab_size)
        domains.append(domain)
    return domains


def _count_pieces(model: bytes, file: str) -> int:
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except RuntimeError as error:
        raise BrokenCheckpoint(f"{file} is not a SentencePiece model: {error}.") from None
    return int(processor.GetPieceSize())


def _check_free(domain: Domain, vocabulary: Vocabulary, vocab_size: int) -> None:
    ids = domain.ids
    if ids.start < 0 or ids.stop > vocab_size:
        raise BrokenCheckpoint(
            f"The {domain.name} pieces would have ids {ids.start}..{ids.stop - 1}, outside the model."
        )
    others: Mapping[str, int] = {**vocabulary.base, **{token.content: token.id for token in vocabulary.added}}
    for content, id in others.items():
        if id in ids and not _FILLER.fullmatch(content):
            raise BrokenCheckpoint(
                f"The {domain.name} pieces have ids {ids.start}..{ids.stop - 1}, but id {id} is the token {content!r}."
            )


def fields(domains: list[Domain]) -> dict[str, Any]:
    keys: dict[str, Any] = {"interns1.tokenizer.domains": [domain.name for domain in domains]}
    for domain in domains:
        keys[f"interns1.tokenizer.{domain.name}.model"] = np.frombuffer(domain.model, np.uint8)
        keys[f"interns1.tokenizer.{domain.name}.offset"] = domain.offset
    return keys if domains else {}
