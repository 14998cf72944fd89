"""What a grammar costs a token, at the size of Intern-S1's vocabulary, beside the sampling that every token needs.

    python -m benchmarks.grammar_mask

A synthetic vocabulary, and logits of noise: the answers make no sense, and cost what others do.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import llama_cpp
import numpy as np

from interns1_local.engine.grammar import GrammarCompiler, apply_mask
from interns1_local.engine.sampler_chain import SamplerChain
from interns1_local.engine.sampling import SamplingParams
from interns1_local.generation.constraints import Constraint, answer_grammar

T = TypeVar("T")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "formula": {"type": "string", "pattern": "^[A-Z][A-Za-z0-9]*$"},
        "weights": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 12},
        "kind": {"enum": ["solid", "liquid", "gas"]},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "minItems": 2},
    },
    "required": ["name", "formula", "weights", "kind", "parts"],
    "additionalProperties": False,
    "$defs": {"part": {"type": "object", "properties": {"id": {"type": "integer"}, "text": {"type": "string"}}}},
}
CONSTRAINTS = {
    "json": Constraint("json"),
    "a schema": Constraint("json_schema", SCHEMA),
    "a regex": Constraint("regex", r"([A-Z][a-z]+ ){5,40}[0-9]{4}-[0-9]{2}-[0-9]{2}"),
}
LETTERS = "etaoinshrdlucmfwypvbgkqjxz"


def vocabulary(size: int) -> list[bytes]:
    """All bytes, then words of many lengths with and without a space, numbers, punctuation and Chinese characters."""
    choose = random.Random(0)
    pieces = [bytes([byte]) for byte in range(256)]
    known = set(pieces)
    while len(pieces) < size:
        kind = choose.random()
        if kind < 0.8:
            text = "".join(choose.choices(LETTERS, k=choose.randint(2, 9)))
            text = choose.choice(("", " ")) + choose.choice((text, text.capitalize()))
        elif kind < 0.9:
            text = "".join(choose.choices('{}[]":,.;()<>=+-*/\\_ \n\t0123456789', k=choose.randint(2, 5)))
        else:
            text = "".join(chr(choose.randint(0x4E00, 0x9FA5)) for _ in range(choose.randint(1, 3)))
        if (piece := text.encode()) not in known:
            known.add(piece)
            pieces.append(piece)
    return pieces


class PlainSampling:
    """llama.cpp's chain with the default options, over one row: what a token costs without a grammar."""

    def __init__(self, size: int) -> None:
        self._chain = SamplerChain(SamplingParams(), 1)
        self._candidates = (llama_cpp.llama_token_data * size)()
        self._array = llama_cpp.llama_token_data_array(self._candidates, size, -1, False)
        fields = [("id", np.int32), ("logit", np.float32), ("p", np.float32)]
        self._view = np.frombuffer(self._candidates, fields)

    def choose(self, row: np.ndarray) -> int:
        self._view["id"] = np.arange(len(row), dtype=np.int32)
        self._view["logit"] = row
        self._array.size, self._array.selected, self._array.sorted = len(row), -1, False
        llama_cpp.llama_sampler_apply(self._chain.pointer, self._array)
        return int(self._candidates[self._array.selected].id)


def milliseconds(work: Callable[[], T]) -> tuple[float, T]:
    """CPU time of this thread: waiting for a neighbour's turn does not count."""
    began = time.thread_time()
    result = work()
    return (time.thread_time() - began) * 1e3, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=152_000, help="tokens of the vocabulary (%(default)s)")
    parser.add_argument("--tokens", type=int, default=300, help="tokens of each answer (%(default)s)")
    arguments = parser.parse_args()
    pieces = vocabulary(arguments.size)
    end = len(pieces)
    began = time.perf_counter()
    compiler = GrammarCompiler([*pieces, b"<end>"], [end], [end])
    compiler.matcher(answer_grammar(Constraint("choice", ["warm"])))
    print(f"{end + 1} tokens; the vocabulary is made ready once, in {time.perf_counter() - began:.1f} s")
    print("milliseconds a token, CPU time; the grammar's are its mask, applying it, and going on by the token")
    print(f"{'':12} {'compile':>8} {'median':>8} {'99 %':>8} {'worst':>8} {'plain':>8}")
    noise, plain = np.random.default_rng(0), PlainSampling(end + 1)
    for name, constraint in CONSTRAINTS.items():
        grammar = answer_grammar(constraint)
        first, matcher = milliseconds(partial(compiler.matcher, grammar))
        held, free = [], []
        while len(held) < arguments.tokens:
            row = noise.standard_normal(end + 1, np.float32)
            masked, _ = milliseconds(lambda: apply_mask(row, matcher.allowed()))  # noqa: B023
            sampled, token = milliseconds(partial(plain.choose, row))
            if token == end:
                matcher = compiler.matcher(grammar)
                continue
            went_on, _ = milliseconds(partial(matcher.consume, token))
            held.append(masked + went_on)
            free.append(sampled)
            if matcher.finished:
                matcher = compiler.matcher(grammar)
        held.sort()
        shown = first, statistics.median(held), held[int(len(held) * 0.99)], held[-1], statistics.median(free)
        print(f"{name:12} {shown[0]:8.1f} " + " ".join(f"{value:8.3f}" for value in shown[1:]), flush=True)


if __name__ == "__main__":
    main()
