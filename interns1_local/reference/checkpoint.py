"""Which reference fits a checkpoint: one table, and one face for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from interns1_local.errors import LoadError, Unsupported
from interns1_local.reference.decoder import Decoder
from interns1_local.reference.folder import chat_template, read_json, role_tokens
from interns1_local.reference.internlm2 import InternLM2
from interns1_local.reference.interns1 import InternS1
from interns1_local.reference.sentencepiece_tokenizer import SentencePieceTokenizer
from interns1_local.reference.template import render
from interns1_local.reference.tokenizer import ReferenceTokenizer

FLOAT32, BFLOAT16 = "float32", "bfloat16"
DTYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}
# The name in config.json's "architectures" -> the family; then the same by "model_type", for files without the first.
ARCHITECTURES = {
    "InternS1ForConditionalGeneration": "interns1",
    "Qwen3ForCausalLM": "qwen3",
    "Qwen3MoeForCausalLM": "qwen3",
    "InternLM3ForCausalLM": "internlm3",
    "InternLM2ForCausalLM": "internlm2",
    "InternLM2ForRewardModel": "internlm2",
}
MODEL_TYPES = {
    "interns1": "interns1",
    "intern_s1": "interns1",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3",
    "internlm3": "internlm3",
    "internlm2": "internlm2",
}

Matrix = NDArray[np.float32]


class Reference:
    """A checkpoint as Hugging Face's code computes it. `vision` is None unless it was asked for."""

    def __init__(
        self, folder: Path, *, dtype: str = FLOAT32, vision: bool = False, context_length: int | None = None
    ) -> None:
        """`context_length`: of the file that is compared; InternLM raises its rotary base past the trained length."""
        if not folder.is_dir():
            raise LoadError(f"there is no folder {folder} (a Hugging Face checkpoint is expected)")
        self.config = read_json(folder / "config.json")
        self.family = family_of(self.config)
        self.template = chat_template(folder)
        self._roles = role_tokens(folder)
        self.vision: InternS1 | None = None
        self.tokenizer: ReferenceTokenizer | SentencePieceTokenizer
        self._model: Decoder | InternLM2 | InternS1
        if vision and self.family != "interns1":
            raise Unsupported(f"{folder} is {self.architecture}, which sees no pictures; leave out --mmproj")
        if self.family in ("interns1", "qwen3"):
            self.tokenizer = ReferenceTokenizer(folder, science=self.family == "interns1")
        else:
            self.tokenizer = SentencePieceTokenizer(folder)
        if vision:
            self._model = self.vision = InternS1(folder, dtype=DTYPES[dtype])
        else:
            kind = InternLM2 if self.family == "internlm2" else Decoder
            self._model = kind(folder, self.config, DTYPES[dtype], context_length)
        self.rounded = self._model.filled.rounded

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or [self.config.get("model_type")])[0])

    @property
    def is_reward(self) -> bool:
        return isinstance(self._model, InternLM2) and self._model.is_reward

    @property
    def reward_token(self) -> int:
        return int(self.config["reward_token_id"])

    @property
    def max_positions(self) -> int:
        """Tokens that the model is trained for."""
        return int((self.config.get("text_config") or self.config)["max_position_embeddings"])

    def encode(self, text: str) -> list[int]:
        """Ids of a text in which special tokens count as such, with nothing added around it."""
        return self.tokenizer.encode(text)

    def spell(self, ids: Sequence[int]) -> str:
        """The text of some ids, special tokens included."""
        return self.tokenizer.decode(list(ids), skip_special=False)

    def render(self, messages: list[dict[str, Any]], *, add_generation_prompt: bool = True) -> str | None:
        """The conversation as the checkpoint's template writes it; None when it has no template."""
        if self.template is None:
            return None
        settings: dict[str, Any] = {"add_generation_prompt": add_generation_prompt, **self._roles}
        return render(self.template, messages, **settings)

    def logits(self, ids: list[int], pixels: Any = None) -> Matrix:
        """float32 [len(ids), vocabulary]; `pixels` are the tiles of the pictures among `ids`."""
        if isinstance(self._model, InternS1):
            return _array(self._model.logits(ids, pixels))
        return _array(self._model.logits(ids))

    def state_and_score(self, ids: list[int]) -> tuple[Matrix, float]:
        """A reward model's hidden state [hidden] at the last of `ids`, and its score there."""
        assert isinstance(self._model, InternLM2)
        state, score = self._model.state_and_score(ids)
        return _array(state), score


def family_of(config: dict[str, Any]) -> str:
    """The family of a config.json."""
    names = config.get("architectures") or []
    found = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if found is None and not names:
        found = MODEL_TYPES.get(str(config.get("model_type")))
    if found is None:
        given = ", ".join(map(str, names)) or f"model_type {config.get('model_type')!r}"
        raise Unsupported(f"{given} has no reference here; known are {', '.join(ARCHITECTURES)}")
    return found


def _array(tensor: torch.Tensor) -> Matrix:
    values: Matrix = tensor.numpy()
    return values
