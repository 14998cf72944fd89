"""The reference tokenizer under the name that the training knows."""

from __future__ import annotations

from interns1_local.reference.tokenizer import QWEN2_SPLIT, ReferenceTokenizer

__all__ = ["QWEN2_SPLIT", "ReferenceTokenizer"]
