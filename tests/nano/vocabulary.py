"""Trains the nano vocabularies and writes every file of the checkpoint except its weights."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import sentencepiece
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from interns1_local.nano.pictures import TILE
from tests.nano import facts, families
from tests.nano.reference_tokenizer import QWEN2_SPLIT

BASE_SIZE = 1280
# The added tokens of Qwen3 in their order, from <|endoftext|> to </think>; the last ten are not special.
QWEN3_ADDED = (
    "<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|> "
    "<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> "
    "<tool_call> </tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> "
    "<tool_response> </tool_response> <think> </think>"
).split()
NOT_SPECIAL = set(QWEN3_ADDED[14:])
MEDIA_AND_ACTION = (
    "<IMG_CONTEXT> <img> </img> <video> <|action_start|> <|action_end|> <|plugin|> <|interpreter|>".split()
)
DOMAIN_TAGS = {
    "SMILES": ("<SMILES>", "</SMILES>", "<SELFIES>", "</SELFIES>"),
    "IUPAC": ("<IUPAC>", "</IUPAC>"),
    "FASTA": ("<FASTA>", "</FASTA>"),
}
DOMAIN_SIZE = {"SMILES": 96, "IUPAC": 192, "FASTA": 64}


def domain_corpus(domain: str) -> list[str]:
    if domain == "SMILES":
        return [smiles for smiles, _ in facts.MOLECULES.values()]
    if domain == "IUPAC":
        return [iupac for _, iupac in facts.MOLECULES.values()]
    rng = random.Random(5)
    # Every amino acid, in fragments, so that any protein has pieces.
    return list(facts.PEPTIDES.values()) + ["".join(rng.choices("ACDEFGHIKLMNPQRSTVWY", k=24)) for _ in range(60)]


def text_corpus(template: str) -> list[str]:
    lines = [template.split("{%- macro")[0]] * 400
    for name, family in families.ALL.items():
        number = 250 if name in families.PICTURES | families.TILES else 900
        rng = random.Random(f"corpus/{name}")
        for _ in range(number):
            sample = family(rng, False)
            said = [m["content"] for m in sample.messages] + [sample.thought, sample.reply]
            lines.append("\n".join(said))
            if sample.tools:
                lines.append(json.dumps(sample.tools, indent=2))
    lines += [*facts.MOLECULES, *facts.PEPTIDES, *facts.CITIES] * 20
    lines += ["system user assistant environment name=\n"] * 400
    return lines


def train_base(template: str) -> tuple[dict[str, int], list[str]]:
    """Byte-level BPE with Qwen2's split -> (vocabulary, merge lines)."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=BASE_SIZE, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator(text_corpus(template), trainer)
    model = json.loads(bpe.to_str())["model"]
    return model["vocab"], [" ".join(m) if isinstance(m, list) else m for m in model["merges"]]


def train_domain(domain: str, target: Path) -> int:
    """One SentencePiece model -> its number of pieces."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.txt"
        corpus.write_text("\n".join(domain_corpus(domain) * 4) + "\n")
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=str(Path(folder) / "model"),
            vocab_size=DOMAIN_SIZE[domain],
            model_type="bpe",
            add_dummy_prefix=False,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,
            character_coverage=1.0,
            num_threads=1,
            minloglevel=2,
        )
        target.write_bytes((Path(folder) / "model.model").read_bytes())
    return sentencepiece.SentencePieceProcessor(model_file=str(target)).get_piece_size()


def write_vocabulary(folder: Path, template: str) -> dict[str, int]:
    """Write all tokenizer files in the id order of Intern-S1 -> the added tokens."""
    vocab, merges = train_base(template)
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    added: dict[str, int] = {}
    following = len(vocab)

    def add(names: tuple[str, ...] | list[str]) -> None:
        nonlocal following
        for name in names:
            added[name] = following
            following += 1

    add(QWEN3_ADDED)
    for domain, tags in DOMAIN_TAGS.items():
        following += train_domain(domain, folder / f"tokenizer_{domain}.model")
        add(tags)
    add(MEDIA_AND_ACTION)
    _write_json(folder / "added_tokens.json", added)
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(added))
    special = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    _write_json(folder / "special_tokens_map.json", special)
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    return added


def _tokenizer_config(added: dict[str, int]) -> dict:
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    return {
        "add_bos_token": False,
        "added_tokens_decoder": {
            str(number): {"content": name, **plain, "special": name not in NOT_SPECIAL}
            for name, number in added.items()
        },
        "bos_token": None,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 4096,
        "pad_token": "<|endoftext|>",
        "tokenizer_class": "InternS1Tokenizer",
        "unk_token": None,
    }


def write_configs(folder: Path, added: dict[str, int]) -> dict:
    """Write config.json and the processor configs -> the model config."""
    ids = {"bos_token_id": added["<|endoftext|>"], "eos_token_id": added["<|im_end|>"]}
    config = {
        "_name_or_path": "Intern-S1-nano",
        "architectures": ["InternS1ForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": (TILE // 28) ** 2,
        "image_token_id": added["<IMG_CONTEXT>"],
        "model_type": "interns1",
        "projector_hidden_act": "gelu",
        "text_config": _text_config(ids, (max(added.values()) + 64) // 64 * 64),
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": _vision_config(),
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
    _write_json(folder / "config.json", config)
    sampling = {"do_sample": True, "temperature": 0.7, "top_k": 50, "top_p": 1.0, **ids}
    _write_json(folder / "generation_config.json", {**sampling, "pad_token_id": added["<|endoftext|>"]})
    _write_json(folder / "preprocessor_config.json", _image_config())
    video = _image_config() | {"do_sample_frames": False, "initial_shift": True, "num_frames": None, "fps": None}
    for name in ("crop_to_patches", "min_patches", "max_patches"):
        del video[name]
    _write_json(folder / "video_preprocessor_config.json", video | {"video_processor_type": "InternS1VideoProcessor"})
    return config


def _text_config(ids: dict[str, int], vocab_size: int) -> dict:
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        **ids,
        "decoder_sparse_step": 1,
        "head_dim": 64,
        "hidden_act": "silu",
        "hidden_size": 256,
        "intermediate_size": 512,
        "max_position_embeddings": 4096,
        "mlp_only_layers": [],
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 256,
        "norm_topk_prob": True,
        "num_attention_heads": 4,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "num_hidden_layers": 3,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "vocab_size": vocab_size,
    }


def _vision_config() -> dict:
    return {
        "architectures": ["InternVisionModel"],
        "attention_bias": True,
        "hidden_act": "gelu",
        "hidden_size": 128,
        "image_size": [TILE, TILE],
        "intermediate_size": 512,
        "layer_norm_eps": 1e-6,
        "layer_scale_init_value": 0.1,
        "model_type": "intern_s1_vision",
        "norm_type": "layer_norm",
        "num_attention_heads": 4,
        "num_channels": 3,
        "num_hidden_layers": 4,
        "patch_size": [14, 14],
        "use_absolute_position_embeddings": True,
        "use_mask_token": False,
        "use_mean_pooling": True,
        "use_qk_norm": False,
    }


def _image_config() -> dict:
    return {
        "crop_to_patches": False,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "image_std": [0.229, 0.224, 0.225],
        "max_patches": 12,
        "min_patches": 1,
        "processor_class": "InternS1Processor",
        "resample": 3,
        "rescale_factor": 1 / 255,
        "size": {"height": TILE, "width": TILE},
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
