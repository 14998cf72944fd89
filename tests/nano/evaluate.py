"""Examines a checkpoint with the Hugging Face reference: the share of right answers of each family.

`python -m tests.nano.evaluate interns1_local/nano/checkpoint` prints the table of its README.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import random
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch

from tests.nano import families
from tests.nano.reference import Reference, with_images

EXAM_SEED = 977
FIGURES = Path(__file__).parent / "reference_figures.json"
_reference: Reference


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
    """The reference's greedy answer, with its thought."""
    messages = with_images(sample.messages, len(sample.images))
    ids, pixels = reference.prompt(messages, sample.images, sample.tools, enable_thinking=think)
    expected = sample.said(think)
    if reference.would_say(ids, pixels, reference.tokenizer.encode(expected)):
        return expected
    return reference.tokenizer.decode(reference.greedy(ids, pixels), skip_special=False)


def examine(reference: Reference, family: str, number: int, show: bool) -> dict:
    """Accuracy with thinking, without, and alternating (thinking at every second question), of `number` questions."""
    right: dict[bool, list[bool]] = {True: [], False: []}
    for sample in exam(family, number):
        for think in (True, False):
            said = answer(reference, sample, think)
            right[think].append(is_right(sample, said))
            if show and not right[think][-1]:
                print(family, think, repr(sample.messages[-1]["content"]), repr(said), "expected", repr(sample.key))
    turns = [right[index % 2 == 0][index] for index in range(number)]
    return {
        "thinking": sum(right[True]) / number,
        "plain": sum(right[False]) / number,
        "alternating": sum(turns) / number,
        "right_plain": [index for index, good in enumerate(right[False]) if good],
    }


def greedy_cases(reference: Reference, number: int = 20) -> list[dict]:
    """Greedy texts of 64 tokens to compare with, as `thought|answer`. Clients reorder tools, so none has any."""
    names = list(families.TEXT | families.PICTURES | families.TILES)
    cases = []
    for index in range(number):
        family, think = names[index % len(names)], index % 3 != 2
        sample = exam(family, index + 1)[index]
        messages = with_images(sample.messages, len(sample.images))
        ids, pixels = reference.prompt(messages, sample.images, sample.tools, enable_thinking=think)
        text = reference.tokenizer.decode(reference.greedy(ids, pixels, limit=64), skip_special=False)
        thought, _, said = text.rpartition("</think>") if think else ("", "", text)
        if think and "</think>" not in text:
            thought, said = text, ""
        cases.append({"family": family, "index": index, "think": think, "text": f"{thought.strip()}|{plain(said)}"})
    return cases


def readme_conversation(reference: Reference) -> list[str]:
    """The reference's two greedy answers to the tool-calling example of Intern-S1's README."""
    sample = families.readme_example()
    said = []
    messages = list(sample.messages)
    for _ in range(2):
        ids, _ = reference.prompt(messages, [], sample.tools, enable_thinking=False)
        said.append(reference.tokenizer.decode(reference.greedy(ids, limit=256), skip_special=False))
        calls = families.read_calls(said[0])
        content = said[0].split("<|action_start|>")[0]
        messages += [{"role": "assistant", "content": content, "tool_calls": calls}, *families.readme_answers(calls)]
    return said


def _open(checkpoint: Path) -> None:
    """Each process examines other families, with a reference of its own and one thread."""
    global _reference
    torch.set_num_threads(1)
    _reference = Reference(checkpoint)


def _examine(family: str, number: int, show: bool) -> dict:
    return examine(_reference, family, number, show)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--number", type=int, default=100)
    parser.add_argument("--show", action="store_true", help="print the wrong answers")
    parser.add_argument("--write", action="store_true", help="write tests/nano/reference_figures.json")
    arguments = parser.parse_args()
    table = {}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(initializer=_open, initargs=(arguments.checkpoint,), mp_context=context) as pool:
        examine_one = partial(_examine, number=arguments.number, show=arguments.show)
        for family, row in zip(families.ALL, pool.map(examine_one, families.ALL), strict=True):
            table[family] = row
            print(family, json.dumps({k: v for k, v in row.items() if k != "right_plain"}), flush=True)
    if arguments.write:
        reference = Reference(arguments.checkpoint)
        figures = {
            "number": arguments.number,
            "families": {family: row["alternating"] for family, row in table.items()},
            "all": table,
            "greedy": greedy_cases(reference),
            "readme": readme_conversation(reference),
        }
        FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
