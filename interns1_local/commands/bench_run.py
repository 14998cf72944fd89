"""Measuring one model twice, in turns: through our server, and as llama.cpp alone computes it."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from interns1_local.commands.client import Client
from interns1_local.commands.own_server import last_line, own_server
from interns1_local.errors import BadRequest, LoadError
from interns1_local.runners.model_spec import ModelFacts

# llama.cpp counts cells of its cache in steps of this size.
CONTEXT_STEP = 256

# Seconds of `prefill` or `decode` (the first argument) of so many tokens.
Side = Callable[[str, int], float]


@dataclass(frozen=True, slots=True)
class Speed:
    """Tokens a second of both sides, one entry a repeat."""

    kind: str
    n_tokens: int
    ours: list[float]
    llama_cpp: list[float]

    @property
    def ratio(self) -> float:
        """Median of the ratios of each repeat: a machine's speed drifts."""
        return statistics.median(own / other for own, other in zip(self.ours, self.llama_cpp, strict=True))

    def to_json(self) -> dict[str, Any]:
        """Means and standard deviations as well as all values."""
        sides = {"ours": self.ours, "llama_cpp": self.llama_cpp}
        figures = {
            name: {"mean": statistics.fmean(values), "deviation": deviation(values), "values": values}
            for name, values in sides.items()
        }
        return {"measure": self.kind, "tokens": self.n_tokens, **figures, "ratio": self.ratio}


def deviation(values: list[float]) -> float:
    """The standard deviation; 0 of a single value."""
    return statistics.stdev(values) if len(values) > 1 else 0.0


def measure(
    name: str,
    path: Path,
    facts: ModelFacts,
    *,
    counts: dict[str, int],
    repeats: int,
    threads: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Speed]:
    """Speeds of `counts`, tokens by "prefill" and "decode", on the model `name` whose file is `path`."""
    n_vocab = len(facts.metadata.get("tokenizer.ggml.tokens", ()))
    longest = max(counts.values()) + 1
    if not n_vocab or "completion" not in facts.capabilities:
        raise BadRequest(f"{name} does not write text; a model that completes a prompt is expected")
    if 0 < facts.context_length < longest:
        raise BadRequest(f"{name} has a context of {facts.context_length} tokens; {longest} do not fit: ask for fewer")
    found: dict[str, tuple[list[float], list[float]]] = {kind: ([], []) for kind in counts}
    environ = {"INTERNS1_THREADS": str(threads), "INTERNS1_LOG": "off"}
    with own_server(environ) as client, _llama_cpp(path, threads, longest) as theirs:
        ours = _through(client, name, n_vocab, threads)
        ours("prefill", 8)
        for turn in range(repeats):
            for kind, count in counts.items():
                for side, values in zip((ours, theirs), found[kind], strict=True):
                    values.append(count / side(kind, count))
            progress(turn + 1, repeats)
    return [Speed(kind, counts[kind], *values) for kind, values in found.items()]


def _through(client: Client, name: str, n_vocab: int, threads: int) -> Side:
    """Our server: from the question to the answer. Nothing is guessed ahead, so that both sides do the same."""

    def seconds(kind: str, count: int) -> float:
        n_prompt, n_answer = (count, 1) if kind == "prefill" else (1, count)
        body = {
            "model": name,
            "prompt": random.choices(range(n_vocab), k=n_prompt),
            "max_tokens": n_answer,
            "ignore_eos": True,
            "temperature": 0,
            "options": {"num_thread": threads, "speculative": "off"},
        }
        began = time.perf_counter()
        client.post("/v1/completions", body)
        return time.perf_counter() - began

    return seconds


@contextmanager
def _llama_cpp(path: Path, threads: int, longest: int) -> Iterator[Side]:
    """llama.cpp in a process of its own, with the file loaded."""
    n_ctx = (longest + CONTEXT_STEP - 1) // CONTEXT_STEP * CONTEXT_STEP
    command = [sys.executable, "-m", "interns1_local.engine.bare_loop", str(path), str(threads), str(n_ctx)]
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as log, subprocess.Popen(command, 0, stdin=pipe, stdout=pipe, stderr=log) as process:
        try:
            yield lambda kind, count: _asked(process, log, f"{kind} {count}")
        finally:
            # It ends by itself when its input does, but not in the middle of a long computation.
            process.kill()


def _asked(process: subprocess.Popen[bytes], log: IO[bytes], line: str) -> float:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(f"{line}\n".encode())
        answer = process.stdout.readline()
    except BrokenPipeError:
        answer = b""
    if not answer.strip():
        raise LoadError(f"llama.cpp alone could not compute this model: {last_line(log) or 'it ended'}")
    return float(answer)
