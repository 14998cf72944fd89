"""The science tokenizer: the published vectors, and each rule of switching vocabularies on a tiny model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

import pytest

from interns1_local.errors import LoadError, Unsupported
from interns1_local.tokenizer.science import AddedToken, Domain, ImageSlot, ImageTokens, ScienceTokenizer
from tests.tokenizer.sentencepiece_proto import model_proto, model_with_pieces_at

# Pieces of the published SMILES vocabulary whose ids are known from the reference's own vectors.
SMILES_PIECES = {3: "CC", 191: "1", 32: "=CC=CC=C", 185: "C", 57: "=O", 29: "=CC=C(", 38: "C=C", 21: ")C"}
# The ids of the base vocabulary that the same vectors show.
BASE = {"Describe": 74785, "Ġ": 220, "Ġand": 323}
MOLFORMULA = ["<M", "OL", "FORM", "ULA", ">"]


def published() -> ScienceTokenizer:
    vocabulary = {**BASE, **{piece: 500 + n for n, piece in enumerate([*MOLFORMULA, *"CHO156", "</", "M"])}}
    spelling = {id: piece for piece, id in vocabulary.items()}
    longest_first = re.compile("|".join(re.escape(piece) for piece in sorted(vocabulary, key=len, reverse=True)))

    def base_encode(text: str) -> list[int]:
        return [vocabulary[piece] for piece in longest_first.findall(text.replace(" ", "Ġ"))]

    tags = ["<SMILES>", "</SMILES>", "<SELFIES>", "</SELFIES>"]
    added = [AddedToken(151925 + place, tag, True) for place, tag in enumerate(tags)]
    smiles = Domain(model_with_pieces_at(SMILES_PIECES, 256), 151669)
    return ScienceTokenizer(base_encode, added, {"smiles": smiles}, None, base_piece=spelling.__getitem__)


TAGGED_IDS = """
    74785 220 151925 151854 151860 151698 151707 151860 151690 151726 151926 323 220
    151672 151860 151701 151860 151854 151726
"""
FOUND_IDS = "74785 220 151854 151860 151698 151707 151860 151690 151726"


@pytest.mark.parametrize(
    ("text", "ids", "pieces"),
    [
        (
            "Describe <SMILES>C1=CC=C(C=C1)C=O</SMILES> and CC1=CC=CC=C1C=O",
            TAGGED_IDS,
            "Describe Ġ <SMILES> C 1 =CC=C( C=C 1 )C =O </SMILES> Ġand Ġ CC 1 =CC=CC=C 1 C =O",
        ),
        ("Describe C1=CC=C(C=C1)C=O", FOUND_IDS, "Describe Ġ C 1 =CC=C( C=C 1 )C =O"),
        ("<MOLFORMULA>C6H15O6<MOLFORMULA>", None, "<M OL FORM ULA > C 6 H 1 5 O 6 <M OL FORM ULA >"),
    ],
)
def test_published_vectors(text: str, ids: str | None, pieces: str) -> None:
    tokenizer = published()
    encoded = tokenizer.encode(text)
    assert ids is None or encoded == [int(id) for id in ids.split()]
    tokens = tokenizer.tokens(text)
    assert " ".join(token.piece for token in tokens) == pieces
    assert [token.id for token in tokens] == encoded
    assert all((token.domain == "smiles") is (151669 <= token.id < 151925) for token in tokens)


# A tiny model: base token = byte; every other vocabulary knows single characters.
ADDED = ["<SMILES>", "</SMILES>", "<SELFIES>", "</SELFIES>", "<IUPAC>", "</IUPAC>", "<FASTA>", "</FASTA>", "<x>"]
ADDED += ["<IMG_CONTEXT>", "<img>", "</img>"]
CONTEXT, START, END = (9000 + ADDED.index(name) for name in ("<IMG_CONTEXT>", "<img>", "</img>"))
OFFSETS = {"smiles": 1000, "iupac": 2000, "fasta": 3000}
LETTERS = {"smiles": "CNO=()1[]c", "iupac": "abcdefgh\u2581", "fasta": "ACDEFGHIKLMNPQRSTVWY"}


def tiny(domains: Sequence[str] = tuple(OFFSETS), image: bool = True, base_pieces: bool = True) -> ScienceTokenizer:
    return ScienceTokenizer(
        lambda text: list(text.encode()),
        [AddedToken(9000 + place, content, True) for place, content in enumerate(ADDED)],
        {name: Domain(model_proto(list(LETTERS[name])), OFFSETS[name]) for name in domains},
        ImageTokens(CONTEXT, START, END) if image else None,
        base_piece=chr if base_pieces else None,
    )


def spell(ids: list[int | ImageSlot]) -> str:
    """`C` as it is for bytes, `{C}` with the vocabulary's initial for science pieces, added tokens as they are."""

    def show(id: int | ImageSlot) -> tuple[str, str]:
        if isinstance(id, ImageSlot):
            return "", f"#{id.index}"
        if id >= 9000:
            return "", ADDED[id - 9000]
        if id < 1000:
            return "", chr(id)
        name = {1: "smiles", 2: "iupac", 3: "fasta"}[id // 1000]
        return name[0], ["<unk>", "<s>", "</s>", *LETTERS[name]][id % 1000]

    text = ""
    for initial, run in groupby(map(show, ids), key=lambda shown: shown[0]):
        piece = "".join(piece for _, piece in run)
        text += f"{initial}{{{piece}}}" if initial else piece.encode("latin-1").decode()
    return text


PROTEIN = "MKTAYIAKQRQISFVKSHFSRQLEERL"
MOLECULE = "CC(=O)OC1=CC=CC=C1C(=O)O"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("plain", "plain"),
        ("<SMILES>CCO</SMILES>CCO", "<SMILES>s{CCO}</SMILES>CCO"),
        ("<SELFIES>[C][O]</SELFIES>", "<SELFIES>s{[C][O]}</SELFIES>"),
        ("<IUPAC>bad cab</IUPAC>", "<IUPAC>i{bad\u2581cab}</IUPAC>"),
        ("<FASTA>MK</FASTA>", "<FASTA>f{MK}</FASTA>"),
        # An unclosed tag holds to the end, and a nested one comes back to the outer one.
        ("<SMILES>CC", "<SMILES>s{CC}"),
        ("<SMILES>C<IUPAC>c</IUPAC>C</SMILES>C", "<SMILES>s{C}<IUPAC>i{c}</IUPAC>s{C}</SMILES>C"),
        # A closing tag closes whatever is open; one too many closes nothing.
        ("<SMILES>C</IUPAC>C", "<SMILES>s{C}</IUPAC>C"),
        ("</SMILES>C<SMILES>C", "</SMILES>C<SMILES>s{C}"),
        ("<SMILES>C<x>C", "<SMILES>s{C}<x>s{C}"),
        # Found without tags.
        (f"is {MOLECULE}.", f"is s{{{MOLECULE}}}."),
        (f"是{MOLECULE}吗", f"是s{{{MOLECULE}}}吗"),
        (f"a{MOLECULE}", f"a{MOLECULE}"),
        (f"{MOLECULE}z", f"{MOLECULE}z"),
        (f"a{PROTEIN}b", f"af{{{PROTEIN}}}b"),
        (PROTEIN[:26], PROTEIN[:26]),
        (f"{MOLECULE} {MOLECULE}", f"s{{{MOLECULE}}} s{{{MOLECULE}}}"),
        # A molecule that is a long run of capitals is a protein to the second search.
        ("C" * 27, f"f{{{'C' * 27}}}"),
        ("C" * 27 + "1CC1", f"f{{{'C' * 27}}}s{{1CC1}}"),
        # Nothing is found inside tags and inside <MOLFORMULA>, whose second opener does not close.
        (f"<IUPAC>{PROTEIN}</IUPAC>", f"<IUPAC>{PROTEIN}</IUPAC>"),
        (f"<MOLFORMULA>{MOLECULE}</MOLFORMULA>", f"<MOLFORMULA>{MOLECULE}</MOLFORMULA>"),
        (f"<MOLFORMULA>C<MOLFORMULA>{MOLECULE}", f"<MOLFORMULA>C<MOLFORMULA>{MOLECULE}"),
        (f"<MOLFORMULA>C</MOLFORMULA>{MOLECULE}", f"<MOLFORMULA>C</MOLFORMULA>s{{{MOLECULE}}}"),
        (f"</MOLFORMULA>{MOLECULE}", f"</MOLFORMULA>s{{{MOLECULE}}}"),
        # The marks have no id: they are read as letters, and inside a tag such letters belong to its vocabulary.
        ("<SMILES><MOLFORMULA>C", "<SMILES><Ms{O}LFs{O}RMULA>s{C}"),
        # What a science vocabulary does not know falls back to byte pairs.
        ("<SMILES>C你C C</SMILES>", "<SMILES>s{C}你s{C} s{C}</SMILES>"),
        # Byte pairs never see U+2581, and text is in normal form C.
        ("a\u2581b", "a b"),
        ("e\u0301", "é"),
        # In a plain string even the place of a picture is a token.
        ("<IMG_CONTEXT>", "<IMG_CONTEXT>"),
    ],
)
def test_switching_vocabularies(text: str, expected: str) -> None:
    assert spell(tiny().encode(text)) == expected


def test_a_base_token_that_a_science_vocabulary_spells_the_same_takes_its_id() -> None:
    domains = {"fasta": Domain(model_proto(["A"]), 3000)}
    added = [AddedToken(1, "<FASTA>", True)]
    words = {"</s>": 77, "x": 78}
    tokenizer = ScienceTokenizer(lambda text: [words[text]], added, domains, None, base_piece={77: "</s>", 78: "x"}.get)
    # All of "</s>" is unknown to the vocabulary, but it has a piece of that name.
    assert tokenizer.encode("<FASTA></s>A") == [1, 3002, 3003]
    assert tokenizer.encode("<FASTA>xA") == [1, 78, 3003]
    assert tokenizer.encode("</s>") == [77]


def test_without_science_vocabularies_text_is_plain() -> None:
    tokenizer = tiny(domains=(), base_pieces=False)
    text = f"<SMILES>{MOLECULE}<MOLFORMULA> e\u0301 \u2581{PROTEIN}"
    assert tokenizer.encode(text)[0] == 9000
    assert tokenizer.encode(text)[1:] == list(f"{MOLECULE}<MOLFORMULA> é \u2581{PROTEIN}".encode())


def test_only_the_vocabularies_that_exist_are_used() -> None:
    text = f"<IUPAC>{PROTEIN} {MOLECULE}"
    assert spell(tiny(domains=("smiles",)).encode(text)) == f"<IUPAC>{PROTEIN} s{{{MOLECULE}}}"
    assert spell(tiny(domains=("fasta",)).encode(text)) == f"<IUPAC>f{{{PROTEIN}}} {MOLECULE}"


def test_pictures_in_a_prompt() -> None:
    prompt = ["look at <IMG", "_CONTEXT>: ", ImageSlot(0), ImageSlot(1), f"\n{MOLECULE}", "CC"]
    shown = spell(tiny().encode(prompt))
    assert shown == f"look at <IMG_CONTEXT>: <img>#0</img><img>#1</img>\ns{{{MOLECULE}CC}}"
    # Written by somebody, the place of a picture is letters, not the token.
    assert CONTEXT not in tiny().encode(prompt)
    assert tiny().encode("<IMG_CONTEXT>") == [CONTEXT]


def test_a_picture_does_not_close_a_tag() -> None:
    assert spell(tiny().encode(["<SMILES>C", ImageSlot(0), "C"])) == "<SMILES>s{C}<img>#0</img>s{C}"


def test_an_encoder_that_knows_the_picture_token_by_itself() -> None:
    def base_encode(text: str) -> list[int]:
        parts = text.split("<IMG_CONTEXT>")
        return [id for place, part in enumerate(parts) for id in ([CONTEXT] if place else []) + list(part.encode())]

    added = [AddedToken(CONTEXT, "<IMG_CONTEXT>", False)]
    tokenizer = ScienceTokenizer(base_encode, added, {}, ImageTokens(CONTEXT, START, END))
    for text in ("<IMG_CONTEXT>", "a<IMG_CONTEXT>b<IMG_CONTEXT><IMG_CONTEXT>c\0"):
        assert tokenizer.encode([text]) == list(text.encode())


def test_a_model_without_pictures_refuses_a_slot() -> None:
    with pytest.raises(Unsupported, match="pictures"):
        tiny(image=False).encode([ImageSlot(0)])


def test_half_surrogates_are_replaced() -> None:
    assert tiny().encode("\ud83d\ude00 \ud800") == list("😀 \ufffd".encode())


def test_a_broken_vocabulary_is_a_load_error() -> None:
    with pytest.raises(LoadError, match="smiles"):
        ScienceTokenizer(lambda text: [], [], {"smiles": Domain(b"no protobuf", 1)}, None)


@pytest.mark.parametrize("text", ["C1CC1(" * 40_000, "<SMILES>" * 20_000, "<SMILES>C1CC1(" * 10_000, "<" * 200_000])
def test_hostile_text_returns(text: str) -> None:
    assert tiny().encode(text)
