"""Writes Intern-S1 checkpoints of the true layout with random weights, of any size, in bounded memory.

    python -m benchmarks.random_checkpoint FOLDER --layers 10 --experts 32

Run as a program of its own by the benchmarks, so that their memory stays small.
"""

from __future__ import annotations

import argparse
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from tests.tiny import interns1_config, vision_tensors, write_tokenizer

SHARD_BYTES = 1 << 30
IMAGE_SIZE = 56
_POOL_VALUES = 1 << 24
LETTERS = "abcdefghijklmnopqrstuvwxyz"
BYTES = 256
SPARE_IDS = 1024  # of a vocabulary of words: bytes, control tokens and science
VISION_LAYERS = 4  # llama.cpp's converter knows the projector's names only in towers of at least four layers

Shapes = dict[str, tuple[int, ...]]


def text_shapes(config: dict[str, Any]) -> Shapes:
    """Name and shape of every tensor of the language model."""
    hidden, width, vocab = config["hidden_size"], config["moe_intermediate_size"], config["vocab_size"]
    head = config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    out: Shapes = {"lm_head.weight": (vocab, hidden), "model.language_model.embed_tokens.weight": (vocab, hidden)}
    for layer in range(config["num_hidden_layers"]):
        at = f"model.language_model.layers.{layer}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"{at}.{name}.weight"] = (hidden,)
        for name, rows in (("q_proj", queries), ("k_proj", keys), ("v_proj", keys)):
            out[f"{at}.self_attn.{name}.weight"] = (rows, hidden)
        out[f"{at}.self_attn.o_proj.weight"] = (hidden, queries)
        out |= {f"{at}.self_attn.{name}_norm.weight": (head,) for name in "qk"}
        out[f"{at}.mlp.gate.weight"] = (config["num_experts"], hidden)
        for expert in range(config["num_experts"]):
            for name, shape in (("gate", (width, hidden)), ("up", (width, hidden)), ("down", (hidden, width))):
                out[f"{at}.mlp.experts.{expert}.{name}_proj.weight"] = shape
    return out | {"model.language_model.norm.weight": (hidden,)}


class RandomValues:
    """Normal values as BF16, cut from one pool at random places."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self._pool = self._rng.standard_normal(_POOL_VALUES, np.float32).astype(ml_dtypes.bfloat16)
        self._norms = (1 + 0.1 * self._rng.standard_normal(1 << 16, np.float32)).astype(ml_dtypes.bfloat16)

    def parts(self, shape: tuple[int, ...]) -> Iterator[bytes]:
        pool = self._norms if len(shape) == 1 else self._pool
        missing = int(np.prod(shape, dtype=np.int64))
        while missing:
            count = min(missing, len(pool) // 2)
            start = int(self._rng.integers(0, len(pool) - count))
            yield pool[start : start + count].tobytes()
            missing -= count


def words_of_letters(count: int) -> list[str]:
    """`count` words of up to three small letters, those after a space first."""
    pairs = [a + b for a in LETTERS for b in LETTERS]
    triples = [pair + letter for pair in pairs for letter in LETTERS]
    return [*("Ġ" + word for word in (*LETTERS, *pairs, *triples)), *pairs, *triples][:count]


def write_checkpoint(folder: Path, changes: dict[str, Any], seed: int = 0, words: int = 0) -> Path:
    """Write a checkpoint whose text config is changed by `changes`; the vision tower stays tiny.

    With `words` the vocabulary has so many words, and the model says nothing else: its answers never end, and each
    token is a text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder, words_of_letters(words)) if words else write_tokenizer(folder)
    config = interns1_config(True, ids, IMAGE_SIZE, True)
    config["text_config"] |= changes
    config["vision_config"]["num_hidden_layers"] = VISION_LAYERS
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    write_tokenizer_json(folder)
    values = RandomValues(seed)
    tower = vision_tensors(IMAGE_SIZE, seed, config["text_config"]["hidden_size"], VISION_LAYERS)
    shapes = text_shapes(config["text_config"]) | {name: value.shape for name, value in tower.items()}
    weight_map: dict[str, str] = {}
    shards = _split(shapes)
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        weight_map |= dict.fromkeys(names, file)
        with open(folder / file, "wb") as out:
            out.write(_header({name: shapes[name] for name in names}))
            for name in names:
                if name in tower:
                    out.write(tower[name].astype(ml_dtypes.bfloat16).tobytes())
                elif name == "lm_head.weight" and words:
                    rows, hidden = shapes[name]
                    out.write(bytes(2 * hidden * BYTES))
                    out.writelines(values.parts((words, hidden)))
                    out.write(bytes(2 * hidden * (rows - BYTES - words)))
                else:
                    out.writelines(values.parts(shapes[name]))
    total = sum(2 * int(np.prod(shape)) for shape in shapes.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def write_tokenizer_json(folder: Path) -> None:
    """The base vocabulary and the added tokens as transformers reads them, for converters that ask transformers."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    vocab: dict[str, int] = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    added: dict[str, int] = json.loads((folder / "added_tokens.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").splitlines()[1:]
    left_right = [(left, right) for left, _, right in (line.partition(" ") for line in lines)]
    tokenizer = Tokenizer(models.BPE(vocab=vocab | added, merges=left_right))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in added])
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = folder / "tokenizer_config.json"
    values = json.loads(settings.read_text(encoding="utf-8")) | {"tokenizer_class": "PreTrainedTokenizerFast"}
    settings.write_text(json.dumps(values, ensure_ascii=False, indent=2), encoding="utf-8")


def _split(shapes: Shapes) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        n_bytes = 2 * int(np.prod(shape))
        if shards[-1] and size + n_bytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += n_bytes
    return shards


def _header(shapes: Shapes) -> bytes:
    entries, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * int(np.prod(shape))
        entries[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=10)
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--width", type=int, default=768, help="of an expert")
    parser.add_argument("--heads", type=int, default=16)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--words", action="store_true", help="a vocabulary of words, and nothing but words as answers")
    arguments = parser.parse_args()
    changes = {
        "hidden_size": arguments.hidden,
        "num_hidden_layers": arguments.layers,
        "num_experts": arguments.experts,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": arguments.width,
        "num_attention_heads": arguments.heads,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "vocab_size": arguments.vocabulary,
    }
    write_checkpoint(arguments.folder, changes, words=arguments.vocabulary - SPARE_IDS if arguments.words else 0)


if __name__ == "__main__":
    main()
