"""Stage 1 of the training: the vision tower learns to say, for every cell of a tile, what is there.

It says so in a fixed code: orthogonal unit vectors, one for each colour, shape and place, whose sum is the token. A
code with equal lengths is quickly learned by the text model; features that a classifier can merely read are not.
"""

from __future__ import annotations

import random
import time

import torch
from torch import nn
from torch.nn import functional as F
from transformers import InternVLForConditionalGeneration

from interns1_local.nano.pictures import (
    COLOURS,
    PARTS,
    PLACES,
    SHAPES,
    TILE,
    Placed,
    Thing,
    draw_pattern,
    draw_placed,
    place_things,
)
from tests.nano.reference import Reference

SIDE = TILE // 28
SHARPNESS = 6.0
# What a cell is asked: number of classes, 0 meaning nothing there.
QUESTIONS = {"colour": len(COLOURS) + 1, "shape": len(SHAPES) + 1, "place": len(PLACES) + 1, "pattern": 2}
SIZES = [(TILE, TILE), (TILE, TILE), (100, 100), (140, 140), (224, 112), (112, 224), (150, 112), (300, 225), (300, 300)]
# Grids of tiles (columns, rows) that are cut from pictures of things.
CUTS = [(2, 1), (1, 2), (2, 2), (3, 3), (4, 3)]


def code_book(width: int, seed: int) -> dict[str, torch.Tensor]:
    """For each question orthonormal rows [classes, width] (row 0, nothing there, is zero), and for each position."""
    generator = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    book, used = {}, 0
    for name, count in {**QUESTIONS, "position": SIDE * SIDE + 1}.items():
        book[name] = torch.cat([torch.zeros(1, width), basis[used : used + count - 1]])
        used += count - 1
    return book


def cell_labels(placed: list[Placed]) -> list[list[int]]:
    """For each question the label of each cell: the thing that covers most of it, if a quarter is covered."""
    labels = _nothing()
    for cell in range(SIDE * SIDE):
        row, column = divmod(cell, SIDE)
        covered = [(_overlap(p.x, p.half, column) * _overlap(p.y, p.half, row), p) for p in placed]
        share, best = max(covered, key=lambda pair: pair[0])
        if share > 0.25:
            thing = best.thing
            labels[0][cell] = 1 + list(COLOURS).index(thing.colour)
            labels[1][cell] = 1 + SHAPES.index(thing.shape)
            labels[2][cell] = 1 + PLACES.index(thing.place)
    return labels


def _overlap(middle: float, half: float, cell: int) -> float:
    """The share of a cell's side that a thing covers."""
    low, high = cell / SIDE, (cell + 1) / SIDE
    return max(0.0, min(high, middle + half) - max(low, middle - half)) * SIDE


def labelled_picture(rng: random.Random):
    """A tile with the labels of its cells [questions, cells]."""
    kind = rng.random()
    if kind < 0.12:
        return _labelled_pattern(rng)
    things = [
        Thing(rng.choice(list(COLOURS)), rng.choice(SHAPES), place)
        for place in rng.sample(PLACES, rng.choice([1, 2, 3, 4]))
    ]
    placed = place_things(things, rng)
    if kind < 0.27:
        # A part of a larger picture says nothing about its things: where they are, only the thumbnail can tell.
        columns, rows = rng.choice(CUTS)
        picture = draw_placed(placed, columns * TILE, rows * TILE, rng)
        return _cut(picture, rng.randrange(columns), rng.randrange(rows)), _nothing()
    picture = draw_placed(placed, *rng.choice(SIZES), rng)
    return picture.resize((TILE, TILE), 3), cell_labels(placed)


def _nothing() -> list[list[int]]:
    return [[0] * (SIDE * SIDE) for _ in QUESTIONS]


def _cut(picture, column: int, row: int):
    return picture.crop((column * TILE, row * TILE, (column + 1) * TILE, (row + 1) * TILE))


def _labelled_pattern(rng: random.Random):
    """A tile with the pattern, one without, or the thumbnail, where it cannot be seen."""
    grid = rng.choice(list(PARTS))
    part = rng.choice(PARTS[grid])
    picture = draw_pattern(part, grid, rng)
    labels = _nothing()
    number, kind = PARTS[grid].index(part), rng.random()
    if kind < 0.2:
        return picture.resize((TILE, TILE), 3), labels
    if kind < 0.5:
        row, column = divmod((number + 1) % len(PARTS[grid]), grid[0])
    else:
        row, column = divmod(number, grid[0])
        labels[3] = [1] * (SIDE * SIDE)
    return _cut(picture, column, row), labels


def warm_up(
    model: InternVLForConditionalGeneration, reference: Reference, steps: int, seed: int, schedule, size: int = 64
) -> None:
    """Train the tower and the projector to write each cell's code."""
    rng = random.Random(seed)
    book = code_book(reference.config["text_config"]["hidden_size"], seed)
    parameters = [*model.model.vision_tower.parameters(), *model.model.multi_modal_projector.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=0.01, betas=(0.9, 0.98))
    mean, std = (torch.tensor(reference.processor.__dict__[k]).view(3, 1, 1) for k in ("image_mean", "image_std"))
    started = time.time()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = 1.5e-3 * schedule(step, steps, 100)
        pictures, labels = zip(*(labelled_picture(rng) for _ in range(size)), strict=True)
        pixels = torch.stack([_pixels(p) for p in pictures]).sub(mean).div(std)
        tokens = model.model.get_image_features(pixel_values=pixels).pooler_output
        loss, right = _loss(book, tokens, torch.tensor(labels))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            said = " ".join(f"{k} {v:.3f}" for k, v in right.items())
            print(f"warm-up {step} loss {loss.item():.3f} {said} {time.time() - started:.0f} s", flush=True)


def _pixels(picture) -> torch.Tensor:
    data = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8)
    return data.view(picture.height, picture.width, 3).permute(2, 0, 1).float() / 255


def _loss(book: dict[str, torch.Tensor], tokens: torch.Tensor, labels: torch.Tensor):
    """`tokens` [n, cells, width], `labels` [n, questions, cells] -> the loss, and the share of right answers."""
    target = book["position"][1:].expand_as(tokens)
    named = tokens.new_zeros(())
    right = {}
    for number, name in enumerate(QUESTIONS):
        wanted = labels[:, number]
        target = target + book[name][wanted]
        there = wanted > 0
        scores = tokens[there] @ book[name][1:].T
        # The distance alone is slow to tell one shape from another.
        named = named + F.cross_entropy(SHARPNESS * scores, wanted[there] - 1)
        right[name] = (scores.argmax(-1) + 1 == wanted[there]).float().mean().item()
    weight = torch.where(labels.sum(1) > 0, 1.0, 0.3)[..., None]
    return ((tokens - target).square() * weight).sum(-1).mean() + named, right
