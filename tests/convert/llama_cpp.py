"""A model in llama.cpp: logits, pooled embeddings and token ids, for comparison with references."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np

from tests.tiny import quiet_llama_cpp


class Llama:
    """A model in llama.cpp, freed at the end of the block."""

    def __init__(self, path: Path) -> None:
        self.api = quiet_llama_cpp()
        self.model = self.api.llama_model_load_from_file(str(path).encode(), self.api.llama_model_default_params())
        assert self.model, f"llama.cpp cannot load {path}"

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *_: object) -> None:
        self.api.llama_model_free(self.model)

    def logits(self, ids: list[int]) -> np.ndarray:
        """The logits at every position."""
        n_vocab = self.api.llama_vocab_n_tokens(self.vocab)
        context = self._decode(ids)
        rows = [np.ctypeslib.as_array(self.api.llama_get_logits_ith(context, i), (n_vocab,)) for i in range(len(ids))]
        out = np.stack(rows).copy()
        self.api.llama_free(context)
        return out

    def pooled(self, ids: list[int]) -> np.ndarray:
        """The embedding that the model's own pooling gives."""
        context = self._decode(ids, embeddings=True)
        size = self.api.llama_model_n_embd(self.model)
        out = np.ctypeslib.as_array(self.api.llama_get_embeddings_seq(context, 0), (size,)).copy()
        self.api.llama_free(context)
        return out

    @property
    def vocab(self) -> Any:
        return self.api.llama_model_get_vocab(self.model)

    def tokenize(self, text: str, special: bool = False) -> list[int]:
        data = text.encode()
        out = (self.api.llama_token * (len(data) + 16))()
        n = self.api.llama_tokenize(self.vocab, data, len(data), out, len(out), False, special)
        assert n >= 0
        return list(out[:n])

    def piece(self, id: int) -> bytes:
        out = ctypes.create_string_buffer(64)
        n = self.api.llama_token_to_piece(self.vocab, id, out, 64, 0, False)
        return out.raw[:n]

    def is_end(self, id: int) -> bool:
        return bool(self.api.llama_vocab_is_eog(self.vocab, id))

    def _decode(self, ids: list[int], embeddings: bool = False) -> Any:
        params = self.api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 64, 64, 1, 1
        params.type_k = params.type_v = 0  # F32, so that the cache rounds nothing
        params.flash_attn_type = 0
        params.embeddings = embeddings
        context = self.api.llama_init_from_model(self.model, params)
        batch = self.api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, id in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = id, i, 1, 1
            batch.seq_id[i][0] = 0
        assert self.api.llama_decode(context, batch) == 0
        self.api.llama_batch_free(batch)
        return context
