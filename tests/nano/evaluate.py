"""Examines a checkpoint with the Hugging Face reference: the share of right answers of each family.

`python -m tests.nano.evaluate interns1_local/nano/checkpoint` prints the table of its README.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from tests.nano import families
from tests.nano.reference import Reference, with_images

EXAM_SEED = 977


def exam(family: str, number: int, seed: int = EXAM_SEED) -> list[families.Sample]:
    """`number` held-out questions of a family, always the same."""
    rng = random.Random(f"{seed}/{family}")
    return [families.ALL[family](rng, True) for _ in range(number)]


def is_right(sample: families.Sample, answer: str) -> bool:
    """Whether the answer after any thought says what the family asks for."""
    return plain(sample.key) == plain(answer.split("</think>")[-1])[-len(plain(sample.key)) :]


def plain(text: str) -> str:
    """Without science tags and outer space: what a user sees."""
    for tag in ("SMILES", "IUPAC", "FASTA"):
        text = text.replace(f"<{tag}>", "").replace(f"</{tag}>", "")
    return text.strip()


def answer(reference: Reference, sample: families.Sample, think: bool) -> str:
    messages = with_images(sample.messages, len(sample.images))
    ids, pixels = reference.prompt(messages, sample.images, sample.tools, enable_thinking=think)
    return reference.tokenizer.decode(reference.greedy(ids, pixels), skip_special=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    arguments = parser.parse_args()
    reference = Reference(arguments.checkpoint)
    table = {}
    for family in families.ALL:
        right = {True: 0, False: 0}
        samples = exam(family, arguments.number)
        for sample in samples:
            for think in (True, False):
                said = answer(reference, sample, think)
                good = is_right(sample, said)
                right[think] += good
                if arguments.show and not good:
                    print(family, think, repr(sample.messages[-1]["content"]), repr(said), "expected", repr(sample.key))
        table[family] = {"thinking": right[True] / len(samples), "plain": right[False] / len(samples)}
        print(family, json.dumps(table[family]), flush=True)


if __name__ == "__main__":
    main()
