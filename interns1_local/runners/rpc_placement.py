"""Where the layers of a model go when other machines help: by the memory that each of them has free."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# What keys, values and compute buffers take beside the weights, as a share of the weights.
BESIDE_WEIGHTS = 0.15
# Of a machine's free memory: the rest is for what it does meanwhile.
USABLE = 0.9


@dataclass(frozen=True, slots=True)
class Placement:
    """`n_layers` of the model (the output counts as one; -1: all) go to the devices, in the shares of `split`."""

    n_layers: int
    split: tuple[float, ...]


def place_layers(free: Sequence[int], model_bytes: int, n_blocks: int) -> Placement:
    """Shares by the free bytes of each device; what does not fit them stays on this machine.

    A device that does not tell its memory counts as the smallest of the others.
    """
    known = [value for value in free if value > 0]
    smallest = min(known, default=1)
    room = [value if value > 0 else smallest for value in free]
    total = sum(room)
    split = tuple(value / total for value in room)
    needed = model_bytes * (1 + BESIDE_WEIGHTS)
    usable = total * USABLE
    if not known or needed <= usable:
        return Placement(-1, split)
    return Placement(max(1, int((n_blocks + 1) * usable / needed)), split)
