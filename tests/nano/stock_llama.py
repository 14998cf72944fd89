"""Stock llama.cpp, called directly: logits at every position of a prompt made of token ids and embeddings."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp
import numpy as np

from interns1_local.engine import native_log

llama_cpp.llama_backend_init()
native_log.capture()


class StockModel:
    """A GGUF file opened by llama.cpp with its defaults, on the CPU, with one thread."""

    def __init__(self, path: Path, n_ctx: int = 2048) -> None:
        parameters = llama_cpp.llama_model_default_params()
        parameters.n_gpu_layers = 0
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self.model, f"llama.cpp does not load {path}"
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = context.n_batch = context.n_ubatch = n_ctx
        context.n_threads = context.n_threads_batch = 1
        # The reference keeps its keys and values in float32.
        context.type_k = context.type_v = llama_cpp.GGML_TYPE_F32
        # Flash attention on the CPU sums in another order; near a tie between experts that chooses another one.
        context.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.context = llama_cpp.llama_init_from_model(self.model, context)
        assert self.context
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(vocab)
        self.n_embd = llama_cpp.llama_model_n_embd(self.model)

    def logits(self, parts: list[list[int] | np.ndarray]) -> np.ndarray:
        """Logits [positions, vocabulary] of token lists and embedding matrices [n, n_embd] one after the other."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        rows: list[np.ndarray] = []
        position = 0
        for part in parts:
            embeddings = isinstance(part, np.ndarray)
            count = len(part)
            batch = llama_cpp.llama_batch_init(count, self.n_embd if embeddings else 0, 1)
            batch.n_tokens = count
            for i in range(count):
                if not embeddings:
                    batch.token[i] = part[i]
                batch.pos[i] = position + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = 0
                batch.logits[i] = 1
            if embeddings:
                flat = np.ascontiguousarray(part, dtype=np.float32)
                ctypes.memmove(batch.embd, flat.ctypes.data, flat.nbytes)
            assert llama_cpp.llama_decode(self.context, batch) == 0
            pointer = llama_cpp.llama_get_logits(self.context)
            rows.append(np.ctypeslib.as_array(pointer, shape=(count, self.n_vocab)).copy())
            llama_cpp.llama_batch_free(batch)
            position += count
        return np.concatenate(rows)

    def close(self) -> None:
        llama_cpp.llama_free(self.context)
        llama_cpp.llama_model_free(self.model)


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of `a` [n, d] with the same row of `b`."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    return (a * b).sum(-1) / (np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1))
