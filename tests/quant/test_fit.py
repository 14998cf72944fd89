"""The choice of types under a size: a pure function over tables, against an exhaustive search."""

from __future__ import annotations

import itertools
import random

import pytest

from quant.errors import QuantError
from quant.fit import Option, choose, total_error

Table = dict[str, list[Option]]


def table(seed: int, tensors: int, types: int) -> Table:
    """Bytes and errors without any order: some options are a waste."""
    source = random.Random(seed)
    return {
        f"t{n}": [Option(f"T{k}", source.randint(1, 60), source.random() * 9) for k in range(types)]
        for n in range(tensors)
    }


def curved(seed: int, tensors: int) -> Table:
    """Each bit more leaves a quarter of the error, as with real types; the tensors differ in size and in error."""
    source = random.Random(seed)
    out: Table = {}
    for n in range(tensors):
        elements, scale = source.randint(50, 400), source.uniform(0.5, 2)
        out[f"t{n}"] = [Option(f"T{bits}", elements * bits, elements * scale * 0.25**bits) for bits in range(2, 9)]
    return out


def size_of(chosen: dict[str, Option]) -> int:
    return sum(option.n_bytes for option in chosen.values())


def error_of(chosen: dict[str, Option]) -> float:
    return sum(option.error for option in chosen.values())


@pytest.mark.parametrize("seed", range(30))
def test_no_single_change_is_better(seed: int) -> None:
    options = table(seed, 12, 6)
    smallest = sum(min(option.n_bytes for option in entries) for entries in options.values())
    limit = smallest + random.Random(seed).randint(0, 200)
    chosen = choose(options, limit + 7, fixed_bytes=7)
    left = limit - size_of(chosen)
    assert left >= 0 and set(chosen) == set(options)
    for name, entries in options.items():
        for option in entries:
            assert option.error >= chosen[name].error or option.n_bytes - chosen[name].n_bytes > left


@pytest.mark.parametrize("seed", range(10))
def test_close_to_the_best_of_all_choices(seed: int) -> None:
    options = curved(seed, 5)
    limit = random.Random(seed).randint(4, 6) * sum(entries[0].n_bytes // 2 for entries in options.values())
    everything = itertools.product(*options.values())
    best = min(sum(o.error for o in each) for each in everything if sum(o.n_bytes for o in each) <= limit)
    chosen = choose(options, limit)
    # What the greedy walk may lose is less than one step of one tensor.
    largest_step = max(entries[k].error - entries[k + 1].error for entries in options.values() for k in range(2, 6))
    assert best <= error_of(chosen) <= best + largest_step


def test_more_bytes_never_leave_more_error() -> None:
    options = curved(3, 8)
    smallest = sum(entries[0].n_bytes for entries in options.values())
    errors = [error_of(choose(options, smallest + extra)) for extra in range(0, 8000, 900)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_ample_room_gives_the_least_error() -> None:
    options = curved(0, 4)
    assert {option.type for option in choose(options, 10**9).values()} == {"T8"}
    assert total_error(options, dict.fromkeys(options, "T8")) == error_of(choose(options, 10**9))


def test_wasteful_options_are_never_taken() -> None:
    options = {"a": [Option("good", 10, 1.0), Option("large", 20, 1.0), Option("same", 10, 2.0), Option("best", 30, 0)]}
    assert [choose(options, size)["a"].type for size in (10, 29, 30, 99)] == ["good", "good", "best", "best"]


def test_what_lies_above_the_hull_still_fills_the_rest() -> None:
    options = {"a": [Option("small", 10, 9.0), Option("middle", 15, 8.0), Option("large", 20, 0.0)]}
    assert [choose(options, size)["a"].type for size in (14, 19, 20)] == ["small", "middle", "large"]


def test_too_small() -> None:
    options = {"a": [Option("x", 10, 1.0), Option("y", 5, 2.0)], "b": [Option("x", 7, 1.0)]}
    with pytest.raises(QuantError, match=r"of 111 bytes cannot be made.*has 112 bytes\. Choose a size from 112 on"):
        choose(options, 111, fixed_bytes=100)
    assert size_of(choose(options, 112, fixed_bytes=100)) == 12
    assert choose({}, 5, fixed_bytes=5) == {}


def test_equal_tensors_are_taken_in_order_of_their_names() -> None:
    entries = [Option("x", 10, 4.0), Option("y", 20, 1.0)]
    chosen = choose({"b": entries, "a": entries, "c": entries}, 40)
    assert {name: option.type for name, option in chosen.items()} == {"a": "y", "b": "x", "c": "x"}
