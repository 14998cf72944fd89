"""The Hugging Face side of every comparison: template, processor and model exactly as transformers has them.

Intern-S1 is InternVL's composition (vision tower, pixel shuffle, projector) around a Qwen3(-MoE) text model, with the
same tensor names, so transformers' InternVL modules over our weights are the reference implementation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.utils.chat_template_utils import render_jinja_template

from tests.nano.reference_tokenizer import ReferenceTokenizer

IMAGE = "<IMG_CONTEXT>"


class Reference:
    """One checkpoint folder, opened the Hugging Face way."""

    def __init__(self, folder: Path, *, weights: bool = True) -> None:
        self.folder = folder
        self.config = json.loads((folder / "config.json").read_text())
        self.tokenizer = ReferenceTokenizer(folder)
        self.template = (folder / "chat_template.jinja").read_text()
        settings = json.loads((folder / "preprocessor_config.json").read_text())
        kept = ("size", "min_patches", "max_patches", "image_mean", "image_std", "resample")
        self.processor = GotOcr2ImageProcessorPil(crop_to_patches=True, **{k: settings[k] for k in kept})
        side = self.config["vision_config"]["image_size"][0] // self.config["vision_config"]["patch_size"][0]
        self.tokens_per_tile = int(side * self.config["downsample_ratio"]) ** 2
        self.model = load_model(folder) if weights else None

    def render(self, messages: list[dict[str, Any]], tools: list | None = None, **kwargs: Any) -> str:
        texts, _ = render_jinja_template(
            [messages], tools=tools, chat_template=self.template, add_generation_prompt=True, **kwargs
        )
        return texts[0]

    def tiles(self, images: list[Image.Image]) -> tuple[torch.Tensor | None, list[int]]:
        """Normalised tiles [n, 3, side, side] of all images, and how many each has."""
        if not images:
            return None, []
        batch = self.processor(images=images, return_tensors="pt")
        return batch["pixel_values"].float(), [int(n) for n in batch["num_patches"]]

    def prompt(
        self, messages: list[dict[str, Any]], images: list[Image.Image] = (), tools: list | None = None, **kwargs: Any
    ) -> tuple[list[int], torch.Tensor | None]:
        """Token ids with every image expanded to its placeholders, and the tiles."""
        pixels, counts = self.tiles(list(images))
        text = self.render(messages, tools, **kwargs)
        head, *rest = text.split(IMAGE)
        for count, tail in zip(counts, rest, strict=True):
            head += f"<img>{IMAGE * (count * self.tokens_per_tile)}</img>{tail}"
        return self.tokenizer.encode(head), pixels

    @torch.no_grad()
    def logits(self, ids: list[int], pixels: torch.Tensor | None = None) -> torch.Tensor:
        """Float logits [len(ids), vocabulary]."""
        return self.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0].float()

    @torch.no_grad()
    def image_embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected features [tiles, tokens per tile, hidden]."""
        return self.model.model.get_image_features(pixel_values=pixels).pooler_output

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


def internvl_config(config: dict[str, Any]) -> InternVLConfig:
    """Intern-S1's config.json as transformers' InternVL config; only the names of the model types differ."""
    vision = {k: v for k, v in config["vision_config"].items() if k not in ("model_type", "architectures")}
    return InternVLConfig(
        vision_config={**vision, "model_type": "internvl_vision"},
        text_config=config["text_config"],
        image_token_id=config["image_token_id"],
        image_seq_length=config["image_seq_length"],
        downsample_ratio=config["downsample_ratio"],
        projector_hidden_act=config["projector_hidden_act"],
        vision_feature_layer=config["vision_feature_layer"],
        vision_feature_select_strategy=config["vision_feature_select_strategy"],
        tie_word_embeddings=False,
    )


def load_model(folder: Path) -> InternVLForConditionalGeneration:
    """The checkpoint's weights, in float32, inside transformers' module."""
    config = json.loads((folder / "config.json").read_text())
    model = InternVLForConditionalGeneration(internvl_config(config)).float().eval()
    tensors: dict[str, torch.Tensor] = {}
    for shard in sorted(folder.glob("model-*.safetensors")):
        with safe_open(shard, framework="pt") as file:
            tensors |= {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    missing, unexpected = model.load_state_dict(pack_experts(tensors), strict=False)
    if missing or unexpected:
        raise ValueError(f"{folder}: missing {missing}, unexpected {unexpected}")
    return model


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
