"""A checkpoint folder with Intern-S1's own id layout (153,216 ids), as far as it is published, and two empty layers.

The base vocabulary holds only the tokens that the published test vectors touch, at their true ids; the science
vocabularies hold the published pieces at their true places, and fillers elsewhere.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path

import numpy as np

from interns1_local.nano import CHECKPOINT
from tests import tiny
from tests.nano.vocabulary import DOMAIN_TAGS, MEDIA_AND_ACTION, NOT_SPECIAL, QWEN3_ADDED
from tests.protobuf import field

BASE = 151_643
VOCAB_SIZE = 153_216
PIECES = {"SMILES": 256, "IUPAC": 512, "FASTA": 512}
WIDTH = 32


def write_true_layout(folder: Path, subset: Path, smiles: dict[str, int]) -> Path:
    """Write the folder: tokenizer files from `subset`, one dense layer of zeros and random embeddings."""
    data = json.loads(subset.read_text(encoding="utf-8"))
    (folder / "vocab.json").write_text(json.dumps(data["vocab"]), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(data["merges"]) + "\n", encoding="utf-8")
    added = dict(zip(QWEN3_ADDED, range(BASE, BASE + 26), strict=True))
    following = BASE + len(QWEN3_ADDED)
    for domain, tags in DOMAIN_TAGS.items():
        known = {number: piece for piece, number in (smiles if domain == "SMILES" else {}).items()}
        (folder / f"tokenizer_{domain}.model").write_bytes(sentencepiece_file(PIECES[domain], known))
        following += PIECES[domain]
        for name in (*tags,):
            added[name] = following
            following += 1
    for name in MEDIA_AND_ACTION:
        added[name] = following
        following += 1
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    decoder = {str(n): {"content": t, **flags, "special": t not in NOT_SPECIAL} for t, n in added.items()}
    _write(folder / "added_tokens.json", added)
    _write(folder / "tokenizer_config.json", {"added_tokens_decoder": decoder, "eos_token": "<|im_end|>"})
    for name in ("chat_template.jinja", "special_tokens_map.json", "generation_config.json"):
        shutil.copyfile(CHECKPOINT / name, folder / name)
    _write_weights(folder, added)
    return folder


def sentencepiece_file(count: int, known: dict[int, str]) -> bytes:
    """A unigram SentencePiece model of `count` pieces (protobuf wire format, sentencepiece_model.proto)."""
    out = b""
    for number in range(count):
        name, kind = {0: ("<unk>", 2), 1: ("<s>", 3), 2: ("</s>", 3)}.get(number, (known.get(number), 1))
        score = 0.0 if number < 3 else -1.0 if name else -1000.0
        name = name or f"\u00b7filler{number}\u00b7"
        out += field(1, field(1, name.encode()) + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind]))
    # trainer_spec.model_type = UNIGRAM; normalizer: identity, no dummy prefix, white space kept.
    return out + field(2, b"\x18\x01") + field(3, field(1, b"identity") + b"\x18\x00\x20\x00\x28\x01")


def _write_weights(folder: Path, added: dict[str, int]) -> None:
    ids = {**added, "vocab_size": VOCAB_SIZE}
    config = tiny.interns1_config(False, ids, 56, vision=False)
    config["text_config"] |= {
        "hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "head_dim": WIDTH,
        "num_attention_heads": 1, "num_key_value_heads": 1,
    }  # fmt: skip
    _write(folder / "config.json", config)
    at = "model.language_model."
    rng = np.random.default_rng(0)
    tensors = {
        "lm_head.weight": rng.standard_normal((VOCAB_SIZE, WIDTH), np.float32),
        f"{at}embed_tokens.weight": rng.standard_normal((VOCAB_SIZE, WIDTH), np.float32),
        f"{at}norm.weight": np.ones(WIDTH, np.float32),
    }
    for name in ("input_layernorm", "post_attention_layernorm", "self_attn.q_norm", "self_attn.k_norm"):
        tensors[f"{at}layers.0.{name}.weight"] = np.ones(WIDTH, np.float32)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj"):
        tensors[f"{at}layers.0.{name}.weight"] = np.zeros((WIDTH, WIDTH), np.float32)
    for name in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        tensors[f"{at}layers.0.{name}.weight"] = np.zeros((WIDTH, WIDTH), np.float32)
    tiny.write_shards(folder, {name: tiny.encode(value, "BF16") for name, value in tensors.items()}, 1)


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")
