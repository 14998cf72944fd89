"""Measuring models on text: loading them, checking that they read the data alike, and stopping at Ctrl-C."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from interns1_local.commands.calibration import find_model
from interns1_local.config import load_settings
from interns1_local.engine.llama import Aborted, Model
from interns1_local.engine.scoring import Scorer, leading_token
from interns1_local.errors import BadRequest
from interns1_local.runners.memory import physical_cores
from interns1_local.runners.model_spec import read_model_facts
from interns1_local.runners.text_codec import TextCodec
from quant.metrics import Logits, compare, cut_chunks, scored_positions
from quant.report import MeasuredModel, QualityReport, printable
from quant.splits import read_model

# Called with the chunks that were computed, by any model, and how many there will be.
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model by the name that it was given, its (first) file, and the bytes of all its files."""

    name: str
    path: Path
    n_bytes: int


def find_models(names: Sequence[str]) -> list[FoundModel]:
    """Files or names in the store. The vision file does not count: text alone is measured."""
    models = []
    for name in names:
        path = find_model(name, None).model
        read = read_model(path, arrays=False)
        files = {tensor.path or path for tensor in read.tensors} | {path}
        models.append(FoundModel(name, path, sum(file.stat().st_size for file in files)))
    return models


def measure(
    models: Sequence[FoundModel],
    texts: Sequence[str],
    *,
    n_ctx: int,
    max_chunks: int | None = None,
    threads: int | None = None,
    progress: Progress = lambda done, total: None,
) -> QualityReport:
    """Compare the other models with the first one, each in turn. Ctrl-C ends it within a decode too."""
    run = _Run(texts, n_ctx, max_chunks, threads or load_settings().threads or physical_cores(), progress)
    # Python notices Ctrl-C only when no C function holds its main thread, and a decode may hold it for minutes.
    with ThreadPoolExecutor(1, "quality") as pool:
        future = pool.submit(run.compare_all, models)
        try:
            return future.result()
        except BaseException:
            run.stop()
            raise


class _LoadedModel:
    """A model with what is needed to read a text and to score it."""

    def __init__(self, found: FoundModel, n_ctx: int, n_threads: int) -> None:
        self.name = printable(found.name)
        facts = read_model_facts(found.path)
        self._model = Model(found.path)
        try:
            self.n_vocab = self._model.vocab.n_tokens
            self.bos = leading_token(self._model)
            self._codec = TextCodec(facts.metadata, self._model.vocab.encode)
            self._check_context(n_ctx)
            self.scorer = Scorer(self._model, n_ctx, n_threads)
        except BaseException:
            self._model.close()
            raise

    def encode(self, texts: Sequence[str]) -> list[int]:
        """The texts' tokens, one text after the other."""
        return [token for text in texts for token in self._codec.encode(text) if isinstance(token, int)]

    def score(self, chunk: Sequence[int]) -> Logits:
        return self.scorer.logits([chunk], scored_positions(len(chunk)))

    def close(self) -> None:
        self.scorer.close()
        self._model.close()

    def _check_context(self, n_ctx: int) -> None:
        trained = self._model.n_ctx_train
        if 0 < trained < n_ctx:
            raise BadRequest(
                f"{self.name} was trained for {trained} tokens of context, fewer than --chunk {n_ctx}; "
                f"use --chunk {trained} or less"
            )


class _Run:
    """One thread calls `compare_all`, and any may call `stop`."""

    def __init__(
        self, texts: Sequence[str], n_ctx: int, max_chunks: int | None, n_threads: int, progress: Progress
    ) -> None:
        self._texts = texts
        self._n_ctx = n_ctx
        self._max_chunks = max_chunks
        self._n_threads = n_threads
        self._progress = progress
        self._scorers: list[Scorer] = []
        self._stopped = False

    def stop(self) -> None:
        """End `compare_all` with Aborted, in the middle of a computation too."""
        self._stopped = True
        for scorer in list(self._scorers):
            scorer.abort()

    def compare_all(self, models: Sequence[FoundModel]) -> QualityReport:
        with ExitStack() as stack:
            base = self._load(models[0], stack)
            tokens = base.encode(self._texts)
            chunks = cut_chunks(tokens, self._n_ctx, self._max_chunks, base.bos)
            measured = []
            for index, found in enumerate(models[1:]):
                with ExitStack() as inner:
                    quantized = self._load(found, inner)
                    _check_same_reading(base, quantized, tokens, quantized.encode(self._texts))
                    done = partial(self._report, 2 * len(chunks) * index, 2 * len(chunks) * (len(models) - 1))
                    done(0)
                    metrics = compare(base.score, quantized.score, chunks, done)
                    measured.append(MeasuredModel(found.name, found.n_bytes, metrics))
        return QualityReport(models[0].name, models[0].n_bytes, self._n_ctx, len(chunks), tuple(measured))

    def _load(self, found: FoundModel, stack: ExitStack) -> _LoadedModel:
        model = _LoadedModel(found, self._n_ctx, self._n_threads)
        stack.callback(model.close)
        self._scorers.append(model.scorer)
        stack.callback(self._scorers.remove, model.scorer)
        # A stop during the loading found no scorer that it could end.
        if self._stopped:
            raise Aborted("the measurement was stopped")
        return model

    def _report(self, before: int, total: int, done: int) -> None:
        self._progress(before + done, total)


def _check_same_reading(base: _LoadedModel, other: _LoadedModel, tokens: list[int], others: list[int]) -> None:
    """Logits can be compared only where both models mean the same by a token."""
    advice = "a model can be compared only with a quantized version of itself"
    if base.n_vocab != other.n_vocab:
        raise BadRequest(f"{base.name} has {base.n_vocab} tokens and {other.name} has {other.n_vocab}; {advice}")
    if base.bos != other.bos:
        raise BadRequest(f"{base.name} and {other.name} do not begin a text with the same token; {advice}")
    if tokens != others:
        unequal = (i for i, (one, two) in enumerate(zip(tokens, others, strict=False)) if one != two)
        at = next(unequal, min(len(tokens), len(others)))
        raise BadRequest(f"{base.name} and {other.name} read the data differently, from token {at} on; {advice}")
