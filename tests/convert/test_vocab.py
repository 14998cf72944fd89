"""Tokenizer and metadata keys: names, types, special ids, science vocabularies, sampling, template."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece

from convert.errors import BrokenCheckpoint
from convert.hf_to_gguf import convert
from quant.gguf_file import read_metadata
from tests.tiny import NOT_SPECIAL, byte_symbols, tiny_interns1

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_interns1(tmp_path / "checkpoint", vision=False)


def keys_of(folder: Path) -> dict[str, Any]:
    convert(folder, folder / "model.gguf")
    return read_metadata(folder / "model.gguf").fields


def edit(folder: Path, name: str, change: Callable[[Any], Any]) -> None:
    content = json.loads((folder / name).read_text())
    changed = change(content)
    (folder / name).write_text(json.dumps(content if changed is None else changed))


def test_tokens(folder: Path) -> None:
    keys = keys_of(folder)
    tokens, types = keys["tokenizer.ggml.tokens"], keys["tokenizer.ggml.token_type"]
    added = json.loads((folder / "added_tokens.json").read_text())
    vocab = json.loads((folder / "vocab.json").read_text())
    assert tuple(tokens[:256]) == byte_symbols()
    assert all(tokens[id] == text and types[id] == 1 for text, id in vocab.items())
    for content, id in added.items():
        assert tokens[id] == content
        assert types[id] == (USER_DEFINED if content in NOT_SPECIAL else CONTROL)
    named = {*vocab.values(), *added.values()}
    assert all(tokens[id] == f"[PAD{id}]" and types[id] == UNUSED for id in range(len(tokens)) if id not in named)
    assert len(set(tokens)) == len(tokens) == keys["qwen3moe.vocab_size"]
    assert (keys["tokenizer.ggml.model"], keys["tokenizer.ggml.pre"]) == ("gpt2", "qwen2")
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert keys["tokenizer.ggml.bos_token_id"] == keys["tokenizer.ggml.padding_token_id"] == added["<|endoftext|>"]
    assert keys["tokenizer.ggml.eos_token_id"] == added["<|im_end|>"]
    assert keys["interns1.image.context_token_id"] == added["<IMG_CONTEXT>"]
    assert keys["interns1.image.start_token_id"] == added["<img>"]
    assert keys["interns1.image.end_token_id"] == added["</img>"]
    entries = json.loads(keys["interns1.tokenizer.added_tokens"])
    assert {entry["content"]: entry["id"] for entry in entries} == added
    assert set(entries[0]) == {"id", "content", "special", "lstrip", "rstrip", "single_word", "normalized"}


def test_science_vocabularies(folder: Path) -> None:
    keys = keys_of(folder)
    added = json.loads((folder / "added_tokens.json").read_text())
    assert keys["interns1.tokenizer.domains"] == ["smiles", "iupac", "fasta"]
    for domain in ("smiles", "iupac", "fasta"):
        model = keys[f"interns1.tokenizer.{domain}.model"].tobytes()
        assert model == (folder / f"tokenizer_{domain.upper()}.model").read_bytes()
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model).GetPieceSize()
        assert keys[f"interns1.tokenizer.{domain}.offset"] + pieces == added[f"<{domain.upper()}>"]


def test_sampling_and_template(folder: Path) -> None:
    keys = keys_of(folder)
    assert keys["general.sampling.temp"] == pytest.approx(0.7)
    assert (keys["general.sampling.top_k"], keys["general.sampling.top_p"]) == (50, 1.0)
    assert "general.sampling.min_p" not in keys
    assert keys["tokenizer.chat_template"] == (folder / "chat_template.jinja").read_text()
    assert keys["qwen3moe.context_length"] == 4096
    (folder / "chat_template.jinja").unlink()
    edit(folder, "tokenizer_config.json", lambda c: c.update(chat_template=[{"name": "default", "template": "T"}]))
    assert keys_of(folder)["tokenizer.chat_template"] == "T"


def test_tokens_known_only_to_added_tokens_json(folder: Path) -> None:
    before = keys_of(folder)
    edit(folder, "tokenizer_config.json", lambda c: c.pop("added_tokens_decoder"))
    edit(
        folder,
        "special_tokens_map.json",
        lambda c: c.update(additional_special_tokens=["<img>", {"content": "</img>"}]),
    )
    after = keys_of(folder)
    assert after["tokenizer.ggml.tokens"] == before["tokenizer.ggml.tokens"]
    types = dict(zip(after["tokenizer.ggml.tokens"], after["tokenizer.ggml.token_type"], strict=True))
    assert types["<img>"] == types["</img>"] == types["<|im_end|>"] == CONTROL
    assert types["<think>"] == USER_DEFINED


def test_tokenizer_json_instead_of_vocab_json(folder: Path) -> None:
    before = keys_of(folder)
    vocab = json.loads((folder / "vocab.json").read_text())
    merges = [line.split(" ") for line in (folder / "merges.txt").read_text().splitlines()[1:]]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "BPE", "vocab": vocab, "merges": merges}}))
    (folder / "vocab.json").unlink()
    (folder / "merges.txt").unlink()
    after = keys_of(folder)
    assert after["tokenizer.ggml.tokens"] == before["tokenizer.ggml.tokens"]
    assert after["tokenizer.ggml.merges"] == before["tokenizer.ggml.merges"]


def test_fillers_in_a_domain_are_hidden(folder: Path) -> None:
    before = keys_of(folder)
    offset = before["interns1.tokenizer.smiles.offset"]
    edit(folder, "vocab.json", lambda vocab: vocab.update({"<|SMILES_C|>": offset + 3}))
    assert keys_of(folder)["tokenizer.ggml.tokens"] == before["tokenizer.ggml.tokens"]


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("vocab.json", lambda v: v.update({"zzz": v["a"] + 10000}), "Token 'zzz' has id 100"),
        ("vocab.json", lambda v: v.update({"<img>": 300}), "Two ids have the token '<img>'"),
        ("vocab.json", lambda v: v.update({"zzz": 340}), "smiles pieces have ids .* id 340 is the token 'zzz'"),
        ("vocab.json", lambda v: [], "not a map"),
        (
            "added_tokens.json",
            lambda t: t.update({"<im>": t.pop("<img>")}),
            "'<img>' in tokenizer_config.json and '<im>'",
        ),
        ("generation_config.json", lambda g: g.update(top_k="many"), "top_k is 'many'"),
        ("generation_config.json", lambda g: g.update(eos_token_id=99999), "eos token has id 99999"),
        ("config.json", lambda c: c.update(image_token_id=7), "image_token_id 7; in the tokenizer"),
    ],
)
def test_errors(file: str, change: Callable[[Any], Any], message: str, folder: Path) -> None:
    edit(folder, file, change)
    with pytest.raises(BrokenCheckpoint, match=message):
        keys_of(folder)


def test_science_model_errors(folder: Path) -> None:
    (folder / "tokenizer_SMILES.model").write_bytes(b"nonsense")
    with pytest.raises(BrokenCheckpoint, match=r"tokenizer_SMILES.model is not a SentencePiece model"):
        keys_of(folder)
    for name in ("SMILES", "IUPAC", "FASTA"):
        (folder / f"tokenizer_{name}.model").unlink()
    assert "interns1.tokenizer.domains" not in keys_of(folder)
