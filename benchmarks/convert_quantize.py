"""Conversion and quantization against llama.cpp's own tools: seconds, memory, bytes written, and every tensor's bytes.

    python -m benchmarks.convert_quantize                     about 25 minutes on 2 cores
    python -m benchmarks.convert_quantize --quick             a small checkpoint, one round
    python -m benchmarks.convert_quantize --memory            peak memory on a checkpoint of more than 4 GB

The peer is convert_hf_to_gguf.py --outtype bf16 followed by llama-quantize, built from llama-cpp-python's source into a
folder outside the repository. Both sides run in turns on the same checkpoint, written files included; the ratio is the
result, since a machine's speed drifts. Needs what `make test` installs, cmake and a C++ compiler.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers import DEFAULT_WORK, Peers, Run, measure, ours, own_peak_bytes
from benchmarks.same_tensors import compare

TYPES = ("Q4_K_M", "Q6_K", "Q8_0")
# Type -> the least ratio to reach, of a conversion from the checkpoint and from GGUF to GGUF.
AIMS = {"Q4_K_M": (5.0, 4.0), "Q6_K": (5.0, 4.0), "Q8_0": (3.5, 0.0)}
FULL = "--layers 10 --experts 32".split()
QUICK = "--layers 2 --experts 8".split()
LARGE = "--hidden 2048 --layers 3 --experts 128 --width 1408 --heads 16".split()
MEMORY_LIMIT = 600_000_000


def checkpoint(work: Path, name: str, options: list[str]) -> Path:
    """The random checkpoint `name`, written if it is not there."""
    folder = work / name
    if not (folder / "model.safetensors.index.json").exists():
        import sys

        print(f"writing the checkpoint {folder}", flush=True)
        program = [sys.executable, "-m", "benchmarks.random_checkpoint", folder, *options]
        measure(program, work / "checkpoint.log")
    return folder


def sizes(*paths: Path) -> int:
    return sum(path.stat().st_size for path in paths)


class Table:
    """Rows of both sides, and their ratios."""

    def __init__(self, rounds: int) -> None:
        self._rounds = rounds
        self.failed: list[str] = []

    def row(
        self, title: str, aim: float, peer: Callable[[], tuple[Run, int]], own: Callable[[], tuple[Run, int]]
    ) -> None:
        """Run both in turns, and print the median of each and the median of the ratios."""
        pairs = []
        for _ in range(self._rounds):
            os.sync()
            first = peer()
            os.sync()
            pairs.append((first, own()))
        theirs, mine = ([pair[side] for pair in pairs] for side in (0, 1))
        ratio = statistics.median(p[0].seconds / o[0].seconds for p, o in pairs)
        print(f"{title:32} {_figures(theirs)}   {_figures(mine)}   {ratio:5.1f}x", flush=True)
        if ratio < aim:
            self.failed.append(f"{title}: {ratio:.1f}x, the aim is {aim:g}x")


def _figures(runs: list[tuple[Run, int]]) -> str:
    seconds = statistics.median(run.seconds for run, _ in runs)
    cpu = statistics.median(run.cpu_seconds for run, _ in runs)
    peak = max(run.peak_bytes for run, _ in runs)
    return f"{seconds:7.1f} {cpu:7.1f} {peak / 1e6:7.0f} {runs[0][1] / 1e6:8.0f}"


def speed(work: Path, options: list[str], name: str, types: list[str], rounds: int, jobs: int) -> list[str]:
    """Print the table, then which tensors differ; what missed its aim comes back."""
    source, peers = checkpoint(work, name, options), Peers(work)
    peers.tool("llama-quantize")
    out = work / "out"
    out.mkdir(exist_ok=True)
    full, quantized, mine, again = (out / f"{part}.gguf" for part in ("bf16", "peer", "ours", "requantized"))
    log = work / "ours.log"
    print(f"\n{name}, {sizes(*source.glob('*.safetensors')) / 1e6:.0f} MB, {jobs} threads; {rounds} rounds, medians\n")
    head = f"{'wall s':>7} {'CPU s':>7} {'peak MB':>7} {'MB out':>8}"
    print(f"{'':32} {'peer':^32}   {'ours':^32}\n{'':32} {head}   {head}   ratio")
    table = Table(rounds)
    differing: dict[str, list[str]] = {}

    def convert(type: str) -> tuple[Run, int]:
        arguments = ["convert", source, "-o", mine, "--type", type, "--jobs", str(jobs), "--force"]
        return ours(arguments, log), sizes(mine)

    def two_steps(type: str) -> tuple[Run, int]:
        both = peers.convert(source, full, "bf16") + peers.quantize(full, quantized, type, jobs)
        return both, sizes(full, quantized)

    def requantize(type: str) -> tuple[Run, int]:
        return ours(["quantize", full, again, type, "--jobs", str(jobs), "--force"], log), sizes(again)

    def direct() -> tuple[Run, int]:
        return peers.convert(source, quantized, "q8_0"), sizes(quantized)

    for type in types:
        least, least_again = AIMS.get(type, (0.0, 0.0))
        if type == "Q8_0":
            table.row("checkpoint -> Q8_0, direct", least, direct, lambda: convert("Q8_0"))
            if not full.exists():
                peers.convert(source, full, "bf16")
        else:
            table.row(f"checkpoint -> {type}", least, lambda t=type: two_steps(t), lambda t=type: convert(t))
        table.row(
            f"BF16 GGUF -> {type}",
            least_again,
            lambda t=type: (peers.quantize(full, quantized, t, jobs), sizes(quantized)),
            lambda t=type: requantize(t),
        )
        differing[f"checkpoint -> {type}"] = compare(quantized, mine)
        differing[f"BF16 GGUF -> {type}"] = compare(quantized, again)
    differing["mmproj, F16"] = _mmproj(peers, source, out, log)
    print()
    for title, lines in differing.items():
        print(f"{title}: {lines[0]}")
        print("".join(f"    {line}\n" for line in lines[1:]), end="")
    return table.failed


def _mmproj(peers: Peers, source: Path, out: Path, log: Path) -> list[str]:
    theirs, mine, model = out / "peer-mmproj.gguf", out / "ours-mmproj.gguf", out / "ours.gguf"
    peers.convert(source, theirs, "f16", mmproj=True)
    arguments = ["convert", source, "-o", model, "--mmproj", mine, "--mmproj-type", "F16", "--force"]
    ours(arguments, log)
    return compare(theirs, mine)


def memory(work: Path, jobs: int) -> list[str]:
    """Peak memory of both sides on a checkpoint of more than 4 GB with stacked tensors of more than 1 GB."""
    source, peers = checkpoint(work, "large", LARGE), Peers(work)
    out = work / "out"
    out.mkdir(exist_ok=True)
    total = sizes(*source.glob("*.safetensors"))
    print(f"\nlarge, {total / 1e6:.0f} MB, {jobs} threads; this process itself holds {own_peak_bytes() / 1e6:.0f} MB")
    run = ours(
        ["convert", source, "-o", out / "large.gguf", "--type", "Q4_K_M", "--jobs", str(jobs), "--force"],
        work / "ours.log",
    )
    print(f"ours, checkpoint -> Q4_K_M: {run.seconds:.0f} s, peak {run.peak_bytes / 1e6:.0f} MB")
    peer = peers.convert(source, out / "large-bf16.gguf", "bf16")
    print(f"peer, checkpoint -> BF16:   {peer.seconds:.0f} s, peak {peer.peak_bytes / 1e6:.0f} MB")
    failed = [] if run.peak_bytes < MEMORY_LIMIT else [f"peak memory {run.peak_bytes / 1e6:.0f} MB, the aim is 600 MB"]
    shutil.rmtree(out)
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help=f"default: {' '.join(TYPES)}")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help=f"default: {DEFAULT_WORK}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="a small checkpoint and one round: to try the benchmark")
    parser.add_argument("--memory", action="store_true", help="only the peak memory on a large checkpoint")
    arguments = parser.parse_args()
    work: Path = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if arguments.memory:
        failed = memory(work, arguments.jobs)
    else:
        types = [type.upper() for type in arguments.types] or list(TYPES)
        name, options = ("quick", QUICK) if arguments.quick else ("full", FULL)
        failed = speed(work, options, name, types, 1 if arguments.quick else arguments.rounds, arguments.jobs)
    print("\nnot reached:\n  " + "\n  ".join(failed) if failed else "\nevery aim is reached")


if __name__ == "__main__":
    main()
