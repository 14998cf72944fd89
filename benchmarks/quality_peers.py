"""Importance matrices and quality figures against llama.cpp's own tools: llama-imatrix and llama-perplexity.

    python -m benchmarks.quality_peers                        half a minute, and some more to build the tools once
    python -m benchmarks.quality_peers --checkpoint FOLDER --data wiki.test.raw --chunk 512

Both sides read the same tokens in the same chunks, without flash attention, and print the same figures:

- `interns1 imatrix` beside llama-imatrix: which weights, how many rows each matrix and expert saw, the sums of squares.
- `interns1 quality` beside llama-perplexity --kl-divergence, end to end, each with logits of its own.
- The definitions alone: our formulas on the base model's probabilities that llama-perplexity stored (in 16 bits, and
  none below e^-16), for its tokens. What the file does not hold cannot be compared: the base model's perplexity.

The default checkpoint is the shipped one. It knows sums, so one of its two texts is of sums; the other is English
prose, of which it knows nothing. Texts must be free of what science tokenizers treat apart (tags, SMILES), which stock
llama.cpp reads as plain text. Needs what `make test` installs, cmake and a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers import DEFAULT_WORK, Peers, measure, ours
from interns1_local.engine.llama import Model
from interns1_local.engine.offload import ON_CPU
from interns1_local.engine.scoring import Scorer, leading_token
from interns1_local.nano import CHECKPOINT
from interns1_local.runners.model_spec import read_model_facts
from interns1_local.runners.text_codec import TextCodec
from quant.imatrix import read_statistics
from quant.metrics import SMALLEST_LOG_PROBABILITY, Comparison, Metrics, scored_positions

BASE_TYPE = "F16"
TYPES = ("Q8_0", "Q4_K_M", "Q2_K")
# Figure -> how llama-perplexity prints it, and the largest difference: of perplexities relative, else absolute.
FIGURES = {
    "perplexity, base": (r"Final estimate: PPL = *(\S+)", 1e-3),
    "perplexity": (r"Mean PPL\(Q\) *: *(\S+)", 1e-3),
    "mean KL": (r"Mean +KLD: *(\S+)", 1e-3),
    "99 % KL": (r"99\.0% +KLD: *(\S+)", 1e-2),
    "largest KL": (r"Maximum KLD: *(\S+)", 1e-2),
    "same top token, %": (r"Same top p: *(\S+)", 0.1),
    "RMS change of p, %": (r"RMS Δp *: *(\S+)", 0.1),
}
SUMS_AIM = 1e-4
_NOTHING = 1e-30
_TRIALS = 10

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class StoredBase:
    """What `llama-perplexity --kl-divergence-base` wrote."""

    path: Path
    n_ctx: int
    n_vocab: int
    chunks: NDArray[np.int32]  # [chunks, n_ctx]
    offset: int

    @classmethod
    def open(cls, path: Path) -> StoredBase:
        with open(path, "rb") as file:
            assert file.read(8) == b"_logits_", path
            n_ctx, n_vocab, n_chunks = np.fromfile(file, "<i4", 3).tolist()
            chunks = np.fromfile(file, "<i4", n_chunks * n_ctx).reshape(n_chunks, n_ctx)
            return cls(path, n_ctx, n_vocab, chunks, file.tell())

    def log_probabilities(self) -> Iterator[NDArray[np.float32]]:
        """For each chunk float32[scored positions, n_vocab]. What is not stored shares what is left of 1."""
        n_rows = len(scored_positions(self.n_ctx))
        width = 2 * ((self.n_vocab + 1) // 2) + 4
        rows = np.memmap(self.path, "<u2", "r", self.offset, (len(self.chunks), n_rows, width))
        for chunk in rows:
            scale, least = chunk[:, :4].copy().view("<f4").T
            values = scale[:, None] * chunk[:, 4 : 4 + self.n_vocab].astype(np.float32) + least[:, None]
            stored = values > SMALLEST_LOG_PROBABILITY
            left = 1 - np.exp(values, dtype=np.float64).sum(axis=1, where=stored)
            share = np.maximum(left, _NOTHING) / np.maximum(1, np.count_nonzero(~stored, axis=1))
            yield np.where(stored, values, np.log(share)[:, None].astype(np.float32))


class Bench:
    """One checkpoint in several types, under `work`."""

    def __init__(self, peers: Peers, checkpoint: Path, chunk: int, chunks: int, threads: int) -> None:
        self._peers = peers
        self.work = peers.work / "quality"
        self.work.mkdir(parents=True, exist_ok=True)
        self._checkpoint = checkpoint
        self._chunk, self._chunks, self._threads = chunk, chunks, threads
        self.failed: list[str] = []

    def model(self, type: str) -> Path:
        """The checkpoint converted to `type`."""
        path = self.work / f"model-{type}.gguf"
        ours(["convert", self._checkpoint, "-o", path, "--type", type, "--force"], self.work / "convert.log")
        return path

    def imatrix(self, model: Path, text: Path) -> None:
        """Print how far both importance matrices are from each other."""
        mine, theirs = self.work / "ours-imatrix.gguf", self.work / "peer-imatrix.gguf"
        log = self._peer("llama-imatrix", "Final estimate", "-m", model, "-f", text, "-o", theirs, *self._same())
        # Ours reads the rest behind the last whole chunk too, unless it is told to stop there.
        chunks = int(re.findall(r"computing over (\d+) chunks", log)[-1])
        ours(["imatrix", model, "--data", text, "-o", mine, *self._own(chunks), "--force"], self.work / "ours.log")
        worst = self._compare_imatrices(f"{text.stem}, {chunks} chunks, same options", theirs, mine)
        if not worst <= SUMS_AIM:
            self.failed.append(f"{text.stem}: importance matrices differ by {worst:.1e}, the aim is {SUMS_AIM:g}")
        defaults = ["-c", self._chunk, "--chunks", chunks, "-t", self._threads]
        self._peer("llama-imatrix", "Final estimate", "-m", model, "-f", text, "-o", theirs, *defaults)
        self._compare_imatrices(f"{text.stem}, llama-imatrix's defaults (flash attention)", theirs, mine)

    def quality(self, base: Path, text: Path, types: Sequence[str]) -> None:
        """Print both sides' figures for each type."""
        stored_path = self.work / "base-logits.dat"
        stored_at = ["--kl-divergence-base", stored_path]
        log = self._peer("llama-perplexity", "Final estimate", "-m", base, "-f", text, *stored_at, *self._same())
        stored = StoredBase.open(stored_path)
        self._check_ids(base, text, stored)
        for type in types:
            quantized = self.model(type)
            comparing = ["-m", quantized, "--kl-divergence", *stored_at, *self._same()]
            printed = log + self._peer("llama-perplexity", "Same top p:", *comparing)
            theirs = {name: float(re.findall(pattern, printed)[-1]) for name, (pattern, _) in FIGURES.items()}
            mine = self._our_quality(base, quantized, text, stored)
            on_stored = _figures(_on_stored_base(stored, quantized, self._threads))
            self._table(f"{text.stem}, {type} beside {BASE_TYPE}", theirs, mine, on_stored)
        stored_path.unlink()

    def _check_ids(self, base: Path, text: Path, stored: StoredBase) -> None:
        model = Model(base, ON_CPU)
        codec = TextCodec(read_model_facts(base).metadata, model.vocab.encode)
        bos = leading_token(model)
        tokens = [token for token in codec.encode(text.read_text(encoding="utf-8")) if isinstance(token, int)]
        model.close()
        ids = [*([] if bos is None else [bos]), *tokens][: stored.chunks.size]
        # The peer's text may be longer than ours only if both read it differently.
        ids += [-1] * (stored.chunks.size - len(ids))
        different = np.count_nonzero(np.asarray(ids) != stored.chunks.ravel())
        print(f"\n{text.stem}: {stored.chunks.size} token ids, {different or 'none'} of them different")
        if different:
            self.failed.append(f"{text.stem}: the token ids differ, so the figures cannot be compared")

    def _our_quality(self, base: Path, quantized: Path, text: Path, stored: StoredBase) -> Figures:
        log = self.work / "ours.log"
        ours(["quality", base, quantized, "--data", text, *self._own(self._chunks), "--json"], log)
        printed = log.read_text()
        report: dict[str, Any] = json.JSONDecoder().raw_decode(printed, printed.index("{"))[0]
        if report["chunks"] != len(stored.chunks):
            self.failed.append(f"{text.stem}: {report['chunks']} chunks here, {len(stored.chunks)} there")
        measured, kl = report["models"][0], report["models"][0]["kl"]
        return {
            "perplexity, base": report["base"]["perplexity"]["value"],
            "perplexity": measured["perplexity"]["value"],
            "mean KL": kl["mean"],
            "99 % KL": kl["99"],
            "largest KL": kl["max"],
            "same top token, %": 100 * measured["top1_agreement"]["value"],
            "RMS change of p, %": 100 * measured["delta_p_rms"]["value"],
        }

    def _table(self, title: str, theirs: Figures, mine: Figures, on_stored: Figures) -> None:
        print(f"\n{title}\n{'':20} {'peer':>14} {'ours':>14} {'difference':>11} {'on its base':>14} {'difference':>11}")
        for name, (_, aim) in FIGURES.items():
            cells = ""
            for side, values in (("end to end", mine), ("on the stored base", on_stored)):
                if name not in values:
                    continue
                scale = theirs[name] if name.startswith("perplexity") else 1.0
                difference = (values[name] - theirs[name]) / scale
                cells += f" {values[name]:14.6f} {difference:11.1e}"
                if not abs(difference) <= aim:
                    self.failed.append(f"{title}: {name} differs by {difference:.1e} {side}, the aim is {aim:g}")
            print(f"{name:20} {theirs[name]:14.6f}{cells}", flush=True)

    def _compare_imatrices(self, title: str, theirs: Path, mine: Path) -> float:
        """The largest relative difference of a weight's sums; infinite when names, shapes or counts differ."""
        peer, own = read_statistics(theirs).entries, read_statistics(mine).entries
        by_tensor, by_column, moved, rows = [0.0], [0.0], 0, 0
        names = peer.keys() & own.keys()
        for name in sorted(names):
            (sums, counts), (others, other_counts) = peer[name], own[name]
            moved += int(np.abs(counts - other_counts).sum())
            rows += int(counts.sum())
            by_tensor.append(float(np.abs(sums - others).sum() / sums.sum()))
            seen = sums > 0
            by_column.append(float((np.abs(sums - others)[seen] / sums[seen]).max()))
        print(
            f"importance matrix, {title}: {len(names)} weights in both, {len(peer.keys() ^ own.keys())} in one; "
            f"{moved} of {rows} counts differ; sums differ by {max(by_tensor):.1e} of a weight, "
            f"{max(by_column):.1e} of a column",
            flush=True,
        )
        return max(by_tensor) if not moved and peer.keys() == own.keys() else float("inf")

    def _peer(self, tool: str, last: str, *arguments: object) -> str:
        """What the tool prints up to its `last` figure. It may lose its last lines at its end: then again."""
        log = self.work / f"{tool}.log"
        for _ in range(_TRIALS):
            measure([self._peers.tool(tool), *arguments], log)
            printed = log.read_text(errors="replace")
            if re.search(last, printed):
                return printed
        raise SystemExit(f"{tool} printed nothing like {last}: {printed[-2000:]}")

    def _own(self, chunks: int) -> list[str]:
        return ["--chunk", str(self._chunk), "--chunks", str(chunks), "--threads", str(self._threads)]

    def _same(self) -> list[object]:
        """As ours computes: one chunk a batch, no flash attention."""
        batch = ["-c", self._chunk, "-b", self._chunk, "-ub", self._chunk, "--chunks", self._chunks]
        return [*batch, "-t", self._threads, "-fa", "off"]


def _on_stored_base(stored: StoredBase, quantized: Path, threads: int) -> Metrics:
    """Our formulas on the peer's base probabilities."""
    model = Model(quantized, ON_CPU)
    scorer = Scorer(model, stored.n_ctx, threads)
    bos = leading_token(model)
    comparison = Comparison()
    positions = scored_positions(stored.n_ctx)
    try:
        for chunk, base in zip(stored.chunks.tolist(), stored.log_probabilities(), strict=True):
            tokens = chunk if bos is None else [bos, *chunk[1:]]
            comparison.add(base, scorer.logits([tokens], positions), tokens[positions.start + 1 :])
    finally:
        scorer.close()
        model.close()
    return comparison.metrics()


def _figures(metrics: Metrics) -> Figures:
    """All but the base model's perplexity."""
    return {
        "perplexity": metrics.perplexity.value,
        "mean KL": metrics.kl.value,
        "99 % KL": metrics.kl_99,
        "largest KL": metrics.kl_max,
        "same top token, %": 100 * metrics.top1_agreement.value,
        "RMS change of p, %": 100 * metrics.delta_p_rms.value,
    }


def texts(work: Path) -> list[Path]:
    """English prose that everyone has, and sums."""
    prose, sums = work / "prose.txt", work / "sums.txt"
    prose.write_text((Path(__file__).parents[1] / "LICENSE").read_text(encoding="utf-8"), encoding="utf-8")
    lines = (f"What is {a} + {b}? {a} + {b} = {a + b}\n" for a in range(11, 91, 4) for b in range(12, 92, 6))
    sums.write_text("".join(lines), encoding="utf-8")
    return [prose, sums]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help=f"default: {' '.join(TYPES)}")
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help=f"default: {DEFAULT_WORK}")
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT, help="default: the shipped one")
    parser.add_argument("--data", type=Path, action="append", help="texts in place of the two that come with this")
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--chunks", type=int, default=40)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    peers = Peers(arguments.work)
    bench = Bench(peers, arguments.checkpoint, arguments.chunk, arguments.chunks, arguments.threads)
    base = bench.model(BASE_TYPE)
    data = arguments.data or texts(bench.work)
    print(f"chunks of {arguments.chunk} tokens, at most {arguments.chunks}; {arguments.threads} threads\n")
    for text in data:
        bench.imatrix(base, text)
    for text in data:
        bench.quality(base, text, [type.upper() for type in arguments.types] or list(TYPES))
    print("\nnot reached:\n  " + "\n  ".join(bench.failed) if bench.failed else "\nevery aim is reached")


if __name__ == "__main__":
    main()
