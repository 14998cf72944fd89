"""Token ids: ours, from the converted file, against the reference tokenizer, from the checkpoint."""

from __future__ import annotations

import json
import random
import shutil
import unicodedata
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from convert.hf_to_gguf import convert
from interns1_local.engine.llama import Model
from interns1_local.engine.offload import ON_CPU
from interns1_local.nano import CHECKPOINT
from interns1_local.runners.model_spec import read_model_facts
from interns1_local.runners.text_codec import TextCodec
from tests.nano import facts, families
from tests.nano.conftest import Converted
from tests.nano.reference_tokenizer import ReferenceTokenizer
from tests.nano.true_layout import write_true_layout

DATA = Path(__file__).parents[1] / "data" / "qwen2_subset.json"
WORDS = "the a reaction of with and yields at 37 °C pH 7.4 (cf. ref. [12]) é naïve ﬁ Å".split()
WORDS += "分子 蛋白质 是 什么 你好，世界！".split()
ATOMS = r"C CC N O (C) =O (=O) c1ccccc1 [Na+] [nH] Cl Br #N /C=C/ \ 1 %10".split()
TAGS = ["<SMILES>", "</SMILES>", "<SELFIES>", "</SELFIES>", "<IUPAC>", "</IUPAC>", "<FASTA>", "</FASTA>"]
MARKS = [*TAGS, "<MOLFORMULA>", "</MOLFORMULA>", "<think>", "</think>", "<|im_end|>", "<img>", "<|plugin|>", "<SMIL"]


def random_text(rng: random.Random) -> str:
    """A few words, molecules, proteins and broken markup, glued in odd ways."""
    parts = []
    for _ in range(rng.randint(1, 7)):
        kind = rng.random()
        if kind < 0.35:
            parts.append(" ".join(rng.choices(WORDS, k=rng.randint(1, 4))))
        elif kind < 0.55:
            parts.append("".join(rng.choices(ATOMS, k=rng.randint(2, 14))))
        elif kind < 0.65:
            parts.append(rng.choice(list(facts.MOLECULES.values()))[0])
        elif kind < 0.75:
            parts.append("".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=rng.randint(5, 40))))
        else:
            parts.append(rng.choice(MARKS))
    return rng.choice(["", " ", "\n", ", "]).join(parts)


@pytest.fixture(scope="module")
def codec(nano_gguf: Callable[..., Converted]):
    path = nano_gguf("Q8_0")[0]
    model = Model(path, ON_CPU)
    yield TextCodec(read_model_facts(path, None).metadata, model.vocab.encode)
    model.close()


def ids(codec: TextCodec, text: str) -> list[int]:
    return [token["id"] for token in codec.describe(text).tokens]


@pytest.fixture(scope="module")
def theirs() -> ReferenceTokenizer:
    return ReferenceTokenizer(CHECKPOINT)


def test_bulk(codec: TextCodec, theirs: ReferenceTokenizer) -> None:
    rng = random.Random(41)
    texts = [random_text(rng) for _ in range(3000)]
    wrong = [(text, ids(codec, text), theirs.encode(text)) for text in texts if ids(codec, text) != theirs.encode(text)]
    assert not wrong, f"{len(wrong)} of {len(texts)}; first: {wrong[0]}"


@pytest.mark.parametrize("family", list(families.ALL))
def test_prompts_and_answers(family: str, codec: TextCodec, theirs: ReferenceTokenizer) -> None:
    rng = random.Random(7)
    for _ in range(20):
        sample = families.ALL[family](rng, True)
        for text in [m["content"] for m in sample.messages] + [sample.thought, sample.reply]:
            assert ids(codec, text) == theirs.encode(text)


def test_decoding_gives_the_text_back(codec: TextCodec, theirs: ReferenceTokenizer) -> None:
    for smiles, iupac in facts.MOLECULES.values():
        for text in (f"<SMILES>{smiles}</SMILES>", f"<IUPAC>{iupac}</IUPAC>", f"Take {smiles}, then 水."):
            tokens = theirs.encode(text)
            data = b"".join(codec.token_bytes(token, False) for token in tokens)
            assert data.decode() == theirs.decode(tokens, skip_special=False) == text
            plain = b"".join(codec.token_bytes(token, True) for token in tokens).decode()
            assert plain == theirs.decode(tokens)


def test_the_routes(served: Callable[[str], str], server: str, theirs: ReferenceTokenizer) -> None:
    text = "e\u0301 CC(=O)OC1=CC=CC=C1C(=O)O <|im_end|>水"
    with httpx.Client(base_url=server, timeout=120) as client:
        asked = {"model": served("Q8_0"), "content": text}
        answer = client.post("/api/tokenize", json=asked).json()
        assert answer == {"model": asked["model"], "tokens": theirs.encode(text)}
        detailed = client.post("/api/tokenize", json=asked | {"details": True}).json()
        plain = client.post("/api/tokenize", json=asked | {"details": True, "stock": True}).json()
        back = client.post("/api/detokenize", json=asked | {"tokens": answer["tokens"]}).json()
    assert detailed["content"] == back["content"] == unicodedata.normalize("NFC", text)
    assert plain["content"] == text and plain["tokens"] != answer["tokens"]
    assert [token["id"] for token in detailed["details"]] == answer["tokens"]
    molecule = [token for token in detailed["details"] if token["domain"] == "smiles"]
    assert (
        "".join(detailed["content"][token["start"] : token["end"]] for token in molecule) == "CC(=O)OC1=CC=CC=C1C(=O)O"
    )
    assert all(token["domain"] is None for token in plain["details"])


# -- the published vectors of Intern-S1, on the part of the real vocabulary that they touch

SMILES_PIECES = {"CC": 3, "1": 191, "=CC=CC=C": 32, "C": 185, "=O": 57, "=CC=C(": 29, "C=C": 38, ")C": 21}
MOLECULE_TEXT = "Describe <SMILES>C1=CC=C(C=C1)C=O</SMILES> and CC1=CC=CC=C1C=O"
MOLECULE_IDS = [
    *(74785, 220, 151925, 151854, 151860, 151698, 151707, 151860, 151690, 151726, 151926, 323, 220, 151672),
    *(151860, 151701, 151860, 151854, 151726),
]
VECTORS = [
    *((case["text"], case["ids"]) for case in json.loads(DATA.read_text(encoding="utf-8"))["vectors"]),
    (MOLECULE_TEXT, MOLECULE_IDS),
    ("Describe C1=CC=C(C=C1)C=O", [74785, 220, 151854, 151860, 151698, 151707, 151860, 151690, 151726]),
    (
        "<MOLFORMULA>C6H15O6<MOLFORMULA>",
        [33274, 1930, 10818, 58069, 29, 34, 21, 39, 16, 20, 46, 21, 33274, 1930, 10818, 58069, 29],
    ),
]


@pytest.fixture(scope="module")
def true_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder in Intern-S1's own id layout: 151643 base ids, 256/512/512 science pieces, 153216 in all."""
    return write_true_layout(tmp_path_factory.mktemp("true"), DATA, SMILES_PIECES)


@pytest.fixture(scope="module")
def true_codec(true_layout: Path, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.mktemp("true-gguf") / "true.gguf"
    convert(true_layout, path, type="F16")
    model = Model(path, ON_CPU)
    yield TextCodec(read_model_facts(path, None).metadata, model.vocab.encode)
    model.close()
    shutil.rmtree(path.parent)


@pytest.mark.parametrize(("text", "expected"), VECTORS, ids=[text[:24] for text, _ in VECTORS])
def test_published_vectors(text: str, expected: list[int], true_layout: Path, true_codec: TextCodec) -> None:
    assert ReferenceTokenizer(true_layout).encode(text) == expected
    assert ids(true_codec, text) == expected
