"""What llama.cpp computes when nothing is rounded on the way: for comparisons, not for speed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from llama_cpp import llama_cpp

from interns1_local.engine.llama import Batch, Context, EngineError, Model
from interns1_local.errors import BadRequest

# llama.cpp holds a row of logits for every token of a batch: 75 MiB for a vocabulary of 153,216.
BATCH = 128

Matrix = npt.NDArray[np.float32]
Parts = Sequence[Sequence[int] | Matrix]


class ExactContext(Context):
    """One sequence, with keys and values in float32, without flash attention, and all of it on the CPU."""

    def __init__(self, model: Model, n_ctx: int, n_threads: int, *, pooled: bool = False) -> None:
        """`pooled`: for models that give one state for a whole text, instead of logits."""
        self._pooled = pooled
        n_batch = min(BATCH, n_ctx)
        super().__init__(model, n_ctx, n_batch, 1, n_threads, "f32", n_outputs=n_batch)

    def all_logits(self, parts: Parts) -> Matrix:
        """float32 [positions, vocabulary] for token ids and embedding rows [n, n_embd], one part after the other."""
        rows = np.empty((sum(map(len, parts)), self.model.vocab.n_tokens), np.float32)
        for start, count in self._decode(parts):
            for index in range(count):
                rows[start + index] = self.logits(index)
        return rows

    def state(self, ids: Sequence[int]) -> npt.NDArray[np.float32]:
        """The state [n_embd] that the model's own pooling takes from a text."""
        for _ in self._decode([ids]):
            pass
        pointer = llama_cpp.llama_get_embeddings_seq(self.pointer, 0)
        if not pointer:
            raise EngineError("llama.cpp has no state of this text: the file names no pooling")
        width = int(llama_cpp.llama_model_n_embd_out(self.model.pointer))
        return np.ctypeslib.as_array(pointer, shape=(width,)).astype(np.float32)

    def _params(self, *args: Any) -> Any:
        params = super()._params(*args)
        params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.offload_kqv = params.op_offload = False
        params.embeddings = self._pooled
        return params

    def _decode(self, parts: Parts) -> Iterator[tuple[int, int]]:
        """Compute the parts from position 0; yields (first position, count) after each batch."""
        total = sum(map(len, parts))
        if not 0 < total <= self.n_ctx:
            raise BadRequest(f"{total} tokens do not fit a context of {self.n_ctx}")
        self.remove(0)
        batch = Batch(self.n_batch)
        position = 0
        for part in parts:
            rows = part if isinstance(part, np.ndarray) else None
            for start in range(0, len(part), self.n_batch):
                piece = part[start : start + self.n_batch]
                batch.clear()
                batch.add([0] * len(piece) if rows is not None else piece, position, 0, output_last=True)
                batch.outputs[: len(piece)] = 1
                self.decode(batch, None if rows is None else rows[start : start + self.n_batch])
                yield position, len(piece)
                position += len(piece)


def version() -> str:
    """llama.cpp's own name for its build."""
    return (llama_cpp.llama_version() or b"").decode(errors="replace")
