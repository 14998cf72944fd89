"""One vector for a whole text: embeddings, and the states that reward models score."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from interns1_local.engine.llama import Batch, Context, EngineError, Model
from interns1_local.engine.native import llama_cpp
from interns1_local.errors import BadRequest, Unsupported

MAX_SEQUENCES_AT_ONCE = 16
# llama.cpp computes the logits of every token that it pools: with Intern-S1's vocabulary 1.2 MB for each.
TOKENS_AT_ONCE = 256
SMALLEST_CONTEXT = 1024
# Of models whose tokens look ahead: such a text is computed in one call.
LARGEST_CALL = 8192
# Architectures whose tokens see only what comes before them.
_CAUSAL = frozenset({"qwen3", "qwen3moe", "qwen2", "qwen2moe", "llama", "internlm2"})

_POOLINGS = {
    "1": llama_cpp.LLAMA_POOLING_TYPE_MEAN,
    "2": llama_cpp.LLAMA_POOLING_TYPE_CLS,
    "3": llama_cpp.LLAMA_POOLING_TYPE_LAST,
}

Vectors = npt.NDArray[np.float32]
# (which text of the group, first token, token after the last)
Piece = tuple[int, int, int]


class Pooler:
    """A context of its own on a loaded model, beside the one that answers. One thread calls it.

    The pooling is the file's (`*.pooling_type`); a model that names none gives the state of its last token. The
    context is made at the first call and made anew when a longer text comes, so that short texts cost little memory.
    """

    def __init__(
        self, model: Model, n_ctx: int, n_threads: int, kv_type: str = "f16", rope_freq_base: float = 0.0
    ) -> None:
        self._pooling = _pooling_type(model)
        self._cuts = _metadata(model, "general.architecture") in _CAUSAL and not _looks_ahead(model)
        self.n_ctx = n_ctx if self._cuts else min(n_ctx, LARGEST_CALL)
        self._model = model
        self._settings = n_threads, kv_type, rope_freq_base
        self._context: _PoolingContext | None = None
        self._batch = Batch(1)
        self._width = int(llama_cpp.llama_model_n_embd_out(model.pointer))
        self._root = model.adapters.first

    def adapt(self, root: bytes) -> None:
        """Let the texts of later calls have the adapter of `root`, see adapter."""
        self._root = root

    def states(self, texts: Sequence[Sequence[int]]) -> Vectors:
        """float32[len(texts), n_embd] of token ids, each text on its own; not normalised."""
        for ids in texts:
            if not 0 < len(ids) <= self.n_ctx:
                raise BadRequest(f"a text of {len(ids)} tokens cannot be pooled: 1 to {self.n_ctx} are possible")
            self._model.vocab.check(ids)
        vectors = np.zeros((len(texts), self._width), np.float32)
        context = self._context_for(max(map(len, texts), default=0))
        group: list[int] = []
        room = context.n_ctx
        for index, ids in enumerate(texts):
            if len(ids) > room or len(group) == MAX_SEQUENCES_AT_ONCE:
                self._compute(context, texts, group, vectors)
                group, room = [], context.n_ctx
            group.append(index)
            room -= len(ids)
        self._compute(context, texts, group, vectors)
        if not np.isfinite(vectors).all():
            raise EngineError("the model's output is not a number: the file may be damaged, or its type too coarse")
        return vectors

    def close(self) -> None:
        if self._context is not None:
            self._context.close()
            self._context = None

    def _context_for(self, longest: int) -> _PoolingContext:
        if self._context is None or longest > self._context.n_ctx:
            self.close()
            size = min(self.n_ctx, max(SMALLEST_CONTEXT, 1 << max(0, longest - 1).bit_length()))
            size = max(size, MAX_SEQUENCES_AT_ONCE)
            n_batch = min(size, TOKENS_AT_ONCE) if self._cuts else size
            n_threads, kv_type, rope_freq_base = self._settings
            self._context = _PoolingContext(
                self._model, size, n_batch, self._pooling, n_threads, kv_type, rope_freq_base
            )
            self._batch = Batch(n_batch)
        self._context.adapt(self._root)
        return self._context

    def _compute(
        self, context: _PoolingContext, texts: Sequence[Sequence[int]], group: Sequence[int], vectors: Vectors
    ) -> None:
        """Pool the texts of `group`, one sequence each; together they fit in the context."""
        for sequence in range(len(group)):
            context.remove(sequence)
        for pieces in _calls([len(texts[index]) for index in group], self._batch.capacity):
            self._batch.clear()
            for sequence, start, stop in pieces:
                self._batch.add(texts[group[sequence]][start:stop], start, sequence, n_outputs=1)
            self._batch.outputs[: self._batch.count] = 1
            context.decode(self._batch)
            for sequence, start, stop in pieces:
                index = group[sequence]
                self._pool(context.pooled(sequence, self._width), start, stop, len(texts[index]), vectors[index])
        for sequence in range(len(group)):
            context.remove(sequence)

    def _pool(self, piece: Vectors, start: int, stop: int, length: int, vector: Vectors) -> None:
        """llama.cpp pools what is in one call; this puts the pieces of a text together."""
        if self._pooling == llama_cpp.LLAMA_POOLING_TYPE_MEAN:
            vector += piece * ((stop - start) / length)
        elif self._pooling == llama_cpp.LLAMA_POOLING_TYPE_LAST or start == 0:
            vector[:] = piece


class _PoolingContext(Context):
    def __init__(
        self,
        model: Model,
        n_ctx: int,
        n_batch: int,
        pooling: int,
        n_threads: int,
        kv_type: str,
        rope_freq_base: float,
    ) -> None:
        self._pooling = pooling
        super().__init__(
            model,
            n_ctx,
            n_batch,
            MAX_SEQUENCES_AT_ONCE,
            n_threads,
            kv_type,
            n_outputs=n_batch,
            rope_freq_base=rope_freq_base,
        )

    def pooled(self, sequence: int, width: int) -> Vectors:
        """The vector of what the last call had of `sequence`: llama.cpp's own memory, valid until the next call."""
        pointer = llama_cpp.llama_get_embeddings_seq(self.pointer, sequence)
        if not pointer:
            raise EngineError("llama.cpp gives no vector for a whole text of this model")
        return np.ctypeslib.as_array(pointer, shape=(width,))

    def _params(self, *args: Any) -> Any:
        params = super()._params(*args)
        params.embeddings = True
        params.pooling_type = self._pooling
        return params


def framing_tokens(model: Model) -> tuple[list[int], list[int]]:
    """What the vocabulary wants before and after a text that is to be one vector."""
    vocab = llama_cpp.llama_model_get_vocab(model.pointer)
    before = llama_cpp.llama_vocab_bos(vocab) if llama_cpp.llama_vocab_get_add_bos(vocab) else -1
    after = -1
    if llama_cpp.llama_vocab_get_add_sep(vocab):
        after = llama_cpp.llama_vocab_sep(vocab)
    elif llama_cpp.llama_vocab_get_add_eos(vocab):
        after = llama_cpp.llama_vocab_eos(vocab)
    return [before] * (before >= 0), [after] * (after >= 0)


def _calls(lengths: Sequence[int], capacity: int) -> Iterator[list[Piece]]:
    """Texts of these lengths, cut so that every call but the last has `capacity` tokens."""
    pieces: list[Piece] = []
    room = capacity
    for text, length in enumerate(lengths):
        start = 0
        while start < length:
            stop = min(length, start + room)
            pieces.append((text, start, stop))
            room -= stop - start
            start = stop
            if room == 0:
                yield pieces
                pieces, room = [], capacity
    if pieces:
        yield pieces


def _pooling_type(model: Model) -> int:
    """How the file says that a text becomes one vector."""
    value = _metadata(model, f"{_metadata(model, 'general.architecture')}.pooling_type")
    if value in (None, "0", "-1", "4294967295"):
        return int(llama_cpp.LLAMA_POOLING_TYPE_LAST)
    if value not in _POOLINGS:
        raise Unsupported(
            f"the file's pooling_type is {value}; 1 (mean), 2 (first token) and 3 (last token) give vectors. "
            "Rerank with an embedding model or a reward model"
        )
    return int(_POOLINGS[value])


def _looks_ahead(model: Model) -> bool:
    return _metadata(model, f"{_metadata(model, 'general.architecture')}.attention.causal") == "false"


def _metadata(model: Model, key: str) -> str | None:
    value = ctypes.create_string_buffer(128)
    size = llama_cpp.llama_model_meta_val_str(model.pointer, key.encode(), value, len(value))
    return None if size < 0 else value.value.decode(errors="replace")
