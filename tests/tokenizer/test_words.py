"""Byte pairs word by word: long words, forgotten words, and files whose merges lead nowhere."""

from __future__ import annotations

import pytest

from interns1_local.errors import LoadError
from interns1_local.tokenizer import words
from interns1_local.tokenizer.detokenizer import byte_alphabet
from interns1_local.tokenizer.words import WordEncoder

VOCABULARY = {letter: byte for letter, byte in byte_alphabet().items()} | {"ab": 256, "Ġab": 257, "abab": 258}
MERGES = ["a b", "Ġ ab", "ab ab"]


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("", []),
        ("ab ab", [256, 257]),
        ("abab", [258]),
        ("ab\n\nab", [256, 10, 10, 256]),
        ("é", [0xC3, 0xA9]),
        ("\0ab", [0, 256]),
        ("ab  ab", [256, 32, 257]),
        ("1ab", [49, 256]),
        ("'s'S'ſ", list("'s'S'ſ".encode())),
    ],
)
def test_words(text: str, ids: list[int]) -> None:
    encoder = WordEncoder(VOCABULARY, MERGES)
    assert encoder.encode(text) == encoder.encode(text) == ids


def test_a_word_of_a_megabyte() -> None:
    assert WordEncoder(VOCABULARY, MERGES).encode("ab" * 500_000) == [258] * 250_000


def test_words_are_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_MAX_WORDS", 3)
    encoder = WordEncoder(VOCABULARY, MERGES)
    for _ in range(2):
        for letter in "abcdefgh":
            assert encoder.encode(f"{letter} ab") == [ord(letter), 257]
    assert len(encoder._known) <= 3


@pytest.mark.parametrize("merges", [["a b", "x y z"], ["a b", "ab c"], ["ab"], [""]])
def test_merges_that_lead_nowhere(merges: list[str]) -> None:
    with pytest.raises(LoadError, match="merges"):
        WordEncoder(VOCABULARY, merges)
