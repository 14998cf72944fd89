"""Intern-S1 and Intern-S1-mini: a Qwen3 text model, science vocabularies and an InternViT tower."""

from __future__ import annotations

from typing import Any

from convert import metadata, science_vocab, vocab_bpe
from convert.architectures import interns1_vision, qwen3
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint
from convert.plan import FilePlan

# Where the parts stand in the two styles of names: (text model, output matrix, prefix of vision tower and projector).
_STYLES = (
    ("model.language_model.", "lm_head.weight", "model."),
    ("language_model.model.", "language_model.lm_head.weight", ""),
    ("language_model.", "lm_head.weight", ""),
)


def plan_text(checkpoint: Checkpoint) -> FilePlan:
    text, head, _ = _style(checkpoint)
    config = qwen3.Config.from_dict(_text_config(checkpoint))
    vocabulary = vocab_bpe.read_vocabulary(checkpoint)
    domains = science_vocab.read_domains(checkpoint, vocabulary, config.vocab_size)
    hidden = {id for domain in domains for id in domain.ids}
    keys = {
        **metadata.general(checkpoint, "model", config.architecture),
        **metadata.sampling(checkpoint),
        **qwen3.fields(config),
        **vocab_bpe.fields(vocabulary, config.vocab_size, hidden),
        **science_vocab.fields(domains),
        **_image_tokens(checkpoint, vocabulary),
        **metadata.chat_template(checkpoint),
    }
    return FilePlan(keys, qwen3.tensors(checkpoint, config, text, head), config.facts)


def plan_vision(checkpoint: Checkpoint) -> FilePlan | None:
    if not checkpoint.config.get("vision_config"):
        return None
    _, _, prefix = _style(checkpoint)
    if not any(name.startswith(f"{prefix}vision_tower.") for name in checkpoint.tensors):
        return None
    return interns1_vision.plan(checkpoint, prefix, _text_config(checkpoint).get("hidden_size", 0))


def _style(checkpoint: Checkpoint) -> tuple[str, str, str]:
    for style in _STYLES:
        if f"{style[0]}embed_tokens.weight" in checkpoint.tensors:
            return style
    tried = ", ".join(f"{style[0]}embed_tokens.weight" for style in _STYLES)
    raise BrokenCheckpoint(f"{checkpoint.folder} has no token embedding; looked for {tried}.")


def _text_config(checkpoint: Checkpoint) -> dict[str, Any]:
    config = checkpoint.config.get("text_config")
    if not isinstance(config, dict):
        raise BrokenCheckpoint("config.json has no text_config.")
    # A setting that only stands at the top holds for the text model too.
    tied = config.get("tie_word_embeddings", checkpoint.config.get("tie_word_embeddings", False))
    return {**config, "tie_word_embeddings": tied}


def _image_tokens(checkpoint: Checkpoint, vocabulary: vocab_bpe.Vocabulary) -> dict[str, Any]:
    """The ids around and inside an image; absent when the tokenizer has none."""
    ids = {
        "context": vocabulary.added_id("<IMG_CONTEXT>"),
        "start": vocabulary.added_id("<img>"),
        "end": vocabulary.added_id("</img>"),
    }
    given = checkpoint.config.get("image_token_id")
    if ids["context"] is not None and given is not None and given != ids["context"]:
        raise BrokenCheckpoint(
            f"config.json says image_token_id {given}; in the tokenizer <IMG_CONTEXT> has id {ids['context']}."
        )
    return {f"interns1.image.{part}_token_id": id for part, id in ids.items() if id is not None}
