"""Text to be put between two others, for models whose vocabulary has marks for that."""

from __future__ import annotations

from interns1_local.errors import Unsupported
from interns1_local.generation.abilities import abilities
from interns1_local.generation.upstream import refuse_upstream
from interns1_local.store.model_store import StoredModel

# Qwen's marks, which Intern-S1's vocabulary has kept.
PREFIX, SUFFIX, MIDDLE = "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"


def infill_prompt(model: StoredModel, prefix: str, suffix: str) -> str:
    """The prompt whose continuation belongs between `prefix` and `suffix`. Unsupported without the marks."""
    refuse_upstream(model, "put text between others")
    tokens = abilities(model).facts.metadata.get("tokenizer.ggml.tokens") or ()
    if not all(mark in tokens for mark in (PREFIX, SUFFIX, MIDDLE)):
        raise Unsupported(
            f"{model.name.full} does not support insert: its vocabulary has no {PREFIX}; leave suffix out"
        )
    return f"{PREFIX}{prefix}{SUFFIX}{suffix}{MIDDLE}"
