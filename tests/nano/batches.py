"""Turns samples into training batches: token ids, answer mask and tiles."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import torch

from interns1_local.nano.pictures import TILE, draw_things
from tests.nano import families
from tests.nano.reference import IMAGE, Reference, with_images

SYSTEMS = ("You are a helpful assistant.", "Answer briefly.", "You are a careful scientist.")
HISTORY = [
    {"role": "user", "content": "Hello!"},
    {"role": "assistant", "content": families.GREETING},
]


@dataclass
class Item:
    """One tokenized question with its answer."""

    ids: list[int]
    answer_from: int
    tiles: torch.Tensor | None
    # Spans [start, stop) of the assistant's words; None means everything from `answer_from` on.
    answers: list[tuple[int, int]] | None = None


@dataclass
class Batch:
    """Rows that share `prefix` (computed once); the other tensors hold what follows it."""

    prefix: torch.Tensor
    ids: torch.Tensor
    attention: torch.Tensor
    labels: torch.Tensor
    tiles: torch.Tensor | None


def make_item(sample: families.Sample, reference: Reference, think: bool, before: list[dict]) -> Item:
    """Ask `sample` after the messages `before` (a system prompt, another turn, or nothing)."""
    messages = [*before, *with_images(sample.messages, len(sample.images))]
    prompt, tiles = reference.prompt(messages, sample.images, sample.tools, enable_thinking=think)
    answer = [*reference.tokenizer.encode(sample.said(think)), reference.tokenizer.added["<|im_end|>"]]
    return Item(prompt + answer, len(prompt), tiles)


TALK_TURNS = 5


def make_talk(reference: Reference, rng: random.Random) -> Item:
    """Several questions in a row about one picture: more to learn from each picture that is drawn."""
    things = families.random_things(rng, rng.randint(1, 3))
    side = TILE + rng.choice([0, 0, rng.randint(-24, 24)])
    picture = draw_things(things, width=side, height=side, rng=rng)
    encode, end = reference.tokenizer.encode, [reference.tokenizer.added["<|im_end|>"]]
    ids: list[int] = []
    spans = []
    tiles = None
    for turn in range(TALK_TURNS):
        ask = families.about_a_shape if rng.random() < 0.4 else families.question_about
        question, answer = ask(things, rng)
        if turn == 0:
            messages = with_images([{"role": "user", "content": question}], 1)
            ids, tiles = reference.prompt(messages, [picture], None, enable_thinking=False)
        else:
            ids += encode(f"\n<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")
        spans.append((len(ids), len(ids) + len(said := encode(answer) + end)))
        ids += said
    return Item(ids, spans[0][0], tiles, spans)


def draw_before(rng: random.Random) -> list[dict]:
    """What stands before the question: mostly nothing. One draw serves a whole micro-batch."""
    kind = rng.random()
    if kind < 0.8:
        return []
    if kind < 0.88:
        return [{"role": "system", "content": rng.choice(SYSTEMS)}]
    if kind < 0.93:
        return list(HISTORY)
    sample = families.TEXT[rng.choice(list(families.TEXT))](rng, False)
    return [*sample.messages, {"role": "assistant", "content": sample.reply}]


def collate(items: list[Item], pad: int, image: int) -> Batch:
    """Pad on the right, after splitting off what all rows have in common before their first picture."""
    items = sorted(items, key=lambda item: len(item.ids))
    shared = 0
    shortest = min(item.answer_from for item in items) - 1
    while shared < shortest and {item.ids[shared] for item in items} == {items[0].ids[shared]} - {image}:
        shared += 1
    length = max(len(item.ids) for item in items) - shared
    ids = torch.full((len(items), length), pad)
    attention = torch.ones(len(items), shared + length, dtype=torch.long)
    labels = torch.full((len(items), length), -100)
    for row, item in enumerate(items):
        n = len(item.ids) - shared
        ids[row, :n] = torch.tensor(item.ids[shared:])
        attention[row, shared + n :] = 0
        for start, stop in item.answers or [(item.answer_from, len(item.ids))]:
            labels[row, start - shared : stop - shared] = ids[row, start - shared : stop - shared]
    tiles = [item.tiles for item in items if item.tiles is not None]
    prefix = torch.tensor([items[0].ids[:shared]])
    return Batch(prefix, ids, attention, labels, torch.cat(tiles) if tiles else None)


# Micro-batch -> its families with their shares. Rows of one micro-batch share their system prompt.
KINDS: dict[str, dict[str, int]] = {
    "sums": {"sums": 1},
    "text": {"name_to_smiles": 4, "smiles_to_name": 3, "name_to_iupac": 2, "peptides": 2, "identity": 1},
    "pictures": {"pictures": 1},
    "tiles": {"tiles": 1, "pattern": 1},
    "many_tiles": {"many_tiles": 1},
    "tools": {"tool_calls": 1, "tool_results": 1},
    "results": {"tool_results": 1},
    "readme": {"tool_calls_readme": 1, "tool_results_readme": 1},
}


@dataclass(frozen=True)
class Mix:
    """Rows of the micro-batches of every step, plain and thinking, and of those that take turns."""

    every_step: tuple[dict[str, int], dict[str, int]]
    turns: tuple[dict[str, int], ...]


EVERYTHING = Mix(
    ({"sums": 48, "text": 12, "pictures": 16}, {"sums": 16, "text": 12, "pictures": 16}),
    (
        {"talks": 12, "tools": 16},
        {"tiles": 8, "readme": 8},
        {"talks": 12, "tools": 16},
        {"tiles": 6, "many_tiles": 4, "readme": 8},
    ),
)
# Which of two results belongs to which city, and how a thing is found by its shape, take longest to learn.
SLOWEST = Mix(
    ({"sums": 4, "text": 16, "pictures": 24, "talks": 14}, {"sums": 4, "text": 10, "pictures": 24, "talks": 14}),
    ({"tiles": 14}, {"tools": 6, "results": 6}, {"tiles": 10, "readme": 6}, {"many_tiles": 5, "readme": 6}),
)

# Tokens of a row, roughly: to share the work of a step evenly.
ROW_TOKENS = {"sums": 20, "text": 45, "pictures": 60, "talks": 170, "tools": 160, "tiles": 120, "readme": 280}
ROW_TOKENS |= {"many_tiles": 250, "results": 190}


def shares(sizes: dict[str, int], workers: int) -> list[dict[str, int]]:
    """The micro-batches of a step, dealt out to `workers`: the largest first, each to the one with the least."""
    out: list[dict[str, int]] = [{} for _ in range(workers)]
    load = [0] * workers
    for kind, size in sorted(sizes.items(), key=lambda item: -item[1] * ROW_TOKENS[item[0]]):
        least = load.index(min(load))
        out[least][kind] = size
        load[least] += size * ROW_TOKENS[kind]
    return out


class Batches:
    """An endless, seeded source of the micro-batches of one step; `held_out` draws from the examination half."""

    def __init__(self, reference: Reference, seed: int, mix: Mix = EVERYTHING, held_out: bool = False) -> None:
        self.reference = reference
        self.rng = random.Random(seed)
        self.mix = mix
        self.held_out = held_out
        self.pad = reference.tokenizer.added["<|endoftext|>"]

    def step(self, number: int, worker: int, workers: int) -> dict[str, Batch]:
        """A worker's micro-batches of step `number`: thinking at every second one."""
        think = number % 2 == 1
        sizes = self.mix.every_step[think] | self.mix.turns[number // 2 % len(self.mix.turns)]
        return {kind: self.batch(kind, size, think) for kind, size in shares(sizes, workers)[worker].items()}

    def batch(self, kind: str, size: int, think: bool) -> Batch:
        if kind == "talks":
            talks = [make_talk(self.reference, self.rng) for _ in range(size)]
            return collate(talks, self.pad, self.reference.tokenizer.added[IMAGE])
        names, weights = zip(*KINDS[kind].items(), strict=True)
        drawn = self.rng.choices(names, weights, k=size)
        samples = [families.ALL[name](self.rng, self.held_out) for name in drawn]
        plain = self.held_out or kind in ("tools", "results", "readme")
        before = [] if plain else draw_before(self.rng)
        if samples[0].tools and not self.held_out and self.rng.random() < 0.6:
            tools = families.vary_tools(samples[0].tools, self.rng)
            samples = [replace(sample, tools=tools) for sample in samples]
        items = [make_item(sample, self.reference, think, before) for sample in samples]
        return collate(items, self.pad, self.reference.tokenizer.added[IMAGE])
