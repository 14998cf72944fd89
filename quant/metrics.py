"""How far a quantized model is from its base model, measured on the logits that both give for the same tokens.

The definitions are those of llama.cpp's `llama-perplexity --kl-divergence` (tools/perplexity/perplexity.cpp, the
functions `perplexity`, `kl_divergence` and `log_softmax`):

- The tokens are cut into chunks of `n_ctx` tokens; what is left at the end is not used. Each chunk is computed afresh.
- Position i predicts token i + 1. Scored are the positions from n_ctx // 2 on, so that each has half a chunk before
  it, up to the last but one, whose next token is still in the chunk.
- In vocabularies that begin every text with a BOS token, the whole text begins with one, and one takes the place of
  every chunk's first token.
- KL(base || quantized) of a position is the sum of p_base * (log p_base - log p_quantized) over the tokens with
  log p_base > -16. The others are left out, as that program does not store them.

One thing differs: llama-perplexity stores the base model's log-probabilities in 16 bits, here they are exact. Both
agree within 1e-3. All logarithms are natural: KL is in nats.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quant.errors import BadMeasurement

Logits = NDArray[np.float32]  # [positions, vocabulary]
Score = Callable[[Sequence[int]], Logits]  # a chunk of tokens -> the logits of its scored positions

SMALLEST_CHUNK = 4
SMALLEST_LOG_PROBABILITY = -16.0

# Values of one block of rows: its float64 copies take 8 MiB each, whatever the size of the vocabulary.
_BLOCK_VALUES = 2**20


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over the scored tokens, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """A quantized model compared with its base. KL in nats a token; probabilities and agreement from 0 to 1.

    `log_perplexity_ratio` is ln(perplexity / base_perplexity). `delta_p` is the change of the right token's
    probability, quantized minus base, and `delta_p_rms` its root mean square.
    """

    n_tokens: int
    base_perplexity: Estimate
    perplexity: Estimate
    log_perplexity_ratio: Estimate
    kl: Estimate
    kl_median: float
    kl_90: float
    kl_99: float
    kl_99_9: float
    kl_max: float
    delta_p: Estimate
    delta_p_rms: Estimate
    top1_agreement: Estimate


class Comparison:
    """Takes the logits chunk by chunk. Of each token only its KL is kept, the rest is added up."""

    def __init__(self) -> None:
        self._kl: list[NDArray[np.float64]] = []
        self._base_nll = _Mean()
        self._nll = _Mean()
        self._nll_change = _Mean()
        self._delta_p = _Mean()
        self._delta_p_squared = _Mean()
        self._n_same_top = 0

    def add(self, base: Logits, quantized: Logits, next_tokens: Sequence[int]) -> None:
        """Both models' logits, float32[positions, vocabulary], and the token that really follows each position."""
        targets = np.asarray(next_tokens, np.int64)
        if base.ndim != 2 or base.shape != quantized.shape or targets.shape != base.shape[:1]:
            raise BadMeasurement(
                f"Logits of shapes {base.shape} and {quantized.shape} for {targets.size} tokens cannot be compared."
            )
        if targets.size and not 0 <= targets.min() <= targets.max() < base.shape[1]:
            raise BadMeasurement(f"A token id is outside the vocabulary of {base.shape[1]} tokens.")
        step = max(1, _BLOCK_VALUES // max(1, base.shape[1]))
        for start in range(0, len(targets), step):
            rows = slice(start, start + step)
            self._add_rows(base[rows], quantized[rows], targets[rows])

    def _add_rows(self, base: Logits, quantized: Logits, targets: NDArray[np.int64]) -> None:
        log_base, log_quantized = log_softmax(base), log_softmax(quantized)
        counted = log_base > SMALLEST_LOG_PROBABILITY
        terms = np.exp(log_base) * (log_base - log_quantized)
        self._kl.append(terms.sum(axis=1, where=counted))
        self._n_same_top += int(np.count_nonzero(base.argmax(axis=1) == quantized.argmax(axis=1)))
        each = np.arange(len(targets))
        base_nll, nll = -log_base[each, targets], -log_quantized[each, targets]
        self._base_nll.add(base_nll)
        self._nll.add(nll)
        self._nll_change.add(nll - base_nll)
        delta_p = np.exp(-nll) - np.exp(-base_nll)
        self._delta_p.add(delta_p)
        self._delta_p_squared.add(delta_p**2)

    def metrics(self) -> Metrics:
        """The figures for everything added so far."""
        if not self._nll.count:
            raise BadMeasurement("There are no scored tokens to measure.")
        kl = np.concatenate(self._kl)
        kl_mean = _Mean()
        kl_mean.add(kl)
        median, kl_90, kl_99, kl_99_9 = (float(value) for value in np.percentile(kl, [50, 90, 99, 99.9]))
        return Metrics(
            n_tokens=self._nll.count,
            base_perplexity=_exponential(self._base_nll.estimate()),
            perplexity=_exponential(self._nll.estimate()),
            log_perplexity_ratio=self._nll_change.estimate(),
            kl=kl_mean.estimate(),
            kl_median=median,
            kl_90=kl_90,
            kl_99=kl_99,
            kl_99_9=kl_99_9,
            kl_max=float(kl.max()),
            delta_p=self._delta_p.estimate(),
            delta_p_rms=_root(self._delta_p_squared.estimate()),
            top1_agreement=_share(self._n_same_top, self._nll.count),
        )


def log_softmax(logits: Logits) -> NDArray[np.float64]:
    """Natural logarithms of the probabilities, float64[positions, vocabulary]."""
    if not np.isfinite(logits).all():
        raise BadMeasurement("A model gives logits that are no finite numbers; its file is damaged or badly quantized.")
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


def cut_chunks(
    tokens: Sequence[int], n_ctx: int, max_chunks: int | None = None, bos: int | None = None
) -> list[list[int]]:
    """The tokens of a text in chunks of exactly `n_ctx`, at most `max_chunks` of them.

    `bos` is the token that begins every text, where the vocabulary has one that is added to texts.
    """
    if n_ctx < SMALLEST_CHUNK:
        raise BadMeasurement(f"A chunk of {n_ctx} tokens is too short; use {SMALLEST_CHUNK} or more.")
    if bos is not None:
        tokens = [bos, *tokens]
    count = len(tokens) // n_ctx
    if not count:
        raise BadMeasurement(
            f"The data has {len(tokens)} tokens and one chunk needs {n_ctx}; give more data or a smaller chunk."
        )
    starts = range(0, n_ctx * min(count, max_chunks or count), n_ctx)
    chunks = [list(tokens[start : start + n_ctx]) for start in starts]
    return chunks if bos is None else [[bos, *chunk[1:]] for chunk in chunks]


def scored_positions(n_ctx: int) -> range:
    """The positions of a chunk whose logits are compared."""
    return range(n_ctx // 2, n_ctx - 1)


def compare(
    base: Score, quantized: Score, chunks: Sequence[Sequence[int]], progress: Callable[[int], None] | None = None
) -> Metrics:
    """Compare two models on `chunks`. Each callable gives float32[len(scored_positions(n_ctx)), vocabulary].

    The base model's array must stay as it is while the other model computes. `progress` gets the number of chunks that
    were computed by either model, which ends at twice the number of chunks.
    """
    comparison = Comparison()
    report = progress or (lambda done: None)
    for index, chunk in enumerate(chunks):
        base_logits = base(chunk)
        report(2 * index + 1)
        first = scored_positions(len(chunk)).start
        comparison.add(base_logits, quantized(chunk), chunk[first + 1 :])
        report(2 * index + 2)
    return comparison.metrics()


class _Mean:
    """A running mean and the sum of squared distances from it, which no large mean makes inexact."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        count = self.count + len(values)
        mean = float(values.mean())
        distance = mean - self._mean
        self._squares += float(((values - mean) ** 2).sum()) + distance**2 * self.count * len(values) / count
        self._mean += distance * len(values) / count
        self.count = count

    def estimate(self) -> Estimate:
        """With the standard error of llama-perplexity: the root of (mean square - squared mean) / (count - 1)."""
        error = math.sqrt(self._squares / self.count / (self.count - 1)) if self.count > 1 else 0.0
        return Estimate(self._mean, error)


def _exponential(mean: Estimate) -> Estimate:
    with np.errstate(over="ignore"):
        value = float(np.exp(mean.value))
    return Estimate(value, value * mean.error if mean.error else 0.0)


def _root(mean_square: Estimate) -> Estimate:
    value = math.sqrt(mean_square.value)
    return Estimate(value, 0.5 * mean_square.error / value if value else 0.0)


def _share(part: int, count: int) -> Estimate:
    value = part / count
    return Estimate(value, math.sqrt(value * (1 - value) / (count - 1)) if count > 1 else 0.0)
