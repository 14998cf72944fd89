"""The families whose published chat format is known here, for files that carry no template, or less than the format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

# InternLM2 has 92,544 tokens, InternLM3 128,512; both are SentencePiece vocabularies.
_INTERNLM3_TOKENS = 100_000


@dataclass(frozen=True, slots=True)
class Family:
    """Names of files of `interns1_local.chat`.

    Args:
        template: the chat template.
        has_tools: the published format has tools; a checkpoint's own template may know nothing of them.
        thinking: the system prompt that makes the model think, where that is how its authors do it.
    """

    template: str
    has_tools: bool = False
    thinking: str | None = None

    @property
    def template_source(self) -> str:
        return _read(self.template)

    @property
    def thinking_prompt(self) -> str | None:
        return None if self.thinking is None else _read(self.thinking)


INTERNS1 = Family("interns1.jinja", has_tools=True)
INTERNLM2 = Family("internlm2.jinja", has_tools=True)
# The prompt of "Deep Thinking Mode" in the InternLM repository's README, where it is the first system message.
INTERNLM3 = Family("internlm2.jinja", has_tools=True, thinking="internlm3_thinking.txt")
INTERNLM2_REWARD = Family("internlm2_reward.jinja")
CHATML = Family("chatml.jinja")


def find_family(metadata: Mapping[str, Any]) -> Family | None:
    """The family of a GGUF file, by its keys and its vocabulary; None when it is no chat model of a known format."""
    tokens = metadata.get("tokenizer.ggml.tokens")
    if tokens is None or "<|im_start|>" not in tokens:
        return None
    if "interns1.reward.token_id" in metadata:
        return INTERNLM2_REWARD
    architecture = metadata.get("general.architecture")
    if architecture in ("qwen3", "qwen3moe") and "<|action_start|>" in tokens:
        return INTERNS1
    if architecture in ("internlm2", "llama") and metadata.get("tokenizer.ggml.model") == "llama":
        name = str(metadata.get("general.name", "")).lower()
        if architecture == "llama" and ("internlm3" in name or len(tokens) > _INTERNLM3_TOKENS):
            return INTERNLM3
        if architecture == "internlm2" or "<|action_start|>" in tokens:
            return INTERNLM2
    return CHATML


@cache
def _read(name: str) -> str:
    return files("interns1_local.chat").joinpath(name).read_text(encoding="utf-8")
