"""Ids back to bytes and text."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from interns1_local.tokenizer.detokenizer import Detokenizer, IncrementalText, Pieces, byte_alphabet
from interns1_local.tokenizer.vocabulary import Domain
from tests.tokenizer.sentencepiece_proto import model_proto

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


def test_the_byte_alphabet() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    known = {"!": 33, "~": 126, "Ġ": 32, "Ċ": 10, "ĉ": 9, "Ā": 0, "ł": 160, "Ń": 173, "ÿ": 255, "ġ": 127}
    assert {character: alphabet[character] for character in known} == known


def test_byte_level_pieces() -> None:
    tokens = ["Ġand", "ä½łå¥½", "ð", "<|im_end|>", "<tool>é", "[PAD5]", "中"]
    types = [NORMAL, NORMAL, NORMAL, CONTROL, USER_DEFINED, UNUSED, NORMAL]
    expected = [b" and", "你好".encode(), b"\xf0", b"<|im_end|>", "<tool>é".encode(), b"", "中".encode()]
    assert list(Pieces(tokens, types, {}, "gpt2")) == expected


def test_sentencepiece_pieces() -> None:
    tokens = ["<unk>", "<s>", "<0x0A>", "\u2581hello", "é", "<|plugin|>", "[PAD]"]
    types = [UNKNOWN, CONTROL, BYTE, NORMAL, NORMAL, USER_DEFINED, UNUSED]
    expected = [b"<unk>", b"<s>", b"\n", b" hello", "é".encode(), b"<|plugin|>", b""]
    assert list(Pieces(tokens, types, {}, "llama")) == expected


def test_science_pieces_take_their_places() -> None:
    proto = model_proto(["=CC=C(", "C", "\u2581a", "bc", "é"])
    tokens = ["x", *(f"[PAD{id}]" for id in range(1, 12)), "</SMILES>"]
    pieces = list(Pieces(tokens, [NORMAL, *[UNUSED] * 11, CONTROL], {"smiles": Domain(proto, 2)}, "gpt2"))
    assert pieces[:2] == [b"x", b""]
    assert pieces[5:10] == [b"=CC=C(", b"C", b" a", b"bc", "é".encode()]
    assert pieces[10:] == [b"", b"", b"</SMILES>"]


def test_science_pieces_that_are_bytes() -> None:
    proto = model_proto([*(f"<0x{byte:02X}>" for byte in range(256)), "C"])
    pieces = list(Pieces([], [], {"smiles": Domain(proto, 0)}, "gpt2"))
    assert b"".join(pieces[3:]) == bytes(range(256)) + b"C"


def test_a_vocabulary_that_reaches_beyond_the_file() -> None:
    pieces = Pieces(["x"], [NORMAL], {"smiles": Domain(model_proto(["C"]), 3)}, "gpt2")
    assert len(pieces) == 7 and list(pieces) == [b"x", b"", b"", b"<unk>", b"<s>", b"</s>", b"C"]


def test_the_later_of_two_vocabularies_has_the_ids_that_both_claim() -> None:
    domains = {name: Domain(model_proto([name]), 1) for name in ("smiles", "fasta")}
    assert list(Pieces(["x"], [NORMAL], domains, "gpt2")) == [b"x", b"<unk>", b"<s>", b"</s>", b"fasta"]


def test_special_tokens_are_hidden_unless_somebody_needs_them() -> None:
    detokenizer = Detokenizer([b"a", b"<|im_end|>", b"<think>"], special={1, 2}, visible={2})
    assert [detokenizer.token_bytes(id) for id in range(-1, 4)] == [b"", b"a", b"", b"<think>", b""]
    assert detokenizer.token_bytes(1, skip_special=False) == b"<|im_end|>"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.text(max_size=20), st.data())
def test_text_is_whole_however_its_bytes_are_cut(text: str, data: st.DataObject) -> None:
    encoded = text.encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded)), max_size=5)))
    incremental = IncrementalText()
    shown = [incremental.decode(encoded[a:b]) for a, b in zip([0, *cuts], [*cuts, len(encoded)], strict=True)]
    assert "".join(shown) == text
    assert "\ufffd" not in "".join(shown).replace("\ufffd", "" if "\ufffd" in text else "\ufffd")
    assert incremental.flush() == ""


def test_a_character_waits_for_its_last_byte() -> None:
    incremental = IncrementalText()
    assert [incremental.decode(bytes([byte])) for byte in "é你".encode()] == ["", "é", "", "", "你"]
    assert incremental.decode(b"a\xe4") == "a"
    assert incremental.flush() == "\ufffd"
    assert incremental.decode(b"\xff") == "\ufffd"
