"""InternLM2, its reward model and InternLM3: what llama.cpp computes from our files, against references in torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece

from convert import vocab_sentencepiece
from convert.added_tokens import AddedToken
from convert.errors import BrokenCheckpoint, ConvertError, UnsupportedArchitecture
from convert.hf_to_gguf import convert
from interns1_local.reference import internlm2 as internlm2_reference
from quant.gguf_file import read_metadata
from tests.convert.llama_cpp import Llama
from tests.tiny_internlm import (
    ACTION_TOKENS,
    CONTEXT,
    HEAD_DIM,
    internlm2_tensors,
    sentencepiece_model,
    tiny_internlm2,
    tiny_internlm3,
)

PROMPT = [1, 300, 33, 260, 270, 305, 90, 90, 12, 280, 303, 7]
TEXTS = (
    "The quick brown fox",
    "  two spaces   and\ttabs\n\n",
    "书生·浦语 speaks 中文",
    "emoji 🤗 and é",
    "def add(a, b):\n    return a + b",
    "",
    "a <|im_start|>b<|im_end|> <|action_start|><|plugin|>\n{}<|action_end|>",
)


def read_config(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def agree(ours: np.ndarray, reference: np.ndarray) -> bool:
    cosine = (ours * reference).sum(-1) / np.linalg.norm(ours, axis=-1) / np.linalg.norm(reference, axis=-1)
    return bool(cosine.min() > 0.99999) and np.allclose(ours, reference, atol=2e-3)


@pytest.mark.parametrize(("tied", "architecture"), [(False, "internlm2"), (True, "llama")])
def test_internlm2_logits(tied: bool, architecture: str, tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint", tied=tied)
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    assert read_metadata(tmp_path / "m.gguf").architecture == architecture
    config = read_config(folder)
    weights = internlm2_tensors(config["vocab_size"], 0)
    if tied:
        del weights["output.weight"]
    with Llama(tmp_path / "m.gguf") as llama:
        assert agree(llama.logits(PROMPT), internlm2_reference.logits(weights, config, PROMPT, 1e6))


def test_internlm3_logits(tmp_path: Path) -> None:
    import torch
    import transformers

    folder = tiny_internlm3(tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    torch.set_num_threads(1)
    # The released config has `bias: false`; the class that transformers made of it is Llama.
    assert transformers.AutoConfig.from_pretrained(folder).model_type == "internlm3"
    settings = {**read_config(folder), "architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    settings = {key: value for key, value in settings.items() if key not in ("bias", "qkv_bias")}
    (folder / "config.json").write_text(json.dumps(settings))
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        reference = model(torch.tensor([PROMPT])).logits[0].numpy()
    with Llama(tmp_path / "m.gguf") as llama:
        assert agree(llama.logits(PROMPT), reference)


def test_reward_score(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint", reward=True)
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    config = read_config(folder)
    weights = internlm2_tensors(config["vocab_size"], 0)
    weights["v_head.weight"] = weights.pop("output.weight")[:1]
    fields = read_metadata(tmp_path / "m.gguf").fields
    assert (fields["general.architecture"], fields["llama.pooling_type"]) == ("llama", 3)
    assert fields["interns1.reward.token_id"] == config["reward_token_id"]
    assert fields["interns1.reward.v_head"].dtype == np.float32
    with Llama(tmp_path / "m.gguf") as llama:
        pooled = llama.pooled([*PROMPT, config["reward_token_id"]])
    expected = internlm2_reference.reward(weights, config, PROMPT)
    assert pooled @ fields["interns1.reward.v_head"] == pytest.approx(expected, abs=1e-3)


def test_quantized_and_still_close(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    convert(folder, tmp_path / "f32.gguf", type="F32", jobs=1)
    convert(folder, tmp_path / "q8.gguf", type="Q8_0", jobs=1)
    with Llama(tmp_path / "f32.gguf") as exact, Llama(tmp_path / "q8.gguf") as llama:
        a, b = exact.logits(PROMPT), llama.logits(PROMPT)
    assert ((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).min() > 0.99


# --- vocabulary ---


@pytest.mark.parametrize("dummy_prefix", [False, True])
def test_token_ids_equal_sentencepiece(dummy_prefix: bool, tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint", chat=False)
    model = sentencepiece_model(dummy_prefix)
    (folder / "tokenizer.model").write_bytes(model)
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    reference = sentencepiece.SentencePieceProcessor(model_proto=model)
    with Llama(tmp_path / "m.gguf") as llama:
        # After a reserved token llama.cpp begins a new text, which only shows where texts begin with a space.
        for text in (*TEXTS, *([] if dummy_prefix else ["a[UNUSED_TOKEN_3]b"])):
            assert llama.tokenize(text) == reference.encode(text), text


def test_chat_tokens(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", type="F32", jobs=1)
    fields = read_metadata(tmp_path / "m.gguf").fields
    tokens, types = fields["tokenizer.ggml.tokens"], fields["tokenizer.ggml.token_type"]
    ids = {name: tokens.index(name) for name in ACTION_TOKENS}
    kinds = {name: int(types[id]) for name, id in ids.items()}
    assert kinds == {
        name: 3 if name in ("<|im_start|>", "<|im_end|>") else 4 for name in ACTION_TOKENS
    }  # control, and user-defined: shown in answers
    assert fields["tokenizer.ggml.eos_token_id"] == ids["<|im_end|>"] == len(tokens) - 2
    assert (fields["tokenizer.ggml.bos_token_id"], fields["tokenizer.ggml.unknown_token_id"]) == (1, 0)
    assert types[0] == 2 and fields["tokenizer.ggml.add_bos_token"] and "tokenizer.chat_template" in fields
    added = {token["content"]: token for token in json.loads(fields["interns1.tokenizer.added_tokens"])}
    assert all(added[name] == {**added[name], "id": id, "special": True} for name, id in ids.items())
    reference = sentencepiece.SentencePieceProcessor(model_proto=sentencepiece_model())
    with Llama(tmp_path / "m.gguf") as llama:
        expected = [ids["<|im_start|>"], *reference.encode("user\nthe dog"), ids["<|im_end|>"], *reference.encode("\n")]
        assert llama.tokenize("<|im_start|>user\nthe dog<|im_end|>\n", special=True) == expected
        assert llama.piece(ids["<|plugin|>"]) == b"<|plugin|>" and llama.piece(ids["<|im_end|>"]) == b""
        assert llama.is_end(ids["<|im_end|>"]) and llama.is_end(2) and not llama.is_end(ids["<|action_end|>"])


def test_pieces_that_llama_cpp_cannot_name() -> None:
    model = vocab_sentencepiece.SentencePieceModel(
        [("<unk>", 0, 2), ("\0", 0, 1), ("a", -1, 1)], vocab_sentencepiece.BPE
    )
    vocabulary = vocab_sentencepiece.Vocabulary(model, [], {}, True)
    keys = vocab_sentencepiece.fields(vocabulary, 5)
    assert keys["tokenizer.ggml.tokens"] == ["<unk>", "[PAD1]", "a", "[PAD3]", "[PAD4]"]
    assert keys["tokenizer.ggml.token_type"].tolist() == [2, 5, 1, 5, 5]
    double = vocab_sentencepiece.Vocabulary(model, [AddedToken(3, "a", special=True)], {}, True)
    with pytest.raises(BrokenCheckpoint, match="Ids 2 and 3 have the token 'a'"):
        vocab_sentencepiece.fields(double, 5)
    with pytest.raises(BrokenCheckpoint, match="has id 2; the model has 2 tokens"):
        vocab_sentencepiece.fields(vocabulary, 2)


def test_base_models_end_with_the_document(tmp_path: Path) -> None:
    convert(tiny_internlm2(tmp_path / "checkpoint", chat=False), tmp_path / "m.gguf", type="F32", jobs=1)
    fields = read_metadata(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.eos_token_id"] == 2 and "tokenizer.chat_template" not in fields


# --- contexts past the trained one ---


def test_a_longer_context_scales_the_base(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    convert(folder, tmp_path / "m.gguf", type="F32", context_length=4 * CONTEXT, jobs=1)
    fields = read_metadata(tmp_path / "m.gguf").fields
    base = 1e6 * (2 * 4 - 1) ** (HEAD_DIM / (HEAD_DIM - 2))
    assert fields["internlm2.rope.freq_base"] == pytest.approx(base)
    assert fields["internlm2.context_length"] == 4 * CONTEXT
    config = read_config(folder)
    weights = internlm2_tensors(config["vocab_size"], 0)
    with Llama(tmp_path / "m.gguf") as llama:
        assert agree(llama.logits(PROMPT), internlm2_reference.logits(weights, config, PROMPT, base))


@pytest.mark.parametrize(
    ("length", "changes", "error", "message"),
    [
        (CONTEXT - 1, {}, ConvertError, "no longer than that"),
        (2 * CONTEXT, {"rope_scaling": None}, UnsupportedArchitecture, "no dynamic rope scaling"),
        (None, {"bias": True}, UnsupportedArchitecture, "bias is True"),
        (None, {"rope_scaling": {"type": "llama3"}}, UnsupportedArchitecture, "rope scaling 'llama3'"),
        (None, {"num_key_value_heads": 3}, BrokenCheckpoint, "do not fit 3"),
        (None, {"vocab_size": 100}, BrokenCheckpoint, r"token_embd|tok_embeddings|100 tokens"),
    ],
)
def test_settings_that_cannot_be_kept(
    length: int | None, changes: dict[str, Any], error: type[Exception], message: str, tmp_path: Path
) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint", **changes)
    with pytest.raises(error, match=message):
        convert(folder, tmp_path / "m.gguf", context_length=length)
    assert not (tmp_path / "m.gguf").exists()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (b"not a model", "is not a SentencePiece model"),
        (b"", "has no pieces"),
        (None, "has no tokenizer.model"),
    ],
)
def test_broken_tokenizer(damage: bytes | None, message: str, tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    path = folder / "tokenizer.model"
    path.unlink() if damage is None else path.write_bytes(damage)
    with pytest.raises(BrokenCheckpoint, match=message):
        convert(folder, tmp_path / "m.gguf")


def test_a_unigram_vocabulary_is_refused(tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint")
    data = sentencepiece_model().replace(bytes([3 << 3, 2, 0x98, 0x02]), bytes([3 << 3, 1, 0x98, 0x02]))
    (folder / "tokenizer.model").write_bytes(data)
    with pytest.raises(UnsupportedArchitecture, match="not a BPE model"):
        convert(folder, tmp_path / "m.gguf")


@pytest.mark.parametrize("changes", [{"reward_token_id": None}, {"reward_token_id": 10**6}])
def test_a_reward_model_without_its_token(changes: dict[str, Any], tmp_path: Path) -> None:
    folder = tiny_internlm2(tmp_path / "checkpoint", reward=True, **changes)
    with pytest.raises(BrokenCheckpoint, match="reward_token_id"):
        convert(folder, tmp_path / "m.gguf")
