"""The figures of a comparison, against their definitions on small matrices."""

from __future__ import annotations

import math

import numpy as np
import pytest

from interns1_local.reference.figures import compare_logits, compare_rows, together

REFERENCE = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]], np.float32))


def test_equal_logits() -> None:
    figures = compare_logits(REFERENCE, REFERENCE)
    assert (figures.positions, figures.not_finite, figures.top1, figures.max_difference) == (3, 0, 1.0, 0.0)
    assert figures.cosine_min == pytest.approx(1) and figures.kl_max == pytest.approx(0, abs=1e-12)


def test_divergence_is_of_the_reference() -> None:
    ours = np.log(np.array([[0.25, 0.5, 0.25], [0.2, 0.2, 0.6], [0.1, 0.8, 0.1]], np.float32))
    figures = compare_logits(REFERENCE, ours)
    first = 0.5 * math.log(0.5 / 0.25) + 0.25 * math.log(0.25 / 0.5)
    assert figures.kl_max == pytest.approx(first, rel=1e-6) and figures.kl_mean == pytest.approx(first / 3, rel=1e-6)
    assert figures.top1 == pytest.approx(2 / 3)
    assert figures.max_difference == pytest.approx(math.log(2), rel=1e-6)


def test_a_constant_changes_no_divergence() -> None:
    assert compare_logits(REFERENCE, REFERENCE + 7).kl_max == pytest.approx(0, abs=1e-12)


def test_positions_without_numbers_are_counted_and_left_out() -> None:
    ours = REFERENCE.copy()
    ours[1, 2] = np.nan
    figures = compare_logits(REFERENCE, ours)
    assert (figures.positions, figures.not_finite, figures.counted, figures.top1) == (3, 1, 2, 1.0)
    none = compare_logits(REFERENCE, np.full_like(REFERENCE, np.inf))
    assert (none.not_finite, none.cosine_min) == (3, None)
    assert together([none]).kl_mean is None
    assert together([none, figures]) == together([figures, none])
    assert together([none, figures]).not_finite == 4


def test_texts_together_weigh_by_their_positions() -> None:
    other = np.log(np.array([[0.25, 0.5, 0.25]], np.float32))
    one, two = compare_logits(REFERENCE, REFERENCE), compare_logits(REFERENCE[:1], other)
    both = together([one, two])
    assert both == pytest.approx(both) and both.positions == 4
    assert both.kl_mean == pytest.approx((two.kl_mean or 0) / 4) and both.top1 == pytest.approx(3 / 4)
    assert both.cosine_min == two.cosine_min and both.kl_max == two.kl_max


def test_rows() -> None:
    a = np.array([[1, 0], [0, 2], [0, 0]], np.float32)
    figures = compare_rows(a, np.array([[1, 0], [2, 0], [0, 0]], np.float32))
    assert (figures.rows, figures.cosine_min, figures.max_difference) == (3, 0.0, 2.0)
    assert figures.cosine_mean == pytest.approx(2 / 3)
