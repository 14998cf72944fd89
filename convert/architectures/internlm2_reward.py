"""InternLM2-Reward: scores a conversation by the last hidden state of its reward token and one row of weights.

llama.cpp has no such head, so the file is a llama model that pools the last token, with the row in its metadata.
"""

from __future__ import annotations

import numpy as np

from convert.architectures import internlm2, llama
from convert.architectures.llama import Config
from convert.checkpoint import Checkpoint
from convert.errors import BrokenCheckpoint
from convert.plan import FilePlan

POOLING_LAST = 3


def plan_text(checkpoint: Checkpoint) -> FilePlan:
    config = Config.from_dict(checkpoint.config)
    token = checkpoint.config.get("reward_token_id")
    if not isinstance(token, int) or not 0 <= token < config.vocab_size:
        raise BrokenCheckpoint(f"config.json: reward_token_id is {token!r}; the id of a token was expected.")
    head = checkpoint.entry("v_head.weight")
    if head.shape != (1, config.hidden_size):
        raise BrokenCheckpoint(
            f"Tensor v_head.weight in {head.file} has shape {list(head.shape)}; "
            f"the config asks for {[1, config.hidden_size]}."
        )
    weights = checkpoint.read_rows(head, 0, 1)[0]
    if not np.isfinite(weights).all():
        raise BrokenCheckpoint(f"Tensor v_head.weight in {head.file} contains NaN or infinity.")
    keys = {
        **llama.fields(checkpoint, config, "llama"),
        "llama.pooling_type": POOLING_LAST,
        "interns1.reward.v_head": weights,
        "interns1.reward.token_id": token,
    }
    return FilePlan(keys, internlm2.tensors(checkpoint, config), config.facts("llama"))


def plan_vision(checkpoint: Checkpoint) -> FilePlan | None:
    return None
