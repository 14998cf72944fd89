"""The measure of quality: closed forms, a plain reference, and what llama-perplexity computes from its stored file."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from quant.errors import BadMeasurement
from quant.metrics import Comparison, Logits, Metrics, compare, cut_chunks, log_softmax, scored_positions

Array = NDArray[np.float64]


def random_logits(n: int, n_vocab: int, seed: int = 0, spread: float = 3.0) -> tuple[Logits, Logits, list[int]]:
    """(base, quantized, next tokens): the quantized ones are the base's with some noise."""
    rng = np.random.default_rng(seed)
    base = (spread * rng.standard_normal((n, n_vocab)) + 5 * rng.standard_normal((n, 1))).astype(np.float32)
    noise = rng.uniform(0, 0.6, (n, 1)) * rng.standard_normal((n, n_vocab))
    return base, (base + noise).astype(np.float32), rng.integers(0, n_vocab, n).tolist()


def measured(base: Logits, quantized: Logits, tokens: Sequence[int]) -> Metrics:
    comparison = Comparison()
    comparison.add(base, quantized, tokens)
    return comparison.metrics()


def mean_and_error(values: Array) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def kl_of_stored(base: Logits, quantized: Logits) -> Array:
    """KL of each row as llama-perplexity gets it: the base's log-probabilities come from a file of 16-bit steps.

    A row's steps go from its largest logit down to its smallest, but at most 16 below the largest. What is stored lower
    than log p = -16 is left out of the sum.
    """
    f32 = np.float32
    values = np.empty(len(base))
    for row, (b, q) in enumerate(zip(base, quantized, strict=True)):
        top, bottom = b.max(), max(b.min(), b.max() - f32(16))
        step = f32((top - bottom) / f32(65535))
        lowest = f32(bottom - top - f32(np.log(np.exp(b - top).astype(np.float64).sum())))
        stored = np.rint(np.maximum(b - bottom, f32(0)) / step).astype(np.uint16)
        log_p = step * stored.astype(f32) + lowest
        log_q = q - q.max() - f32(np.log(np.exp(q - q.max()).astype(np.float64).sum()))
        kept = log_p > -16
        values[row] = (np.exp(log_p[kept]) * (log_p[kept] - log_q[kept])).sum(dtype=np.float64)
    return values


def test_two_tokens_in_closed_form() -> None:
    """p = (3/4, 1/4), q = (1/2, 1/2); the right tokens are the first, the first and the second."""
    base = np.log(np.array([[3, 1]] * 3, np.float32))
    metrics = measured(base, np.zeros((3, 2), np.float32), [0, 0, 1])
    kl = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    assert metrics.n_tokens == 3
    assert metrics.kl.value == pytest.approx(kl, rel=1e-6)
    assert metrics.kl.error == pytest.approx(0, abs=1e-9)
    assert [metrics.kl_median, metrics.kl_90, metrics.kl_99, metrics.kl_99_9, metrics.kl_max] == pytest.approx([kl] * 5)
    assert metrics.perplexity.value == pytest.approx(2)
    assert metrics.perplexity.error == 0
    assert metrics.base_perplexity.value == pytest.approx((4 / 3 * 4 / 3 * 4) ** (1 / 3), rel=1e-6)
    assert metrics.delta_p.value == pytest.approx((-0.25 - 0.25 + 0.25) / 3, rel=1e-6)
    assert metrics.delta_p_rms.value == pytest.approx(0.25, rel=1e-6)
    assert metrics.top1_agreement.value == 1


def test_equal_logits_lose_nothing() -> None:
    base, _, tokens = random_logits(50, 300)
    metrics = measured(base, base, tokens)
    assert metrics.perplexity == metrics.base_perplexity
    assert (metrics.kl.value, metrics.kl_max, metrics.delta_p_rms.value) == (0, 0, 0)
    assert (metrics.top1_agreement.value, metrics.top1_agreement.error) == (1, 0)
    assert metrics.log_perplexity_ratio.value == 0


def test_adding_a_number_to_all_logits_of_a_row_changes_nothing() -> None:
    base, quantized, tokens = random_logits(20, 100)
    shifts = np.float32(1024) * np.arange(20, dtype=np.float32)[:, None]
    moved = measured(base + shifts, quantized - shifts, tokens)
    plain = measured(base, quantized, tokens)
    assert moved.kl.value == pytest.approx(plain.kl.value, abs=1e-3)
    assert moved.perplexity.value == pytest.approx(plain.perplexity.value, rel=1e-3)


def test_a_plain_reference_gives_the_same() -> None:
    base, quantized, tokens = random_logits(400, 777, seed=1)
    each = np.arange(400)
    log_p, log_q = (
        x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (base.astype(float), quantized.astype(float))
    )
    kl = np.where(log_p > -16, np.exp(log_p) * (log_p - log_q), 0).sum(axis=1)
    nll, base_nll = -log_q[each, tokens], -log_p[each, tokens]
    delta = np.exp(-nll) - np.exp(-base_nll)
    same = (base.argmax(axis=1) == quantized.argmax(axis=1)).astype(float)
    metrics = measured(base, quantized, tokens)

    for estimate, (value, error) in (
        (metrics.kl, mean_and_error(kl)),
        (metrics.log_perplexity_ratio, mean_and_error(nll - base_nll)),
        (metrics.delta_p, mean_and_error(delta)),
        (metrics.top1_agreement, mean_and_error(same)),
    ):
        assert (estimate.value, estimate.error) == pytest.approx((value, error), rel=1e-9)
    for estimate, values in ((metrics.perplexity, nll), (metrics.base_perplexity, base_nll)):
        mean, error = mean_and_error(values)
        assert (estimate.value, estimate.error) == pytest.approx((np.exp(mean), np.exp(mean) * error), rel=1e-9)
    square, square_error = mean_and_error(delta**2)
    assert metrics.delta_p_rms.value == pytest.approx(np.sqrt(square))
    assert metrics.delta_p_rms.error == pytest.approx(square_error / (2 * np.sqrt(square)))
    percentiles = [metrics.kl_median, metrics.kl_90, metrics.kl_99, metrics.kl_99_9, metrics.kl_max]
    assert percentiles == pytest.approx(np.percentile(kl, [50, 90, 99, 99.9, 100]).tolist())
    assert 0.5 < metrics.top1_agreement.value < 1  # the table above measured something


@pytest.mark.parametrize(
    ("n", "n_vocab", "spread"), [(200, 1000, 3.0), (100, 5000, 0.5), (12, 153_216, 2.0), (40, 20_000, 7.0)]
)
def test_kl_is_that_of_llama_perplexity(n: int, n_vocab: int, spread: float) -> None:
    base, quantized, tokens = random_logits(n, n_vocab, seed=2, spread=spread)
    expected = kl_of_stored(base, quantized)
    metrics = measured(base, quantized, tokens)
    assert metrics.kl.value == pytest.approx(expected.mean(), abs=1e-3)
    assert metrics.kl_99 == pytest.approx(np.percentile(expected, 99), abs=1e-3)
    assert metrics.kl_max == pytest.approx(expected.max(), abs=1e-3)


def test_improbable_tokens_are_left_out_as_llama_perplexity_does() -> None:
    """A flat tail below log p = -16 that the quantized model loses: the whole sum would be larger by more than 1e-3."""
    n_vocab = 100_000
    base = np.full((1, n_vocab), -16.5, np.float32)
    base[0, 0] = 0
    quantized = base.copy()
    quantized[0, 1:] -= 10
    log_p, log_q = log_softmax(base), log_softmax(quantized)
    whole = float((np.exp(log_p) * (log_p - log_q)).sum())
    value = measured(base, quantized, [0]).kl.value
    assert value == pytest.approx(kl_of_stored(base, quantized)[0], abs=1e-3)
    assert whole - value > 1e-2


def test_chunk_by_chunk_is_the_same_as_all_at_once() -> None:
    base, quantized, tokens = random_logits(90, 50_000, seed=3)
    comparison = Comparison()
    for start, stop in ((0, 1), (1, 30), (30, 30), (30, 90)):
        comparison.add(base[start:stop], quantized[start:stop], tokens[start:stop])
    parts, whole = comparison.metrics(), measured(base, quantized, tokens)
    for name in ("kl", "perplexity", "base_perplexity", "delta_p", "delta_p_rms", "top1_agreement"):
        part, all_at_once = getattr(parts, name), getattr(whole, name)
        assert (part.value, part.error) == pytest.approx((all_at_once.value, all_at_once.error), rel=1e-9)
    assert (parts.n_tokens, parts.kl_99) == (90, pytest.approx(whole.kl_99))


def test_a_hopeless_model_is_infinitely_perplexed() -> None:
    base = np.zeros((2, 3), np.float32)
    quantized = np.array([[0, -5000, 0]] * 2, np.float32)
    metrics = measured(base, quantized, [1, 1])
    assert metrics.perplexity.value == math.inf
    assert metrics.kl.value == pytest.approx(5000 / 3 - math.log(1.5), rel=1e-3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers(value: float) -> None:
    base, quantized, tokens = random_logits(4, 10)
    quantized[2, 3] = value
    with pytest.raises(BadMeasurement, match="no finite numbers"):
        measured(base, quantized, tokens)


def test_arrays_that_do_not_belong_together() -> None:
    base, quantized, tokens = random_logits(4, 10)
    for wrong in ((base, quantized[:3], tokens), (base, quantized, tokens[:3]), (base[:, :9], quantized, tokens)):
        with pytest.raises(BadMeasurement, match="cannot be compared"):
            measured(*wrong)
    with pytest.raises(BadMeasurement, match="outside the vocabulary of 10"):
        measured(base, quantized, [0, 1, 2, 10])
    with pytest.raises(BadMeasurement, match="no scored tokens"):
        Comparison().metrics()


def test_the_second_half_of_a_chunk_is_scored() -> None:
    """512 tokens: positions 256 to 510, which predict the tokens 257 to 511."""
    assert scored_positions(512) == range(256, 511)
    assert scored_positions(7) == range(3, 6)


def test_chunks() -> None:
    assert cut_chunks(range(14), 4) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert cut_chunks(range(14), 4, max_chunks=2) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert cut_chunks(range(14), 4, max_chunks=9) == cut_chunks(range(14), 4)
    # The text begins with the leading token, and so does each chunk, in the place of the token that stood there.
    assert cut_chunks(range(9), 4, bos=99) == [[99, 0, 1, 2], [99, 4, 5, 6]]
    with pytest.raises(BadMeasurement, match="has 511 tokens and one chunk needs 512"):
        cut_chunks(range(511), 512)
    with pytest.raises(BadMeasurement, match="chunk of 3 tokens is too short"):
        cut_chunks(range(100), 3)


def test_compare_asks_both_models_for_each_chunk() -> None:
    table, other, _ = random_logits(20, 20, seed=4)
    chunks = cut_chunks([3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3], 8)
    steps: list[int] = []

    def score(logits: Logits, chunk: Sequence[int]) -> Logits:
        return logits[[chunk[i] for i in scored_positions(len(chunk))]]

    metrics = compare(lambda chunk: score(table, chunk), lambda chunk: score(other, chunk), chunks, steps.append)
    assert steps == [1, 2, 3, 4]
    rows, following = [5, 9, 2, 9, 7, 9], [9, 2, 6, 7, 9, 3]
    expected = measured(table[rows], other[rows], following)
    assert (metrics.n_tokens, metrics.kl_max) == (6, expected.kl_max)
    assert metrics.perplexity.value == pytest.approx(expected.perplexity.value)
    assert metrics.delta_p.value == pytest.approx(expected.delta_p.value)
