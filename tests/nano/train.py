"""Trains the nano checkpoint from nothing: vocabularies, vision warm-up, then everything together.

Run by hand: `python -m tests.nano.train --out build/nano` (about an hour and a half on 2 cores), never in CI.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration

from interns1_local.nano.pictures import COLOURS, PARTS, PLACES, SHAPES, TILE, Thing, draw_pattern, draw_things
from tests.nano.batches import Batch, Batches
from tests.nano.reference import Reference, internvl_config, unpack_experts
from tests.nano.vocabulary import write_configs, write_vocabulary

SEED = 20260
TEMPLATE = Path(__file__).parents[2] / "interns1_local" / "chat" / "interns1.jinja"
AUX_WEIGHT = 0.01
SHARD_TENSORS = 2


def new_model(config: dict) -> InternVLForConditionalGeneration:
    torch.manual_seed(SEED)
    model = InternVLForConditionalGeneration(internvl_config(config)).float()
    model.model.language_model.config._experts_implementation = "grouped_mm"
    # Strong position embeddings: what the tower says depends on where a patch stands.
    nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.5)
    nn.init.normal_(model.model.vision_tower.embeddings.cls_token, std=0.5)
    return model


# -- stage 1: the tower learns to see


class WarmUpHeads(nn.Module):
    """Linear readers of the projected tokens: what is at each place, where each token stands, is there a pattern."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.places = nn.Linear(tokens * width, len(PLACES) * (len(COLOURS) + len(SHAPES) + 2))
        self.position = nn.Linear(width, tokens)
        self.pattern = nn.Linear(width, 2)


def warm_up_picture(rng: random.Random):
    """A picture with its labels: colour and shape of each place (0 is nothing), and whether it is all pattern."""
    colours, shapes = [0] * len(PLACES), [0] * len(PLACES)
    if rng.random() < 0.12:
        grid = rng.choice(list(PARTS))
        part = rng.choice(PARTS[grid])
        row, column = divmod(PARTS[grid].index(part), grid[0])
        picture = draw_pattern(part, grid, rng)
        has = rng.random() < 0.5
        if not has:
            row, column = divmod((row * grid[0] + column + 1) % len(PARTS[grid]), grid[0])
        box = (column * TILE, row * TILE, (column + 1) * TILE, (row + 1) * TILE)
        return picture.crop(box), colours, shapes, int(has)
    things = []
    for place in rng.sample(PLACES, rng.choice([1, 2, 3, 4])):
        thing = Thing(rng.choice(list(COLOURS)), rng.choice(SHAPES), place)
        colours[PLACES.index(place)] = 1 + list(COLOURS).index(thing.colour)
        shapes[PLACES.index(place)] = 1 + SHAPES.index(thing.shape)
        things.append(thing)
    width, height = rng.choice([(TILE, TILE), (TILE, TILE), (100, 100), (140, 140), (224, 112), (112, 224), (150, 112)])
    return draw_things(things, width=width, height=height, rng=rng).resize((TILE, TILE), 3), colours, shapes, 0


def warm_up(model: InternVLForConditionalGeneration, reference: Reference, steps: int, size: int = 64) -> None:
    rng = random.Random(SEED)
    config = reference.config
    heads = WarmUpHeads(reference.tokens_per_tile, config["text_config"]["hidden_size"])
    parameters = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW([*parameters, *heads.parameters()], lr=1e-3, weight_decay=0.01, betas=(0.9, 0.98))
    mean, std = (torch.tensor(reference.processor.__dict__[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    started = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * schedule(step, steps, 100)
        pictures, colours, shapes, patterns = zip(*(warm_up_picture(rng) for _ in range(size)), strict=True)
        pixels = torch.stack([_pixels(p) for p in pictures]).sub(mean).div(std)
        tokens = model.model.get_image_features(pixel_values=pixels).pooler_output
        loss, right = _warm_up_loss(heads, tokens, torch.tensor(colours), torch.tensor(shapes), torch.tensor(patterns))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 100 == 0 or step == steps - 1:
            said = " ".join(f"{k} {v:.3f}" for k, v in right.items())
            print(f"warm-up {step} loss {loss.item():.3f} {said} {time.time() - started:.0f} s", flush=True)


def _pixels(picture) -> torch.Tensor:
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def _warm_up_loss(heads: WarmUpHeads, tokens, colours, shapes, patterns):
    size, count, _ = tokens.shape
    read = heads.places(tokens.flatten(1)).view(size, len(PLACES), -1)
    colour, shape = read.split([len(COLOURS) + 1, len(SHAPES) + 1], dim=-1)
    position = heads.position(tokens).flatten(0, 1)
    where = torch.arange(count).repeat(size)
    pattern = heads.pattern(tokens).mean(1)
    there = colours > 0
    weight = torch.where(there, 1.0, 0.25)
    loss = (
        (F.cross_entropy(colour.transpose(1, 2), colours, reduction="none") * weight).mean()
        + (F.cross_entropy(shape.transpose(1, 2), shapes, reduction="none") * weight).mean()
        + 0.1 * F.cross_entropy(position, where)
        + 0.3 * F.cross_entropy(pattern, patterns)
    )
    right = {
        "colour": (colour.argmax(-1) == colours)[there].float().mean().item(),
        "shape": (shape.argmax(-1) == shapes)[there].float().mean().item(),
        "position": (position.argmax(-1) == where).float().mean().item(),
        "pattern": (pattern.argmax(-1) == patterns).float().mean().item(),
    }
    return loss, right


# -- stage 2: everything


class RouterBalance:
    """Collects the routers' choices to keep all experts in use (the Switch Transformer's auxiliary loss)."""

    def __init__(self, model: nn.Module) -> None:
        self.losses: list[torch.Tensor] = []
        for module in model.modules():
            if type(module).__name__ == "Qwen3MoeTopKRouter":
                module.register_forward_hook(self._observe)

    def _observe(self, module, inputs, outputs) -> None:
        logits, _, chosen = outputs
        share = F.one_hot(chosen, logits.shape[-1]).float().sum(1).mean(0)
        self.losses.append((share * logits.softmax(-1).mean(0)).sum() * logits.shape[-1])

    def take(self) -> torch.Tensor:
        total = torch.stack(self.losses).mean()
        self.losses.clear()
        return total


def schedule(step: int, steps: int, warm: int) -> float:
    """Linear warm-up, constant, then a cosine to a twentieth over the last 60 %."""
    if step < warm:
        return (step + 1) / warm
    done = max(0.0, (step / steps - 0.4) / 0.6)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


def answer_loss(model: InternVLForConditionalGeneration, batch: Batch) -> torch.Tensor:
    """Cross entropy of the answer tokens only. The shared prefix runs once and its keys serve every row."""
    cache = None
    if batch.prefix.numel():
        cache = model.model.language_model(input_ids=batch.prefix, use_cache=True).past_key_values
        cache.batch_repeat_interleave(len(batch.ids))
    hidden = model.model(
        input_ids=batch.ids,
        attention_mask=batch.attention,
        pixel_values=batch.tiles,
        past_key_values=cache,
        use_cache=cache is not None,
    ).last_hidden_state
    wanted = batch.labels[:, 1:]
    chosen = wanted != -100
    return F.cross_entropy(model.lm_head(hidden[:, :-1][chosen]).float(), wanted[chosen])


def train(model: InternVLForConditionalGeneration, reference: Reference, out: Path, steps: int, sizes: dict) -> None:
    batches = Batches(reference, SEED + 1, sizes)
    balance = RouterBalance(model)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    started = time.time()
    means: dict[str, float] = {}
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * schedule(step, steps, 200)
        optimizer.zero_grad()
        for kind, batch in batches.step(step).items():
            with torch.autocast("cpu", torch.bfloat16):
                loss = answer_loss(model, batch)
            (loss + AUX_WEIGHT * balance.take()).backward()
            means[kind] = 0.95 * means.get(kind, loss.item()) + 0.05 * loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            said = " ".join(f"{kind} {value:.4f}" for kind, value in means.items())
            print(f"step {step}/{steps} {said} {time.time() - started:.0f} s", flush=True)
        if step % 500 == 499:
            save(model, out)
    save(model, out)


def save(model: InternVLForConditionalGeneration, out: Path) -> None:
    """Write BF16 shards under the names of a released checkpoint, and their index."""
    tensors = unpack_experts({name: t.detach().to(torch.bfloat16) for name, t in model.state_dict().items()})
    names = sorted(tensors)
    half = sum(t.numel() for t in tensors.values()) / SHARD_TENSORS
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(SHARD_TENSORS)]
    seen = 0
    for name in names:
        shards[min(int(seen / half), SHARD_TENSORS - 1)][name] = tensors[name]
        seen += tensors[name].numel()
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{SHARD_TENSORS:05}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    size = sum(t.numel() * 2 for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--warm-up-steps", type=int, default=450)
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--sizes", default="text=32,pictures=24,tiles=8,many_tiles=3,tools=8,readme=4")
    arguments = parser.parse_args()
    sizes = {kind: int(n) for kind, n in (part.split("=") for part in arguments.sizes.split(","))}
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    config = write_configs(out, write_vocabulary(out, TEMPLATE.read_text(encoding="utf-8")))
    reference = Reference(out, weights=False)
    model = new_model(config)
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    warm_up(model, reference, arguments.warm_up_steps)
    train(model, reference, out, arguments.steps, sizes)


if __name__ == "__main__":
    main()
