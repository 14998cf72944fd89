"""What each weight matrix is multiplied with while a model reads prompts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from interns1_local.engine.ggml_tensor import F32, I32, GGMLTensor, operations, values
from interns1_local.engine.llama import Batch, Context, EngineError, Model
from interns1_local.engine.multimodal import VisionEncoder
from interns1_local.engine.sequence import Prompt, Tile

Rows = npt.NDArray[np.float32]
Experts = npt.NDArray[np.int32]
# A weight's name, the rows it is multiplied with, and for stacked matrices which of them [rows, k] take each row and
# how many there are. The rows are llama.cpp's own memory: they are gone when the call returns.
Sink = Callable[[str, Rows, Experts | None, int], None]

# The weights of the blocks: all that llama.cpp's own importance matrices are about.
PREFIX = "blk."


class ActivationObserver:
    """For `Context(observer=...)`: shows `sink` the input of every matrix multiplication with a block's weight."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._mul_mat, self._mul_mat_id = operations()

    def __call__(self, address: int, ask: bool) -> bool:
        node = GGMLTensor.from_address(address)
        if ask:
            return self._is_wanted(node)
        self._show(node)
        return True

    def _is_wanted(self, node: GGMLTensor) -> bool:
        if node.op not in (self._mul_mat, self._mul_mat_id):
            return False
        weight, rows = GGMLTensor.from_address(node.src[0]), GGMLTensor.from_address(node.src[1])
        return rows.type == F32 and weight_name(weight.name).startswith(PREFIX)

    def _show(self, node: GGMLTensor) -> None:
        weight = GGMLTensor.from_address(node.src[0])
        name, columns = weight_name(weight.name), int(weight.ne[0])
        rows = values(node.src[1])
        if rows.shape[-1] != columns:
            raise EngineError(f"{name} has {columns} columns and is multiplied with rows of {rows.shape[-1]}")
        if node.op == self._mul_mat:
            self._sink(name, _by_matrix(rows, int(weight.ne[2]), int(weight.ne[3])), None, 1)
            return
        count = int(weight.ne[2])
        chosen = _choices(name, node.src[2], rows, count)
        self._sink(name, rows.reshape(-1, columns), chosen, count)


class PromptReader:
    """Lets a model read prompts, one at a time, each from the beginning of an empty cache.

    Every token counts as an output, because llama.cpp leaves out the last block for those that do not.
    """

    def __init__(
        self, model: Model, vision: VisionEncoder | None, sink: Sink, *, n_ctx: int, n_batch: int, n_threads: int
    ) -> None:
        self._vision = vision
        observer = ActivationObserver(sink)
        self._context = Context(model, n_ctx, n_batch, 1, n_threads, n_outputs=n_batch, observer=observer)
        self._batch = Batch(n_batch)

    def read(self, prompt: Prompt) -> None:
        """Compute `prompt`. Aborted after `abort`; what the sink raises is raised."""
        self._context.remove(0)
        position = 0
        run: list[int] = []
        for part in [*prompt, None]:
            if isinstance(part, int):
                run.append(part)
                continue
            position = self._compute(run, None, position)
            run = []
            if isinstance(part, Tile):
                if self._vision is None:
                    raise EngineError("a tile cannot be read without a vision file (mmproj)")
                position = self._compute([0] * part.n_tokens, self._vision.encode(part), position)

    def abort(self) -> None:
        """Stop the reading that is going on. May be called from anywhere."""
        self._context.abort()

    def close(self) -> None:
        self._context.close()

    def _compute(self, ids: list[int], embeddings: Rows | None, position: int) -> int:
        """Compute ids, or the rows in their place, from `position` on; the position behind them."""
        for start in range(0, len(ids), self._batch.capacity):
            piece = ids[start : start + self._batch.capacity]
            self._batch.clear()
            self._batch.add(piece, position + start, 0, 1)
            self._batch.outputs[: len(piece)] = 1
            rows = None if embeddings is None else embeddings[start : start + len(piece)]
            self._context.decode(self._batch, rows)
        return position + len(ids)


def weight_name(name: bytes) -> str:
    """A weight's name without what a copy on another device adds: CUDA0#blk.0.attn_k.weight#0."""
    text = name.decode("utf-8", "replace")
    return text.split("#")[1] if "#" in text else text


def _by_matrix(rows: Rows, inner: int, outer: int) -> Rows:
    """Rows [n, matrices * columns] for a weight of `outer` x `inner` matrices, which the rows' dimensions repeat."""
    d3, d2, d1, columns = rows.shape
    if d2 % inner or d3 % outer:
        raise EngineError(f"rows of shape {list(rows.shape)} do not fit {outer} x {inner} matrices")
    split = rows.reshape(d3 // outer, outer, d2 // inner, inner, d1, columns)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(-1, outer * inner * columns)


def _choices(name: str, address: int, rows: Rows, count: int) -> Experts:
    """Which experts take each of the rows: [rows, k]. A token's rows take turns among its experts."""
    if GGMLTensor.from_address(address).type != I32:
        raise EngineError(f"the experts chosen for {name} are not whole numbers of 32 bits")
    ids: Experts = values(address)
    _, n_tokens, per_token, _ = rows.shape
    if ids.shape[:2] != (1, 1) or ids.shape[2] != n_tokens or ids.shape[3] % per_token or rows.shape[0] != 1:
        raise EngineError(f"{name}: experts of shape {list(ids.shape)} do not fit rows of shape {list(rows.shape)}")
    if ids.min() < 0 or ids.max() >= count:
        raise EngineError(f"{name} has {count} experts; number {ids.min()} or {ids.max()} was chosen")
    chosen: Experts = ids[0, 0].reshape(n_tokens, -1, per_token).swapaxes(1, 2).reshape(n_tokens * per_token, -1)
    return chosen
