"""Chooses a type for every tensor so that the model fits into a size with the least error. Knows no files.

What is minimised is the sum over all tensors of `Option.error`. That sum takes tensors to be independent and their
errors to count the same wherever they stand; how an error travels through the model to its answers it cannot see.

Of a tensor's options only those on the lower convex hull of (bytes, error) can be best for some size at a fixed price
of a byte. All tensors start at their smallest option; then the steps along the hulls are taken in order of error saved
for a byte, which is what lowering the price does. Near the end steps that no longer fit are passed over, and what is
left of the size is filled with the single changes that save most.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quant.errors import QuantError


@dataclass(frozen=True, slots=True)
class Option:
    """A type that a tensor could have, its bytes in the file (padding included) and the error it would bring."""

    type: str
    n_bytes: int
    error: float


def choose(options: Mapping[str, Sequence[Option]], max_bytes: int, fixed_bytes: int = 0) -> dict[str, Option]:
    """The option of each tensor; their bytes and `fixed_bytes` (header, other tensors) are at most `max_bytes`.

    No single tensor could change to an option with less error without passing `max_bytes`.
    """
    useful = {name: _without_waste(entries) for name, entries in options.items()}
    chosen = {name: entries[0] for name, entries in useful.items()}
    left = max_bytes - fixed_bytes - sum(option.n_bytes for option in chosen.values())
    if left < 0:
        raise QuantError(
            f"A model of {max_bytes} bytes cannot be made of this one: with the smallest types it has "
            f"{max_bytes - left} bytes. Choose a size from {max_bytes - left} on."
        )
    left = _walk_hulls({name: _hull(entries) for name, entries in useful.items()}, chosen, left)
    _fill(useful, chosen, left)
    return chosen


def total_error(options: Mapping[str, Sequence[Option]], types: Mapping[str, str]) -> float:
    """The sum that `choose` minimises, for other types."""
    return sum(next(o.error for o in entries if o.type == types[name]) for name, entries in options.items())


def _without_waste(options: Sequence[Option]) -> list[Option]:
    """By bytes ascending, error descending: no option that another beats in both."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda option: (option.n_bytes, option.error)):
        if not kept or option.error < kept[-1].error:
            kept.append(option)
    return kept


def _hull(options: Sequence[Option]) -> list[Option]:
    """The lower convex hull: each step saves less error for a byte than the one before it."""
    hull: list[Option] = []
    for option in options:
        while len(hull) > 1 and _gain(hull[-2], hull[-1]) <= _gain(hull[-1], option):
            hull.pop()
        hull.append(option)
    return hull


def _gain(before: Option, after: Option) -> float:
    """Error saved for a byte."""
    return (before.error - after.error) / (after.n_bytes - before.n_bytes)


def _walk_hulls(hulls: Mapping[str, Sequence[Option]], chosen: dict[str, Option], left: int) -> int:
    """Take steps in order of gain, ties in order of names; a tensor whose next step does not fit stops there."""

    def step(name: str, at: int) -> tuple[float, str, int]:
        return -_gain(hulls[name][at], hulls[name][at + 1]), name, at + 1

    steps = [step(name, 0) for name, hull in hulls.items() if len(hull) > 1]
    heapq.heapify(steps)
    while steps:
        _, name, at = heapq.heappop(steps)
        cost = hulls[name][at].n_bytes - chosen[name].n_bytes
        if cost > left:
            continue
        left -= cost
        chosen[name] = hulls[name][at]
        if at + 1 < len(hulls[name]):
            heapq.heappush(steps, step(name, at))
    return left


def _fill(options: Mapping[str, Sequence[Option]], chosen: dict[str, Option], left: int) -> None:
    """Make the change of one tensor that saves most, as long as one fits."""
    while True:
        changes = [
            (chosen[name].error - option.error, -option.n_bytes, name, option)
            for name, entries in options.items()
            for option in entries
            if option.error < chosen[name].error and option.n_bytes - chosen[name].n_bytes <= left
        ]
        if not changes:
            return
        _, _, name, option = max(changes, key=lambda change: change[:3])
        left -= option.n_bytes - chosen[name].n_bytes
        chosen[name] = option
