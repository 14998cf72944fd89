"""Intern-S1 as transformers has it: template, processor and model.

Intern-S1 is InternVL's composition (vision tower, pixel shuffle, projector) around a Qwen3(-MoE) text model, with the
same tensor names, so transformers' InternVL modules over a checkpoint's weights are the reference implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import InternVLConfig, InternVLForConditionalGeneration
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil

from interns1_local.errors import LoadError
from interns1_local.reference.decoder import build, load, text_config, text_name
from interns1_local.reference.folder import chat_template, read_json
from interns1_local.reference.template import render
from interns1_local.reference.tokenizer import ReferenceTokenizer
from interns1_local.reference.weights import Filled, compute_in_float32

IMAGE = "<IMG_CONTEXT>"
_PROCESSOR_KEYS = ("size", "min_patches", "max_patches", "image_mean", "image_std", "resample")
_VISION = ("vision_tower.", "multi_modal_projector.")


class InternS1:
    """One checkpoint folder, opened the Hugging Face way. Without `weights`: the tokenizer and the processor only."""

    def __init__(self, folder: Path, *, weights: bool = True, dtype: torch.dtype = torch.float32) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self.tokenizer = ReferenceTokenizer(folder)
        self.template = chat_template(folder) or ""
        settings = read_json(folder / "preprocessor_config.json")
        # The files say crop_to_patches: false, and Intern-S1's own processor sets it nevertheless.
        kept = {key: settings[key] for key in _PROCESSOR_KEYS if key in settings}
        self.processor = GotOcr2ImageProcessorPil(crop_to_patches=True, **kept)
        side = self.config["vision_config"]["image_size"][0] // self.config["vision_config"]["patch_size"][0]
        self.tokens_per_tile = int(side * self.config["downsample_ratio"]) ** 2
        self.filled = Filled(0, 0)
        self.model: Any = None
        if weights:
            self.model, self.filled = load_filled(folder, dtype)

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None = None, **kwargs: Any) -> str:
        return render(self.template, messages, tools, **kwargs)

    def tiles(self, images: Sequence[Image.Image]) -> tuple[torch.Tensor | None, list[int]]:
        """Normalised tiles [n, 3, side, side] of all images, and how many each has."""
        if not images:
            return None, []
        batch = self.processor(images=list(images), return_tensors="pt")
        return batch["pixel_values"].float(), [int(n) for n in batch["num_patches"]]

    def levels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalised tiles back to colour levels 0 to 255, [n, side, side, 3]."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in self._mean_and_std())
        return ((pixels * std + mean) * 255).permute(0, 2, 3, 1)

    def prompt(
        self,
        messages: list[dict[str, Any]],
        images: Sequence[Image.Image] = (),
        tools: list[Any] | None = None,
        **kwargs: Any,
    ) -> tuple[list[int], torch.Tensor | None]:
        """Token ids with every image expanded to its placeholders, and the tiles."""
        pixels, counts = self.tiles(images)
        text = self.render(messages, tools, **kwargs)
        head, *rest = text.split(IMAGE)
        for count, tail in zip(counts, rest, strict=True):
            head += f"<img>{IMAGE * (count * self.tokens_per_tile)}</img>{tail}"
        return self.tokenizer.encode(head), pixels

    @torch.no_grad()
    def logits(self, ids: list[int], pixels: torch.Tensor | None = None) -> torch.Tensor:
        """Float logits [len(ids), vocabulary]."""
        logits: torch.Tensor = self.model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0]
        return logits.float()

    @torch.no_grad()
    def image_embeddings(self, pixels: torch.Tensor) -> torch.Tensor:
        """Projected features [tiles, tokens per tile, hidden]."""
        features: torch.Tensor = self.model.model.get_image_features(pixel_values=pixels).pooler_output
        return features

    def _mean_and_std(self) -> tuple[Any, Any]:
        return self.processor.image_mean, self.processor.image_std


def internvl_config(config: dict[str, Any]) -> InternVLConfig:
    """Intern-S1's config.json as transformers' InternVL config; only the names of the model types differ."""
    vision = {k: v for k, v in config["vision_config"].items() if k not in ("model_type", "architectures")}
    made = InternVLConfig(
        vision_config={**vision, "model_type": "internvl_vision"},
        text_config=text_config(config["text_config"], config),
        image_token_id=config["image_token_id"],
        image_seq_length=config.get("image_seq_length", 256),
        downsample_ratio=config["downsample_ratio"],
        projector_hidden_act=config.get("projector_hidden_act", "gelu"),
        vision_feature_layer=config.get("vision_feature_layer", -1),
        vision_feature_select_strategy=config.get("vision_feature_select_strategy", "default"),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
    )
    return made


def load_model(folder: Path, dtype: torch.dtype = torch.float32) -> InternVLForConditionalGeneration:
    """The checkpoint's weights inside transformers' module; the vision tower's are float32 whatever `dtype` is."""
    model: InternVLForConditionalGeneration = load_filled(folder, dtype)[0]
    return model


def load_filled(folder: Path, dtype: torch.dtype) -> tuple[Any, Filled]:
    """The same, with what loading had to do."""
    config = read_json(folder / "config.json")
    if not config.get("vision_config"):
        raise LoadError(f"{folder} has no vision tower: its config.json has no vision_config; leave out the mmproj")
    settings: Any = internvl_config(config)
    settings.text_config._experts_implementation = "eager"
    model = build(lambda: InternVLForConditionalGeneration(settings), dtype)
    model.model.vision_tower.float()
    model.model.multi_modal_projector.float()
    filled = load(model, folder, config, lambda name: _name(name, bool(settings.tie_word_embeddings)))
    compute_in_float32(model)
    return model, filled


def _name(stored: str, tied: bool) -> str | None:
    """A tensor's name in transformers' InternVL."""
    plain = stored.removeprefix("model.")
    if plain.startswith(_VISION):
        return f"model.{plain}"
    name = text_name(stored, tied)
    return name if name is None or name == "lm_head.weight" else "model.language_model." + name.removeprefix("model.")
