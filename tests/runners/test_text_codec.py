"""The worker's tokenizer, from the metadata of science models and of others."""

from __future__ import annotations

from typing import Any

import pytest

from interns1_local.errors import LoadError
from interns1_local.runners.model_spec import ModelSpec, read_model_facts
from interns1_local.runners.text_codec import TextCodec
from interns1_local.tokenizer.science import ImageSlot


def spell(text: str, parse_special: bool = False) -> list[int]:
    return [ord(character) % 3 for character in text]


def other_model(**fields: Any) -> dict[str, Any]:
    tokens = ["a", "b", "\u2581c", "<s>", "<think>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1, 1, 1, 3, 3],
    } | fields


def test_a_science_model(tiny_spec: ModelSpec) -> None:
    codec = TextCodec(read_model_facts(tiny_spec.model_path).metadata, spell)
    before, slot, after = codec.encode(["", ImageSlot(0)])
    assert slot == ImageSlot(0)
    assert codec.token_bytes(before, False) == b"<img>" and codec.token_bytes(after, False) == b"</img>"
    assert codec.token_bytes(before) == b""
    tokens = codec.describe("<SMILES>CCO</SMILES>").tokens
    assert [token["piece"] for token in tokens] == ["<SMILES>", "CCO", "</SMILES>"]
    assert b"".join(codec.token_bytes(token["id"], False) for token in tokens) == b"<SMILES>CCO</SMILES>"


def test_a_model_of_another_kind_is_spelled_by_llama_cpp() -> None:
    codec = TextCodec(other_model(), spell)
    assert codec.encode("ab") == spell("ab")
    assert codec.encode(["a", ImageSlot(0), "b"]) == [*spell("a"), ImageSlot(0), *spell("b")]
    shown = {"id": spell("a")[0], "piece": codec._tokens[spell("a")[0]], "domain": None}
    assert [{key: token[key] for key in shown} for token in codec.describe("a").tokens] == [shown]
    assert codec.token_bytes(2) == b" c"
    assert (codec.token_bytes(3), codec.token_bytes(4)) == (b"", b"<think>")


def test_merges_that_lead_nowhere_are_left_to_llama_cpp() -> None:
    fields = {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "qwen2", "tokenizer.ggml.merges": ["a z"]}
    codec = TextCodec(other_model(**fields), spell)
    assert codec.encode("ab") == spell("ab")
    assert codec.describe("e\u0301", stock=True).content == "e\u0301"
    assert codec.describe("e\u0301").content == "é"


@pytest.mark.parametrize(
    "fields",
    [
        {"tokenizer.ggml.tokens": []},
        {"tokenizer.ggml.token_type": [1]},
        {"interns1.tokenizer.domains": ["smiles"]},
        {"interns1.tokenizer.added_tokens": "{"},
        {"interns1.tokenizer.added_tokens": "[1]"},
    ],
)
def test_broken_metadata_is_a_load_error(fields: dict[str, Any]) -> None:
    with pytest.raises(LoadError):
        TextCodec(other_model(**fields), spell)
