"""The reference that `interns1 verify` judges by, with what only training and tests ask of it."""

from __future__ import annotations

from typing import Any

import torch

from interns1_local.reference.interns1 import IMAGE, InternS1, internvl_config, load_model

__all__ = ["IMAGE", "Reference", "internvl_config", "load_model", "pack_experts", "unpack_experts", "with_images"]


class Reference(InternS1):
    """One checkpoint folder, opened the Hugging Face way, that can also answer."""

    def would_say(self, ids: list[int], pixels: torch.Tensor | None, wanted: list[int]) -> bool:
        """Whether the greedy continuation is `wanted` and then the end: one pass instead of one a token."""
        wanted = [*wanted, self.tokenizer.added["<|im_end|>"]]
        logits = self.logits(ids + wanted[:-1], pixels)
        return logits[len(ids) - 1 :].argmax(-1).tolist() == wanted

    @torch.no_grad()
    def greedy(self, ids: list[int], pixels: torch.Tensor | None = None, limit: int = 128) -> list[int]:
        """Greedy continuation, without the end token."""
        end = self.tokenizer.added["<|im_end|>"]
        out = self.model.generate(
            input_ids=torch.tensor([ids]),
            attention_mask=torch.ones(1, len(ids), dtype=torch.long),
            **({} if pixels is None else {"pixel_values": pixels}),
            max_new_tokens=limit,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )[0].tolist()
        out = out[len(ids) :] if out[: len(ids)] == ids else out
        return out[: out.index(end)] if end in out else out


def with_images(messages: list[dict[str, Any]], number: int) -> list[dict[str, Any]]:
    """The last user message with `number` picture parts before its text."""
    if not number:
        return messages
    *before, last = messages
    parts = [{"type": "image"}] * number + [{"type": "text", "text": last["content"]}]
    return [*before, {**last, "content": parts}]


def pack_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Per-expert matrices -> the stacked parameters of transformers 5 (gate and up joined)."""
    out = {name: t for name, t in tensors.items() if ".mlp.experts." not in name}
    layers = sorted({name.split(".mlp.experts.")[0] for name in tensors if ".mlp.experts." in name})
    for layer in layers:
        prefix = f"{layer}.mlp.experts"
        count = sum(name.startswith(f"{prefix}.") and name.endswith("down_proj.weight") for name in tensors)
        gate, up, down = (
            torch.stack([tensors[f"{prefix}.{e}.{part}_proj.weight"] for e in range(count)])
            for part in ("gate", "up", "down")
        )
        out[f"{prefix}.gate_up_proj"] = torch.cat([gate, up], dim=1)
        out[f"{prefix}.down_proj"] = down
    return out


def unpack_experts(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `pack_experts`: the names of a released checkpoint."""
    out: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name.endswith(".mlp.experts.gate_up_proj"):
            prefix = name.removesuffix(".gate_up_proj")
            for expert, matrix in enumerate(tensor):
                gate, up = matrix.chunk(2, dim=0)
                out[f"{prefix}.{expert}.gate_proj.weight"] = gate
                out[f"{prefix}.{expert}.up_proj.weight"] = up
        elif name.endswith(".mlp.experts.down_proj"):
            prefix = name.removesuffix(".down_proj")
            out |= {f"{prefix}.{expert}.down_proj.weight": matrix for expert, matrix in enumerate(tensor)}
        else:
            out[name] = tensor
    return {name: tensor.contiguous() for name, tensor in out.items()}
