"""Tiny checkpoints of the true Intern-S1 layout with random weights, and GGUF files made from them. Needs no torch."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
from numpy.typing import NDArray

from convert.hf_to_gguf import convert
from tests.safetensors_files import FP8_BLOCK, encode, to_fp8, write_shards

HIDDEN, WIDTH, LAYERS, EXPERTS, ACTIVE, HEADS, KV_HEADS, HEAD_DIM = 256, 256, 2, 8, 2, 4, 2, 64
VISION_HIDDEN, VISION_LAYERS, VISION_HEADS, PATCH = 64, 2, 4, 14

QWEN3_TOKENS = (
    *("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>"),
    *("<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"),
    *("<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"),
    *("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>"),
    *("<think>", "</think>"),
)
NOT_SPECIAL = QWEN3_TOKENS[14:]
MEDIA_TOKENS = (
    *("<IMG_CONTEXT>", "<img>", "</img>", "<video>", "<|action_start|>", "<|action_end|>", "<|plugin|>"),
    "<|interpreter|>",
)
MERGED_WORDS = ("hello", "Ġworld", "Ġthe", "Ġmolecule", "Describe", "Ġand", "12", "system", "user", "assistant")

_LINES = {
    "SMILES": (
        "C1=CC=C(C=C1)C=O",
        "CC1=CC=CC=C1C=O",
        "CC(=O)OC1=CC=CC=C1C(=O)O",
        "CN1C=NC2=C1C(=O)N(C(=O)N2C)C",
        "CCO",
    ),
    "IUPAC": ("ethanol", "2-acetyloxybenzoic acid", "1,3,7-trimethylpurine-2,6-dione", "benzaldehyde", "propan-2-ol"),
    "FASTA": ("MKTAYIAKQRQISFVKSHFSRQLEERLGLIEVQ", "GIVEQCCTSICSLYQLENYCN", "FVNQHLCGSHLVEALYLVCGERGFFYTPKT"),
}
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Array = NDArray[Any]


def tiny_interns1(
    folder: Path,
    *,
    moe: bool = True,
    vision: bool = True,
    fp8: bool = False,
    shards: int = 2,
    seed: int = 0,
    image_size: int = 56,
    old_names: bool = False,
    packed: bool = False,
    dtype: str = "BF16",
) -> Path:
    """Write an Intern-S1 (or, with moe=False, Intern-S1-mini) checkpoint into `folder` and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder)
    text = "model.language_model.", "lm_head.weight"
    tensors = text_tensors(moe, ids["vocab_size"], seed, *text)
    if vision:
        tensors |= vision_tensors(image_size, seed + 1)
    if packed:
        tensors = _pack(tensors)
    if old_names:
        tensors = {_old_name(name): value for name, value in tensors.items()}
    config = interns1_config(moe, ids, image_size, vision)
    if fp8:
        config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": list(FP8_BLOCK)}
    _write_json(folder / "config.json", config)
    encoded = {name: encode(value, dtype) for name, value in tensors.items()}
    write_shards(folder, to_fp8(encoded) if fp8 else encoded, shards)
    return folder


def tiny_qwen3(folder: Path, *, moe: bool = True, shards: int = 1, seed: int = 0) -> Path:
    """The text model of `tiny_interns1` with the same seed, as a plain Qwen3 checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder)
    tensors = text_tensors(moe, ids["vocab_size"], seed, "model.", "lm_head.weight")
    _write_json(folder / "config.json", text_config(moe, ids))
    write_shards(folder, {name: encode(value, "BF16") for name, value in tensors.items()}, shards)
    return folder


def tiny_gguf(
    folder: Path, *, moe: bool = True, type: str = "F32", mmproj_type: str = "F32", **options: Any
) -> tuple[Path, Path]:
    """Convert a tiny checkpoint: (model, mmproj)."""
    checkpoint = tiny_interns1(folder / "checkpoint", moe=moe, **options)
    model, mmproj = folder / "model.gguf", folder / "mmproj.gguf"
    convert(checkpoint, model, type=type, mmproj=mmproj, mmproj_type=mmproj_type, jobs=1)
    return model, mmproj


@functools.cache
def quiet_llama_cpp() -> Any:
    """The `llama_cpp` module without its log, whose callback fails on text that llama.cpp cuts inside a character.

    The engine's takes its place, as engines in the same process show what they find in it.
    """
    import llama_cpp

    from interns1_local.engine import native_log

    native_log.capture()
    llama_cpp.llama_backend_init()
    return llama_cpp


# --- tokenizer ---


@functools.cache
def byte_symbols() -> tuple[str, ...]:
    """The printable character that stands for each byte in byte-level BPE."""
    kept = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return tuple(chr(byte) if byte in kept else chr(next(others)) for byte in range(256))


@functools.cache
def science_model(domain: str) -> bytes:
    """A small SentencePiece model of a domain."""
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_LINES[domain] * 4),
        model_writer=out,
        vocab_size=48,
        model_type="bpe",
        hard_vocab_limit=False,
        add_dummy_prefix=False,
        character_coverage=1.0,
        minloglevel=2,
        num_threads=1,
    )
    return out.getvalue()


def write_tokenizer(folder: Path, words: Iterable[str] = MERGED_WORDS) -> dict[str, int]:
    """All tokenizer files, in the order of the true id map. Returns the ids of the added tokens, and `vocab_size`."""
    vocab = {symbol: id for id, symbol in enumerate(byte_symbols())}
    merges: dict[str, None] = {}
    for word in words:
        left = word[0]
        for symbol in word[1:]:
            merges[f"{left} {symbol}"] = None
            left += symbol
            vocab.setdefault(left, len(vocab))
    added: dict[str, int] = {}
    next_id = len(vocab)

    def add(*contents: str) -> None:
        nonlocal next_id
        for content in contents:
            added[content] = next_id
            next_id += 1

    add(*QWEN3_TOKENS)
    for domain, tags in (("SMILES", ("SMILES", "SELFIES")), ("IUPAC", ("IUPAC",)), ("FASTA", ("FASTA",))):
        model = science_model(domain)
        (folder / f"tokenizer_{domain}.model").write_bytes(model)
        next_id += sentencepiece.SentencePieceProcessor(model_proto=model).GetPieceSize()
        for tag in tags:
            add(f"<{tag}>", f"</{tag}>")
    add(*MEDIA_TOKENS)
    vocab_size = (next_id + 63) // 64 * 64
    _write_json(folder / "vocab.json", vocab)
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    _write_tokenizer_settings(folder, added)
    return {**added, "vocab_size": vocab_size}


def _write_tokenizer_settings(folder: Path, added: dict[str, int]) -> None:
    flags = {"lstrip": False, "rstrip": False, "single_word": False, "normalized": False}
    decoder = {
        str(id): {"content": content, **flags, "special": content not in NOT_SPECIAL} for content, id in added.items()
    }
    _write_json(folder / "added_tokens.json", added)
    _write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "InternS1Tokenizer",
            "added_tokens_decoder": decoder,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "model_max_length": 4096,
        },
    )
    _write_json(folder / "special_tokens_map.json", {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"})
    template = Path(__file__).parents[1] / "interns1_local" / "chat" / "interns1.jinja"
    text = template.read_text(encoding="utf-8") if template.is_file() else _CHATML
    (folder / "chat_template.jinja").write_text(text, encoding="utf-8")
    generation = {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 50,
        "top_p": 1.0,
        "eos_token_id": [added["<|im_end|>"], added["<|endoftext|>"]],
        "bos_token_id": added["<|endoftext|>"],
        "pad_token_id": added["<|endoftext|>"],
    }
    _write_json(folder / "generation_config.json", generation)
    processor = {
        "size": {"height": 448, "width": 448},
        "min_patches": 1,
        "max_patches": 6,
        "crop_to_patches": False,
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
    }
    _write_json(folder / "preprocessor_config.json", processor)


# --- config ---


def text_config(moe: bool, ids: dict[str, int]) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["Qwen3MoeForCausalLM" if moe else "Qwen3ForCausalLM"],
        "model_type": "qwen3_moe" if moe else "qwen3",
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "hidden_act": "silu",
        "attention_bias": False,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "rope_scaling": None,
        "max_position_embeddings": 4096,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "vocab_size": ids["vocab_size"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "torch_dtype": "bfloat16",
    }
    if moe:
        config |= {"num_experts": EXPERTS, "num_experts_per_tok": ACTIVE, "moe_intermediate_size": WIDTH}
        config |= {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}
    return config


def interns1_config(moe: bool, ids: dict[str, int], image_size: int, vision: bool) -> dict[str, Any]:
    config: dict[str, Any] = {
        "architectures": ["InternS1ForConditionalGeneration"],
        "model_type": "interns1",
        "text_config": text_config(moe, ids),
        "image_token_id": ids["<IMG_CONTEXT>"],
        "image_seq_length": (image_size // PATCH // 2) ** 2,
        "downsample_ratio": 0.5,
        "projector_hidden_act": "gelu",
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
        "tie_word_embeddings": False,
    }
    if vision:
        config["vision_config"] = {
            "architectures": ["InternVisionModel"],
            "model_type": "interns1_vision",
            "hidden_size": VISION_HIDDEN,
            "num_hidden_layers": VISION_LAYERS,
            "num_attention_heads": VISION_HEADS,
            "intermediate_size": 2 * VISION_HIDDEN,
            "image_size": [image_size, image_size],
            "patch_size": [PATCH, PATCH],
            "num_channels": 3,
            "norm_type": "layer_norm",
            "use_qk_norm": False,
            "attention_bias": True,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-6,
            "use_mean_pooling": True,
        }
    return config


# --- weights ---


def text_tensors(moe: bool, vocab_size: int, seed: int, prefix: str, head: str) -> dict[str, Array]:
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> Array:
        return (rng.standard_normal(shape, np.float32) / np.sqrt(shape[-1])).astype(np.float32)

    def norm(n: int) -> Array:
        return (1 + 0.1 * rng.standard_normal(n, np.float32)).astype(np.float32)

    out = {f"{prefix}embed_tokens.weight": matrix(vocab_size, HIDDEN), f"{prefix}norm.weight": norm(HIDDEN)}
    out[head] = 4 * matrix(vocab_size, HIDDEN)
    for layer in range(LAYERS):
        at = f"{prefix}layers.{layer}."
        out[f"{at}input_layernorm.weight"] = norm(HIDDEN)
        out[f"{at}post_attention_layernorm.weight"] = norm(HIDDEN)
        for part, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            out[f"{at}self_attn.{part}_proj.weight"] = matrix(heads * HEAD_DIM, HIDDEN)
        out[f"{at}self_attn.o_proj.weight"] = matrix(HIDDEN, HEADS * HEAD_DIM)
        out[f"{at}self_attn.q_norm.weight"] = norm(HEAD_DIM)
        out[f"{at}self_attn.k_norm.weight"] = norm(HEAD_DIM)
        if moe:
            out[f"{at}mlp.gate.weight"] = matrix(EXPERTS, HIDDEN)
        width = WIDTH if moe else 2 * WIDTH
        for place in [f"experts.{e}." for e in range(EXPERTS)] if moe else [""]:
            out[f"{at}mlp.{place}gate_proj.weight"] = matrix(width, HIDDEN)
            out[f"{at}mlp.{place}up_proj.weight"] = matrix(width, HIDDEN)
            out[f"{at}mlp.{place}down_proj.weight"] = matrix(HIDDEN, width)
    return out


def vision_tensors(
    image_size: int, seed: int, projected: int = HIDDEN, layers: int = VISION_LAYERS
) -> dict[str, Array]:
    """The tiny tower, and a projector to `projected` values."""
    rng = np.random.default_rng(seed)
    hidden, wide = VISION_HIDDEN, 4 * VISION_HIDDEN

    def random(*shape: int, scale: float = 0.1, mean: float = 0.0) -> Array:
        return (mean + scale * rng.standard_normal(shape, np.float32)).astype(np.float32)

    tower, projector = "model.vision_tower.", "model.multi_modal_projector."
    out = {
        f"{tower}embeddings.cls_token": random(1, 1, hidden),
        f"{tower}embeddings.position_embeddings": random(1, (image_size // PATCH) ** 2 + 1, hidden, scale=0.5),
        f"{tower}embeddings.patch_embeddings.projection.weight": random(hidden, 3, PATCH, PATCH),
        f"{tower}embeddings.patch_embeddings.projection.bias": random(hidden),
    }
    for layer in range(layers):
        at = f"{tower}encoder.layer.{layer}."
        for part in ("q_proj", "k_proj", "v_proj", "projection_layer"):
            out[f"{at}attention.{part}.weight"] = random(hidden, hidden)
            out[f"{at}attention.{part}.bias"] = random(hidden)
        for part in ("before", "after"):
            out[f"{at}layernorm_{part}.weight"] = random(hidden, mean=1.0)
            out[f"{at}layernorm_{part}.bias"] = random(hidden)
        for part in ("1", "2"):
            out[f"{at}lambda_{part}"] = random(hidden, mean=0.5)
        out[f"{at}mlp.fc1.weight"], out[f"{at}mlp.fc1.bias"] = random(2 * hidden, hidden), random(2 * hidden)
        out[f"{at}mlp.fc2.weight"], out[f"{at}mlp.fc2.bias"] = random(hidden, 2 * hidden), random(hidden)
    out[f"{projector}layer_norm.weight"], out[f"{projector}layer_norm.bias"] = random(wide, mean=1.0), random(wide)
    for part, columns in (("linear_1", wide), ("linear_2", projected)):
        out[f"{projector}{part}.weight"] = random(projected, columns, scale=0.05)
        out[f"{projector}{part}.bias"] = random(projected)
    return out


def _pack(tensors: dict[str, Array]) -> dict[str, Array]:
    """Experts as transformers 5 saves them: [experts, 2 x width, hidden] and [experts, hidden, width]."""
    out = {name: value for name, value in tensors.items() if ".experts." not in name}
    for layer in range(LAYERS):
        at = f"model.language_model.layers.{layer}.mlp.experts."
        parts = {
            part: np.stack([tensors[f"{at}{e}.{part}_proj.weight"] for e in range(EXPERTS)])
            for part in ("gate", "up", "down")
        }
        out[f"{at}gate_up_proj"] = np.concatenate([parts["gate"], parts["up"]], axis=1)
        out[f"{at}down_proj"] = parts["down"]
    return out


def _old_name(name: str) -> str:
    if name == "lm_head.weight":
        return "language_model.lm_head.weight"
    name = name.removeprefix("model.")
    return name.replace("language_model.", "language_model.model.", 1)


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
