"""What was measured of quantized models beside their base: as a table, as JSON and as a plot."""

from __future__ import annotations

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from quant.metrics import Estimate, Metrics
from quant.quality_plot import Point, draw

_COLUMN_GAP = "    "


@dataclass(frozen=True, slots=True)
class MeasuredModel:
    """A quantized model: its name as it was given, the bytes of its files, and its figures."""

    name: str
    n_bytes: int
    metrics: Metrics


@dataclass(frozen=True, slots=True)
class QualityReport:
    """Quantized models compared with one base on `n_chunks` chunks of `n_ctx` tokens, in the order they were given."""

    base: str
    base_bytes: int
    n_ctx: int
    n_chunks: int
    models: tuple[MeasuredModel, ...]

    def to_text(self) -> str:
        """A table with the base in its first row, and a line that says what the columns are. Ends without a newline."""
        header = ("MODEL", "SIZE", "PERPLEXITY", "MEAN KL", "99% KL", "RMS ΔP", "SAME TOP TOKEN")
        rows: list[tuple[str, ...]] = [header]
        if self.models:
            perplexity = _plus_minus(self.models[0].metrics.base_perplexity, 4)
            rows.append((printable(self.base), _megabytes(self.base_bytes), perplexity, "-", "-", "-", "-"))
        for model in self.models:
            metrics = model.metrics
            rows.append(
                (
                    printable(model.name),
                    _megabytes(model.n_bytes),
                    _plus_minus(metrics.perplexity, 4),
                    _plus_minus(metrics.kl, 6),
                    f"{metrics.kl_99:.6f}",
                    _percent(metrics.delta_p_rms),
                    _percent(metrics.top1_agreement),
                )
            )
        n_tokens = self.models[0].metrics.n_tokens if self.models else 0
        note = (
            f"{n_tokens} tokens scored, the second halves of {self.n_chunks} chunks of {self.n_ctx}; "
            "KL(base || model) in nats a token; ± is one standard error"
        )
        return "\n".join([*_aligned(rows), note])

    def to_json(self) -> dict[str, Any]:
        """All figures as JSON values. KL in nats, shares and probabilities from 0 to 1, an infinity is null."""
        perplexity = _finite(asdict(self.models[0].metrics.base_perplexity)) if self.models else None
        return {
            "base": {"model": self.base, "bytes": self.base_bytes, "perplexity": perplexity},
            "chunk_tokens": self.n_ctx,
            "chunks": self.n_chunks,
            "models": [
                {"model": model.name, "bytes": model.n_bytes, **_metrics_json(model.metrics)} for model in self.models
            ],
        }

    def to_svg(self) -> str:
        """A plot of size against mean KL."""
        short = Counter(Path(model.name).name for model in self.models)
        points = []
        for model in self.models:
            last = Path(model.name).name
            label = last if last and short[last] == 1 else model.name
            points.append(Point(printable(label), printable(model.name), model.n_bytes, model.metrics.kl.value))
        return draw(points, f"Size against distance from {printable(Path(self.base).name or self.base)}")


def printable(name: str) -> str:
    """A file name without what could steer a terminal or break a document: such characters are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name)


def _metrics_json(metrics: Metrics) -> dict[str, Any]:
    values: dict[str, Any] = _finite(asdict(metrics))
    kl = {"mean": values["kl"]["value"], "error": values["kl"]["error"]}
    kl |= {name: values[f"kl_{name}"] for name in ("median", "90", "99", "99_9", "max")}
    return {
        "scored_tokens": values["n_tokens"],
        "perplexity": values["perplexity"],
        "log_perplexity_ratio": values["log_perplexity_ratio"],
        "kl": kl,
        "delta_p": values["delta_p"],
        "delta_p_rms": values["delta_p_rms"],
        "top1_agreement": values["top1_agreement"],
    }


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _megabytes(count: int) -> str:
    """One unit for all rows, so that sizes can be compared at a glance."""
    return f"{count / 1e6:,.1f} MB"


def _plus_minus(estimate: Estimate, digits: int) -> str:
    return f"{estimate.value:.{digits}f} ± {estimate.error:.{digits}f}"


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.2f} ± {100 * estimate.error:.2f} %"


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, figures to the right."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [" " * (width - _width(cell)) + cell for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0] + " " * (widths[0] - _width(row[0]))
        lines.append(_COLUMN_GAP.join(cells))
    return lines


def _width(text: str) -> int:
    """Terminal columns: a Chinese character takes two, an accent that joins a letter none."""
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
