"""The logits of many positions of a text at once, to measure a model with. Nothing is sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp

from interns1_local.engine.llama import Batch, Context, Model
from interns1_local.errors import BadRequest

# llama.cpp holds a row of logits for every token of a batch: 75 MiB for a vocabulary of 153,216.
BATCH = 128


class Scorer:
    """A context of its own on a loaded model. One thread calls it; `abort` may come from any."""

    def __init__(self, model: Model, n_ctx: int, n_threads: int, n_batch: int = BATCH) -> None:
        """`n_ctx` bounds the tokens of one call; they are computed `n_batch` at a time."""
        self._model = model
        self._n_ctx = n_ctx
        n_batch = min(n_batch, n_ctx)
        self._context = Context(model, n_ctx, n_batch, n_seq_max=1, n_threads=n_threads, n_outputs=n_batch)
        self._batch = Batch(n_batch)

    def logits(self, tokens: Sequence[int], positions: range) -> npt.NDArray[np.float32]:
        """float32[len(positions), vocabulary]: what follows each of `positions` in `tokens`, computed from the start.

        Tokens after the last position are not computed. Raises Aborted after `abort`.
        """
        if positions.step != 1 or not 0 <= positions.start < positions.stop <= len(tokens) <= self._n_ctx:
            raise BadRequest(
                f"positions {positions.start} to {positions.stop} of {len(tokens)} tokens cannot be scored "
                f"in a context of {self._n_ctx}"
            )
        rows = np.empty((len(positions), self._model.vocab.n_tokens), np.float32)
        self._context.remove(0)
        for start in range(0, positions.stop, self._batch.capacity):
            stop = min(start + self._batch.capacity, positions.stop)
            first = max(start, positions.start)
            self._batch.clear()
            self._batch.add(tokens[start:stop], start, 0, output_last=False)
            self._batch.outputs[first - start : stop - start] = 1
            self._context.decode(self._batch)
            for position in range(first, stop):
                rows[position - positions.start] = self._context.logits(position - start)
        return rows

    def abort(self) -> None:
        """End the computation that is running, and any after it, with Aborted."""
        self._context.abort()

    def close(self) -> None:
        self._context.close()


def leading_token(model: Model) -> int | None:
    """The token that the model wants at the start of every text, if its vocabulary has one."""
    vocab = llama_cpp.llama_model_get_vocab(model.pointer)
    if not llama_cpp.llama_vocab_get_add_bos(vocab):
        return None
    token = int(llama_cpp.llama_vocab_bos(vocab))
    return token if token >= 0 else None
