"""What a model computes for many positions of a text at once, to measure it. Nothing is sampled."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from interns1_local.engine.llama import Batch, Context, EngineError, Model
from interns1_local.engine.native import llama_cpp
from interns1_local.errors import BadRequest

# llama.cpp holds a row of logits for every token of a batch: 75 MiB for a vocabulary of 153,216.
BATCH = 128

Matrix = npt.NDArray[np.float32]
# A text: token ids, and rows [n, n_embd] that stand in the place of tokens.
Parts = Sequence[Sequence[int] | Matrix]


class Scorer:
    """A context of its own on a loaded model. One thread calls it; `abort` may come from any."""

    def __init__(
        self,
        model: Model,
        n_ctx: int,
        n_threads: int,
        n_batch: int = BATCH,
        *,
        exact: bool = False,
        pooled: bool = False,
    ) -> None:
        """`n_ctx` bounds the tokens of one call; they are computed `n_batch` at a time.

        `exact`: nothing is rounded on the way, for comparisons with another implementation: keys and values in
        float32, no flash attention, all of it on the CPU. `pooled`: for models that give one state for a whole text.
        """
        n_batch = min(n_batch, n_ctx)
        kind = _ExactContext if exact else Context
        self._context = kind(model, n_ctx, n_batch, 1, n_threads, "f32" if exact else "f16", n_outputs=n_batch)
        if pooled:
            llama_cpp.llama_set_embeddings(self._context.pointer, True)
        self._n_ctx = n_ctx
        self._model = model
        self._batch = Batch(n_batch)

    @property
    def n_ctx(self) -> int:
        """Tokens of one call at most."""
        return self._n_ctx

    def logits(self, parts: Parts, positions: range | None = None) -> Matrix:
        """float32[len(positions), vocabulary]: what follows each of `positions` (None: all), computed from the start.

        Tokens after the last position are not computed. Raises Aborted after `abort`.
        """
        wanted = range(sum(map(len, parts))) if positions is None else positions
        rows = np.empty((len(wanted), self._model.vocab.n_tokens), np.float32)
        for start, stop in self._compute(parts, wanted):
            for position in range(max(start, wanted.start), stop):
                rows[position - wanted.start] = self._context.logits(position - start)
        return rows

    def state(self, ids: Sequence[int]) -> Matrix:
        """The state [n_embd] that a `pooled` model's own pooling takes from a text."""
        for _ in self._compute([ids], range(len(ids))):
            pass
        pointer = llama_cpp.llama_get_embeddings_seq(self._context.pointer, 0)
        if not pointer:
            raise EngineError("llama.cpp has no state of this text: the file names no pooling")
        width = int(llama_cpp.llama_model_n_embd_out(self._model.pointer))
        return np.ctypeslib.as_array(pointer, shape=(width,)).astype(np.float32)

    def abort(self) -> None:
        """End the computation that is running, and any after it, with Aborted."""
        self._context.abort()

    def close(self) -> None:
        self._context.close()

    def _compute(self, parts: Parts, wanted: range) -> Iterator[tuple[int, int]]:
        """Compute up to the end of `wanted`, which get logits; yields (first position, end) after each batch."""
        total = sum(map(len, parts))
        if wanted.step != 1 or not 0 <= wanted.start < wanted.stop <= total <= self._n_ctx:
            raise BadRequest(
                f"positions {wanted.start} to {wanted.stop} of {total} tokens cannot be scored "
                f"in a context of {self._n_ctx}"
            )
        self._context.remove(0)
        position = 0
        for part in parts:
            vectors = part if isinstance(part, np.ndarray) else None
            for start in range(0, min(len(part), wanted.stop - position), self._batch.capacity):
                piece = part[start : min(start + self._batch.capacity, wanted.stop - position)]
                stop = start + len(piece)
                self._batch.clear()
                self._batch.add(piece if vectors is None else [0] * len(piece), position + start, 0, n_outputs=0)
                self._batch.outputs[max(0, wanted.start - position - start) : len(piece)] = 1
                self._context.decode(self._batch, None if vectors is None else vectors[start:stop])
                yield position + start, position + stop
            position += len(part)


class _ExactContext(Context):
    """Without flash attention, and all of it on the CPU."""

    def _params(self, *args: Any) -> Any:
        params = super()._params(*args)
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.offload_kqv = params.op_offload = False
        return params


def leading_token(model: Model) -> int | None:
    """The token that the model wants at the start of every text, if its vocabulary has one."""
    vocab = llama_cpp.llama_model_get_vocab(model.pointer)
    if not llama_cpp.llama_vocab_get_add_bos(vocab):
        return None
    token = int(llama_cpp.llama_vocab_bos(vocab))
    return token if token >= 0 else None


def version() -> str:
    """llama.cpp's own name for its build."""
    return (llama_cpp.llama_version() or b"").decode(errors="replace")
