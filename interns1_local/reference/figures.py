"""The figures by which two computations are compared; everything is counted in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]
# Rows that are widened to float64 at a time.
_ROWS = 32


@dataclass(frozen=True, slots=True)
class LogitFigures:
    """How far logits are from the reference's, over `positions`. KL is of the reference against ours, in nats.

    The figures leave out positions where ours are not finite numbers; `not_finite` counts these.
    """

    positions: int
    not_finite: int
    cosine_min: float | None
    cosine_mean: float | None
    max_difference: float | None
    kl_mean: float | None
    kl_max: float | None
    top1: float | None

    @property
    def counted(self) -> int:
        return self.positions - self.not_finite


@dataclass(frozen=True, slots=True)
class RowFigures:
    """How far embedding rows are from the reference's."""

    rows: int
    cosine_min: float
    cosine_mean: float
    max_difference: float


def compare_logits(reference: Matrix, ours: Matrix) -> LogitFigures:
    """Figures of two matrices [positions, vocabulary]."""
    keep: NDArray[np.bool_] = np.array([bool(np.isfinite(row).all()) for row in ours])
    parts = []
    for start in range(0, len(ours), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(ours)))
        rows = rows[keep[rows]]
        if len(rows):
            parts.append(_rows_of(reference[rows].astype(np.float64), ours[rows].astype(np.float64)))
    if not parts:
        return LogitFigures(len(ours), len(ours), None, None, None, None, None, None)
    cosine, difference, divergence, agree = (np.concatenate(column) for column in zip(*parts, strict=True))
    return LogitFigures(
        positions=len(ours),
        not_finite=int((~keep).sum()),
        cosine_min=float(cosine.min()),
        cosine_mean=float(cosine.mean()),
        max_difference=float(difference.max()),
        kl_mean=float(divergence.mean()),
        kl_max=float(divergence.max()),
        top1=float(agree.mean()),
    )


def together(figures: Sequence[LogitFigures]) -> LogitFigures:
    """The figures of several texts as those of one."""
    full = [each for each in figures if each.counted]
    positions, lost = sum(each.positions for each in figures), sum(each.not_finite for each in figures)
    if not full:
        return LogitFigures(positions, lost, None, None, None, None, None, None)
    shares = [each.counted / (positions - lost) for each in full]

    def mean(values: list[float | None]) -> float:
        return sum(value * share for value, share in zip(values, shares, strict=True) if value is not None)

    return LogitFigures(
        positions=positions,
        not_finite=lost,
        cosine_min=min(each.cosine_min for each in full if each.cosine_min is not None),
        cosine_mean=mean([each.cosine_mean for each in full]),
        max_difference=max(each.max_difference for each in full if each.max_difference is not None),
        kl_mean=mean([each.kl_mean for each in full]),
        kl_max=max(each.kl_max for each in full if each.kl_max is not None),
        top1=mean([each.top1 for each in full]),
    )


def compare_rows(reference: Matrix, ours: Matrix) -> RowFigures:
    """Figures of two matrices [rows, width] of finite numbers."""
    a, b = reference.astype(np.float64), ours.astype(np.float64)
    cosine = cosines(a, b)
    return RowFigures(len(a), float(cosine.min()), float(cosine.mean()), float(np.abs(a - b).max()))


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each row of `a` [n, d] with the same row of `b`; two rows of zeros are the same."""
    lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    both_zero = ~a.any(-1) & ~b.any(-1)
    found: NDArray[np.float64] = np.where(both_zero, 1.0, (a * b).sum(-1) / np.where(lengths == 0, 1.0, lengths))
    return found


def _rows_of(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """For each row: cosine, largest difference, KL(a || b), and whether both have the same first choice."""
    log_a, log_b = _log_softmax(a), _log_softmax(b)
    # Rounding may take a divergence of nothing a little below zero.
    divergence = np.maximum((np.exp(log_a) * (log_a - log_b)).sum(-1), 0.0)
    return cosines(a, b), np.abs(a - b).max(-1), divergence, (a.argmax(-1) == b.argmax(-1)).astype(np.float64)


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.max(-1, keepdims=True)
    found: NDArray[np.float64] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return found
