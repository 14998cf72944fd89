"""Tiny InternLM2, InternLM2-Reward and InternLM3 checkpoints of the true layout with random weights."""

from __future__ import annotations

import functools
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from tests.protobuf import field, number
from tests.safetensors_files import encode, write_shards

HIDDEN, WIDTH, LAYERS, HEADS, KV_HEADS, HEAD_DIM, CONTEXT = 64, 96, 2, 4, 2, 16, 128
RESERVED = 8
# The last reserved pieces are renamed by tokenizer_config.json, as in the released chat models.
ACTION_TOKENS = ("<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_LINES = (
    "The quick brown fox jumps over the lazy dog, and the dog sleeps.",
    "You are an AI assistant whose name is InternLM.",
    "书生浦语是上海人工智能实验室开发的语言模型。",
    "def add(a, b):\n    return a + b",
)

Array = NDArray[Any]


def tiny_internlm2(
    folder: Path, *, reward: bool = False, tied: bool = False, chat: bool = True, seed: int = 0, **changes: Any
) -> Path:
    """InternLM2 (or its reward model) in `folder`; `changes` go into config.json."""
    vocab = _write_tokenizer(folder, "InternLM2Tokenizer", chat)
    tensors = internlm2_tensors(vocab, seed)
    if reward:
        tensors["v_head.weight"] = tensors.pop("output.weight")[:1]
    elif tied:
        del tensors["output.weight"]
    config = {
        **_config(vocab),
        "architectures": ["InternLM2ForRewardModel" if reward else "InternLM2ForCausalLM"],
        "model_type": "internlm2",
        "bias": False,
        "tie_word_embeddings": tied,
        "rope_theta": 1000000,
        "rope_scaling": None if reward else {"type": "dynamic", "factor": 2.0},
        **({"reward_token_id": vocab - len(ACTION_TOKENS) - 1} if reward else {}),
        **changes,
    }
    return _write(folder, config, tensors)


def tiny_internlm3(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    vocab = _write_tokenizer(folder, "InternLM3Tokenizer", True)
    config = {
        **_config(vocab),
        "architectures": ["InternLM3ForCausalLM"],
        "model_type": "internlm3",
        "bias": False,
        "qkv_bias": False,
        "head_dim": HEAD_DIM,
        "tie_word_embeddings": False,
        "rope_theta": 50000000,
        "rope_scaling": {"rope_type": "dynamic", "factor": 6.0},
        **changes,
    }
    return _write(folder, config, internlm3_tensors(vocab, seed))


def internlm2_tensors(vocab: int, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    out = {
        "model.tok_embeddings.weight": _matrix(random, vocab, HIDDEN),
        "model.norm.weight": _norm(random),
        "output.weight": 4 * _matrix(random, vocab, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        out[f"{at}attention_norm.weight"] = _norm(random)
        out[f"{at}ffn_norm.weight"] = _norm(random)
        out[f"{at}attention.wqkv.weight"] = 2 * _matrix(random, (HEADS + 2 * KV_HEADS) * HEAD_DIM, HIDDEN)
        out[f"{at}attention.wo.weight"] = _matrix(random, HIDDEN, HEADS * HEAD_DIM)
        for part, shape in (("w1", (WIDTH, HIDDEN)), ("w3", (WIDTH, HIDDEN)), ("w2", (HIDDEN, WIDTH))):
            out[f"{at}feed_forward.{part}.weight"] = _matrix(random, *shape)
    return out


def internlm3_tensors(vocab: int, seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    out = {
        "model.embed_tokens.weight": _matrix(random, vocab, HIDDEN),
        "model.norm.weight": _norm(random),
        "lm_head.weight": 4 * _matrix(random, vocab, HIDDEN),
    }
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        out[f"{at}input_layernorm.weight"] = _norm(random)
        out[f"{at}post_attention_layernorm.weight"] = _norm(random)
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            out[f"{at}self_attn.{part}_proj.weight"] = 2 * _matrix(random, heads * HEAD_DIM, HIDDEN)
        out[f"{at}self_attn.o_proj.weight"] = _matrix(random, HIDDEN, HEADS * HEAD_DIM)
        for part, shape in (("gate", (WIDTH, HIDDEN)), ("up", (WIDTH, HIDDEN)), ("down", (HIDDEN, WIDTH))):
            out[f"{at}mlp.{part}_proj.weight"] = _matrix(random, *shape)
    return out


@functools.cache
def sentencepiece_model(dummy_prefix: bool = False) -> bytes:
    """A BPE model with byte pieces; its last pieces are reserved, as in the released models."""
    trained = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_LINES * 4),
        model_writer=trained,
        vocab_size=420,
        model_type="bpe",
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        split_by_whitespace=True,
        minloglevel=2,
        num_threads=1,
    )
    sp = sentencepiece.SentencePieceProcessor(model_proto=trained.getvalue())
    entries = [(sp.id_to_piece(id), sp.get_score(id), _piece_type(sp, id)) for id in range(sp.get_piece_size())]
    entries += [(f"[UNUSED_TOKEN_{n}]", 0.0, 4) for n in range(RESERVED)]
    body = b"".join(
        field(1, field(1, text.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for text, score, kind in entries
    )
    trainer = bytes([3 << 3, 2]) + number(35, 1)
    normalizer = field(1, b"identity") + number(3, int(dummy_prefix)) + number(4, 0) + number(5, 1)
    return body + field(2, trainer) + field(3, normalizer)


def _piece_type(sp: sentencepiece.SentencePieceProcessor, id: int) -> int:
    for kind, holds in ((2, sp.is_unknown), (3, sp.is_control), (6, sp.is_byte)):
        if holds(id):
            return kind
    return 1


def _matrix(random: np.random.Generator, rows: int, columns: int) -> Array:
    return (random.standard_normal((rows, columns), np.float32) / np.sqrt(columns)).astype(np.float32)


def _norm(random: np.random.Generator) -> Array:
    return (1 + 0.1 * random.standard_normal(HIDDEN, np.float32)).astype(np.float32)


def _config(vocab: int) -> dict[str, Any]:
    return {
        "hidden_size": HIDDEN,
        "intermediate_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": CONTEXT,
        "vocab_size": vocab,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
        "torch_dtype": "bfloat16",
    }


def _write_tokenizer(folder: Path, tokenizer_class: str, chat: bool) -> int:
    """tokenizer.model and tokenizer_config.json; returns the number of tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    model = sentencepiece_model()
    (folder / "tokenizer.model").write_bytes(model)
    vocab = sentencepiece.SentencePieceProcessor(model_proto=model).get_piece_size()
    names = {0: "<unk>", 1: "<s>", 2: "</s>"}
    if chat:
        names |= {vocab - len(ACTION_TOKENS) + place: name for place, name in enumerate(ACTION_TOKENS)}
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False, "special": True}
    settings = {
        "tokenizer_class": tokenizer_class,
        "added_tokens_decoder": {str(id): {"content": name, **flags} for id, name in names.items()},
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "</s>",
        "unk_token": "<unk>",
        **({"chat_template": CHAT_TEMPLATE} if chat else {}),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
    generation = {"bos_token_id": 1, "eos_token_id": [2, vocab - 2] if chat else 2, "pad_token_id": 2}
    (folder / "generation_config.json").write_text(json.dumps(generation))
    return vocab


def _write(folder: Path, config: dict[str, Any], tensors: dict[str, Array]) -> Path:
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_shards(folder, {name: encode(value, "F32") for name, value in tensors.items()}, 2)
    return folder
