"""Trains the nano checkpoint from nothing: vocabularies, vision warm-up, everything together, and the slowest again.

Run by hand: `python -m tests.nano.train --out build/nano` (about an hour and a quarter on 2 cores), never in CI.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from pathlib import Path

import torch
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration

from tests.nano.batches import EVERYTHING, KINDS, SLOWEST, Batch, Batches, Mix
from tests.nano.muon import Muon
from tests.nano.reference import Reference, internvl_config, load_model, unpack_experts
from tests.nano.vocabulary import write_configs, write_vocabulary
from tests.nano.warm_up import warm_up

SEED = 20260
TEMPLATE = Path(__file__).parents[2] / "interns1_local" / "chat" / "interns1.jinja"
AUX_WEIGHT = 0.01
SHARDS = 2
VOCABULARY_FILES = ("vocab.json", "merges.txt", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja")
LEARNING_RATE = 3e-3
EXAM_ROWS = 48


def new_model(config: dict) -> InternVLForConditionalGeneration:
    torch.manual_seed(SEED)
    model = InternVLForConditionalGeneration(internvl_config(config)).float()
    model.model.language_model.config._experts_implementation = "grouped_mm"
    # Strong position embeddings: what the tower says depends on where a patch stands.
    nn.init.normal_(model.model.vision_tower.embeddings.position_embeddings, std=0.5)
    nn.init.normal_(model.model.vision_tower.embeddings.cls_token, std=0.5)
    return model


class RouterBalance:
    """Collects the routers' choices to keep all experts in use (the Switch Transformer's auxiliary loss)."""

    def __init__(self, model: nn.Module) -> None:
        self.losses: list[torch.Tensor] = []
        routers = [module for module in model.modules() if type(module).__name__ == "Qwen3MoeTopKRouter"]
        for router in routers:
            router.register_forward_hook(self._observe)

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


def answer_scores(model: InternVLForConditionalGeneration, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [answer tokens, vocabulary] and the tokens. The shared prefix runs once and its keys serve every row."""
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
    return model.lm_head(hidden[:, :-1][chosen]).float(), wanted[chosen]


@torch.no_grad()
def exam(model: InternVLForConditionalGeneration, batch: Batch) -> float:
    """The share of rows whose greedy answer is right to the letter."""
    scores, wanted = answer_scores(model, batch)
    row = (batch.labels[:, 1:] != -100).nonzero()[:, 0]
    wrong = row[scores.argmax(-1) != wanted].unique()
    return 1 - len(wrong) / len(batch.ids)


class Team:
    """Worker processes with one thread each: gradients are added up in shared memory, each updates its own part.

    Two threads of one process wait for each other in every small operation; two processes only twice a step.
    """

    def __init__(self, model: InternVLForConditionalGeneration, size: int) -> None:
        model.model.vision_tower.requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(False)
        self.model = model.share_memory()
        self.size = size
        self.gradients = torch.zeros(size, sum(p.numel() for p in self.trained())).share_memory_()
        self.barrier = mp.get_context("spawn").Barrier(size)

    def trained(self) -> list[nn.Parameter]:
        return [p for p in self.model.parameters() if p.requires_grad]

    def add_up(self, worker: int) -> None:
        """Give every parameter the sum of all workers' gradients, clipped."""
        parts = self.gradients[worker].split([p.numel() for p in self.trained()])
        for p, part in zip(self.trained(), parts, strict=True):
            part.zero_() if p.grad is None else part.copy_(p.grad.flatten())
        self.barrier.wait()
        total = self.gradients.sum(0)
        total *= (1 / total.norm()).clamp(max=1.0)
        for p, part in zip(self.trained(), total.split([p.numel() for p in self.trained()]), strict=True):
            p.grad = part.view(p.shape)

    def optimizers(self, worker: int) -> list[torch.optim.Optimizer]:
        """Muon for the matrices between embedding and output, AdamW for the rest: this worker's share of them."""
        matrices, others = [], []
        for name, p in self.model.named_parameters():
            inner = p.dim() > 1 and not any(part in name for part in ("embed_tokens", "lm_head", "mlp.gate."))
            if p.requires_grad:
                (matrices if inner else others).append(p)
        # Experts are the bulk of the matrices and alternate with each other in the list.
        matrices.sort(key=lambda p: -p.numel())
        mine = slice(worker, None, self.size)
        return [
            Muon(matrices[mine], LEARNING_RATE),
            torch.optim.AdamW(others[mine], betas=(0.9, 0.98), weight_decay=0.0),
        ]


def train(worker: int, team: Team, out: Path, steps: int, seed: int, mix: Mix, peak: float) -> None:
    """Stage 2 or 3: questions and answers of all kinds; `peak` is the largest learning rate. Runs in each worker."""
    torch.set_num_threads(1)
    model, reference = team.model, Reference(out, weights=False)
    batches = Batches(reference, seed + worker, mix)
    balance = RouterBalance(model)
    optimizers = team.optimizers(worker)
    started = time.time()
    means: dict[str, float] = {}
    for step in range(steps):
        for p in team.trained():
            p.grad = None
        for kind, batch in batches.step(step, worker, team.size).items():
            loss = F.cross_entropy(*answer_scores(model, batch))
            (loss + AUX_WEIGHT * balance.take()).backward()
            means[kind] = 0.95 * means.get(kind, loss.item()) + 0.05 * loss.item()
        team.add_up(worker)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = peak * schedule(step, steps, 50)
            optimizer.step()
        team.barrier.wait()
        if step % 50 == 0:
            said = " ".join(f"{kind} {value:.4f}" for kind, value in means.items())
            print(f"step {step}/{steps} {said} {time.time() - started:.0f} s", flush=True)
        if worker == 0 and (step % 250 == 249 or step == steps - 1):
            save(model, out)
            print("   right:", held_out_figures(model, reference), flush=True)
            balance.losses.clear()


def held_out_figures(model: InternVLForConditionalGeneration, reference: Reference) -> str:
    """For each kind the share of right held-out answers, plain/thinking."""
    said = []
    for kind in KINDS:
        source = Batches(reference, SEED, held_out=True)
        rows = EXAM_ROWS // 4 if kind == "many_tiles" else EXAM_ROWS
        plain, thinking = (exam(model, source.batch(kind, rows, think)) for think in (False, True))
        said.append(f"{kind} {plain:.0%}/{thinking:.0%}")
    return " ".join(said)


def save(model: InternVLForConditionalGeneration, out: Path) -> None:
    """Write BF16 shards under the names of a released checkpoint, and their index."""
    tensors = unpack_experts({name: t.detach().to(torch.bfloat16) for name, t in model.state_dict().items()})
    names = sorted(tensors)
    half = sum(t.numel() for t in tensors.values()) / SHARDS
    shards: list[dict[str, torch.Tensor]] = [{} for _ in range(SHARDS)]
    seen = 0
    for name in names:
        shards[min(int(seen / half), SHARDS - 1)][name] = tensors[name]
        seen += tensors[name].numel()
    weight_map = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{SHARDS:05}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    size = sum(t.numel() * 2 for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": dict(sorted(weight_map.items()))}
    (out / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def vocabulary(out: Path, earlier: Path | None) -> dict[str, int]:
    """Write the vocabulary files, those of an earlier run where its weights are used -> the added tokens."""
    if earlier is None:
        return write_vocabulary(out, TEMPLATE.read_text(encoding="utf-8"))
    for file in [*earlier.glob("token*"), *(earlier / name for name in VOCABULARY_FILES)]:
        shutil.copyfile(file, out / file.name)
    return json.loads((out / "added_tokens.json").read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--warm-up-steps", type=int, default=700)
    parser.add_argument("--steps", type=int, default=2800)
    parser.add_argument("--last-steps", type=int, default=800, help="on what is learned slowest")
    parser.add_argument("--workers", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--start-from", type=Path, help="a checkpoint to train further: the tower stays as it is")
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    config = write_configs(out, vocabulary(out, arguments.start_from))
    reference = Reference(out, weights=False)
    model = new_model(config)
    print(sum(p.numel() for p in model.parameters()), "parameters", flush=True)
    if arguments.start_from:
        model.load_state_dict(load_model(arguments.start_from).state_dict())
    else:
        warm_up(model, reference, arguments.warm_up_steps, SEED, schedule)
    team = Team(model, arguments.workers)
    stages = [(arguments.steps, EVERYTHING, LEARNING_RATE), (arguments.last_steps, SLOWEST, LEARNING_RATE / 3)]
    for number, (steps, mix, peak) in enumerate(stages):
        if steps:
            mp.spawn(train, (team, out, steps, SEED + 100 * number, mix, peak), team.size)


if __name__ == "__main__":
    main()
