"""Owned handles over llama.cpp's C API. Whatever would abort the process in C is checked here and raised instead."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from interns1_local.engine import native_log
from interns1_local.engine.adapter import Adapters
from interns1_local.engine.attention import attends_exactly, kv_types, tile_rows
from interns1_local.engine.backend import start_backend
from interns1_local.engine.device_shares import DeviceShares
from interns1_local.engine.devices import has_local_gpu
from interns1_local.engine.eval_callback import EvalCallback, Observer
from interns1_local.engine.native import llama_cpp
from interns1_local.engine.offload import AS_IT_COMES, FLASH_ATTENTION, KV_TYPES, Offload, model_params
from interns1_local.engine.sampler_chain import SamplerChain
from interns1_local.engine.sampling import Logits
from interns1_local.errors import BadRequest, InternS1Error, LoadError

MAX_SEQUENCES = 256
MAX_CONTEXT = 2**24
MAX_BLOCKS = 512
_INT32_PTR = ctypes.POINTER(ctypes.c_int32)
_MAX_TEXT = 2**30


class EngineError(InternS1Error):
    """llama.cpp refused a call that should have worked."""


class Aborted(EngineError):
    """A decode was stopped by `Context.abort`; nothing of it is in the cache."""


class CacheFull(EngineError):
    """llama.cpp found no cells for a batch; nothing of it is in the cache."""


class Vocab:
    """A model's vocabulary: text to ids, and what each id is."""

    def __init__(self, model: Model) -> None:
        self._model = model  # keeps the memory alive
        self._pointer = llama_cpp.llama_model_get_vocab(model.pointer)
        self.n_tokens = int(llama_cpp.llama_vocab_n_tokens(self._pointer))

    def encode(self, text: str, parse_special: bool = False) -> list[int]:
        """The base vocabulary's ids of `text`, with no token added around them."""
        data = text.encode("utf-8", "replace")
        if len(data) > _MAX_TEXT:
            raise BadRequest(f"a prompt of {len(data)} bytes is too long")
        room = len(data) + 16
        while True:
            ids = (ctypes.c_int32 * room)()
            count = llama_cpp.llama_tokenize(self._pointer, data, len(data), ids, room, False, parse_special)
            if count >= 0:
                return list(ids[:count])
            room = -count

    def text(self, token: int) -> str:
        """The vocabulary's spelling of `token`."""
        self.check([token])
        return (llama_cpp.llama_vocab_get_text(self._pointer, token) or b"").decode(errors="replace")

    def first_difference(self, other: Vocab) -> int | None:
        """The first id that both vocabularies have and that they spell differently."""
        spell, both = llama_cpp.llama_vocab_get_text, range(min(self.n_tokens, other.n_tokens))
        return next((i for i in both if spell(self._pointer, i) != spell(other._pointer, i)), None)

    @cached_property
    def tokens(self) -> list[str]:
        """All spellings, by id."""
        return [self.text(token) for token in range(self.n_tokens)]

    @cached_property
    def eog_ids(self) -> frozenset[int]:
        """Tokens that end a generation.

        llama.cpp counts every token that is spelled like an end. In a byte-level vocabulary `</s>` is plain text (a
        closing HTML tag), so there it ends nothing unless the file names it as its end token.
        """
        tokens = range(self.n_tokens)
        found = set(compress(tokens, map(partial(llama_cpp.llama_vocab_is_eog, self._pointer), tokens)))
        if llama_cpp.llama_vocab_type(self._pointer) == llama_cpp.LLAMA_VOCAB_TYPE_BPE:
            named = {llama_cpp.llama_vocab_eos(self._pointer), llama_cpp.llama_vocab_eot(self._pointer)}
            found -= {token for token in found - named if self.text(token) == "</s>"}
        return frozenset(found)

    def check(self, ids: Sequence[int]) -> None:
        """BadRequest if one of `ids` is not in the vocabulary."""
        bad = [token for token in ids if not 0 <= token < self.n_tokens]
        if bad:
            raise BadRequest(f"token id {bad[0]} is not in the vocabulary, which has {self.n_tokens} tokens")


class Model:
    """A loaded GGUF file."""

    def __init__(
        self,
        path: Path,
        offload: Offload = AS_IT_COMES,
        on_progress: Callable[[float], None] | None = None,
        adapter_paths: Sequence[Path] = (),
        shares: DeviceShares | None = None,
    ) -> None:
        """`shares` takes the place of the devices of `offload`."""
        start_backend()
        native_log.forget()
        params, kept = model_params(offload)
        self._pointed_to = kept + (shares.put_into(params) if shares else [])
        progress = llama_cpp.llama_progress_callback(lambda value, _: _report(on_progress, value))
        params.progress_callback = progress
        self.pointer = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self.pointer:
            raise LoadError(f"llama.cpp cannot load {path}{native_log.complaints()}")
        self.adapters = Adapters(self.pointer, adapter_paths)
        n_layer = llama_cpp.llama_model_n_layer(self.pointer)
        if not 0 < n_layer <= MAX_BLOCKS:
            raise LoadError(f"{path} says that it has {n_layer} blocks; 1 to {MAX_BLOCKS} are possible")
        self.vocab = Vocab(self)
        self.n_embd = int(llama_cpp.llama_model_n_embd_inp(self.pointer))
        self.n_ctx_train = int(llama_cpp.llama_model_n_ctx_train(self.pointer))
        # Whether the weights are in F32; files that do not say are taken for it.
        self.is_exact = self._metadata("general.file_type") in (None, "0")
        kinds = llama_cpp.llama_model_is_recurrent, llama_cpp.llama_model_is_hybrid
        self.is_recurrent = any(kind(self.pointer) for kind in kinds)

    def _metadata(self, key: str) -> str | None:
        """A short value of the file, as text; None when it has none."""
        text = ctypes.create_string_buffer(64)
        length = llama_cpp.llama_model_meta_val_str(self.pointer, key.encode(), text, len(text))
        return None if length < 0 else text.value.decode(errors="replace")

    def close(self) -> None:
        if self.pointer:
            self.adapters.close()
            llama_cpp.llama_model_free(self.pointer)
            self.pointer = None


class Batch:
    """Memory for one call of decode: tokens or embedding rows, each with its position and sequence."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.tokens = np.zeros(capacity, np.int32)
        self.positions = np.zeros(capacity, np.int32)
        self.sequences = np.zeros(capacity, np.int32)
        self.outputs = np.zeros(capacity, np.int8)
        self._ones = np.ones(capacity, np.int32)
        # A pointer for each row to its own sequence id.
        base = self.sequences.ctypes.data
        self._sequence_pointers = np.arange(base, base + 4 * capacity, 4, dtype=np.uintp)
        # The arrays stay where they are; to make a pointer anew takes longer than to fill one in.
        self._token_pointer = self.tokens.ctypes.data_as(_INT32_PTR)
        self._pointers = {
            "pos": self.positions.ctypes.data_as(_INT32_PTR),
            "n_seq_id": self._ones.ctypes.data_as(_INT32_PTR),
            "seq_id": self._sequence_pointers.ctypes.data_as(ctypes.POINTER(_INT32_PTR)),
            "logits": self.outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8)),
        }
        self._of_tokens = llama_cpp.llama_batch(token=self._token_pointer, embd=None, **self._pointers)
        self.count = 0

    def clear(self) -> None:
        self.count = 0

    def add(self, tokens: Sequence[int] | npt.NDArray[Any], first_position: int, sequence: int, n_outputs: int) -> int:
        """Append tokens at consecutive positions, the last `n_outputs` to have logits; the last one's batch index."""
        start, stop = self.count, self.count + len(tokens)
        if stop > self.capacity or start == stop:
            raise EngineError(f"a batch of {self.capacity} tokens cannot take {len(tokens)} more than {start}")
        self.count = stop
        self.sequences[start:stop] = sequence
        if len(tokens) == 1:
            # The step of a decode: slices and ranges of one cost more than all else here.
            self.tokens[start], self.positions[start] = tokens[0], first_position
            self.outputs[start] = n_outputs > 0
            return start
        self.tokens[start:stop] = tokens
        self.positions[start:stop] = np.arange(first_position, first_position + len(tokens))
        self.outputs[start:stop] = 0
        self.outputs[stop - min(n_outputs, len(tokens)) : stop] = 1
        return stop - 1

    def output_rows(self) -> list[int]:
        """The batch indices that are to have logits."""
        return [index for index, wanted in enumerate(self.outputs[: self.count].tolist()) if wanted]

    def native(self, embeddings: npt.NDArray[np.float32] | None = None) -> Any:
        """The C struct; with `embeddings` these rows take the place of the tokens."""
        if embeddings is None:
            self._of_tokens.n_tokens = self.count
            return self._of_tokens
        rows = embeddings.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        return llama_cpp.llama_batch(n_tokens=self.count, token=None, embd=rows, **self._pointers)


class Context:
    """The cache and the compute buffers of a model. One thread calls it; `abort` may come from any."""

    def __init__(
        self,
        model: Model,
        n_ctx: int,
        n_batch: int,
        n_seq_max: int,
        n_threads: int,
        kv_type: str = "f16",
        *,
        n_outputs: int = 0,
        observer: Observer | None = None,
        rope_freq_base: float = 0.0,
        flash_attention: str = "auto",
    ) -> None:
        """`n_outputs` tokens of a batch may have logits (0: one a sequence); `observer` sees each computed node.

        `rope_freq_base` takes the place of the file's rotary base, unless it is 0.
        """
        if not set(kv_types(kv_type)) <= set(KV_TYPES):
            raise BadRequest(f"kv_cache_type {kv_type!r} is not one of {', '.join(KV_TYPES)}")
        if not (0 < n_ctx <= MAX_CONTEXT and 0 < n_seq_max <= MAX_SEQUENCES and n_seq_max <= n_batch <= n_ctx):
            raise BadRequest(
                f"a context of {n_ctx} tokens, batches of {n_batch} and {n_seq_max} sequences do not go together"
            )
        if n_outputs and not n_seq_max <= n_outputs <= n_batch:
            raise BadRequest(f"{n_outputs} outputs do not fit {n_seq_max} sequences and batches of {n_batch} tokens")
        self.model = model
        self.n_seq_max = n_seq_max
        self.n_batch = n_batch
        # One output a sequence where no more are needed: the buffer for them is a few rows and not a whole batch.
        self.n_outputs = n_outputs or n_seq_max
        self._rope_freq_base = rope_freq_base
        self._flash_attention = flash_attention
        self._eval_callback = None if observer is None else EvalCallback(observer, self.abort)
        # libc's strlen is the abort test: the buffer's first byte being non-zero stops a decode, with no Python in it.
        self._abort_byte = ctypes.create_string_buffer(2)
        native_log.forget()
        self.pointer = llama_cpp.llama_init_from_model(
            model.pointer, self._params(n_ctx, n_batch, n_seq_max, n_threads, kv_type)
        )
        if not self.pointer:
            raise LoadError(f"no context of {n_ctx} tokens can be made{native_log.complaints()}")
        self._root = b""
        self.adapt(model.adapters.first)
        self.n_ctx = int(llama_cpp.llama_n_ctx(self.pointer))
        self._memory = llama_cpp.llama_get_memory(self.pointer)
        self._outputs: frozenset[int] = frozenset()

    def _params(self, n_ctx: int, n_batch: int, n_seq_max: int, n_threads: int, kv_type: str) -> Any:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx
        # One call is one unit of work: it happens whole or not at all.
        params.n_batch = params.n_ubatch = n_batch
        params.n_seq_max = n_seq_max
        # More than one of a sequence, or samplers of the graph would use up random numbers in calls that are aborted.
        params.n_outputs_max = params.n_outputs_max_per_seq = self.n_outputs
        params.n_threads = params.n_threads_batch = max(1, n_threads)
        params.type_k, params.type_v = (KV_TYPES[kind] for kind in kv_types(kv_type))
        params.kv_unified = True
        params.rope_freq_base = self._rope_freq_base
        params.flash_attn_type = FLASH_ATTENTION[self._flash_attention]
        n_heads = int(llama_cpp.llama_model_n_head(self.model.pointer))
        exact = attends_exactly(self.model.is_exact, kv_type, n_ctx, n_batch, n_heads)
        if self._flash_attention == "auto" and exact and not has_local_gpu():
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        flash = params.flash_attn_type != llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        # From so many rows on, decodes and prompts had better not share a call; 0: they always may.
        self.tile_rows = tile_rows(kv_type) if flash and not has_local_gpu() else 0
        # Shared prefixes need the keys that a sliding window would have thrown away.
        params.swa_full = True
        params.no_perf = True
        params.abort_callback = ctypes.cast(ctypes.CDLL(None).strlen, llama_cpp.ggml_abort_callback)
        params.abort_callback_data = ctypes.cast(self._abort_byte, ctypes.c_void_p)
        if self._eval_callback is not None:
            params.cb_eval = self._eval_callback.native
        return params

    def adapt(self, root: bytes) -> None:
        """Let what is computed from now on have the adapter of `root`, see adapter."""
        if root != self._root:
            self.model.adapters.apply(self.pointer, root)
            self._root = root

    def decode(self, batch: Batch, embeddings: npt.NDArray[np.float32] | None = None) -> None:
        """Compute `batch`. Aborted and CacheFull leave the cache as it was; an observer's error does not."""
        count, rows = batch.count, batch.output_rows()
        if not 0 < count <= self.n_batch or len(rows) > self.n_outputs:
            raise EngineError(f"a batch of {count} tokens with {len(rows)} outputs is outside this context's limits")
        # As lists: for the one row of a decode numpy takes longer to call than Python to look.
        self.check_sequences(batch.sequences[:count].tolist())
        if embeddings is None:
            self.model.vocab.check(batch.tokens[:count].tolist())
        elif embeddings.shape != (count, self.model.n_embd) or embeddings.dtype != np.float32:
            raise EngineError(f"embeddings of shape {embeddings.shape} do not fit {count} x {self.model.n_embd}")
        elif not embeddings.flags.c_contiguous:
            embeddings = np.ascontiguousarray(embeddings)
        self._outputs = frozenset()
        native_log.forget()
        code = llama_cpp.llama_decode(self.pointer, batch.native(embeddings))
        if self._eval_callback is not None and (error := self._eval_callback.take_error()):
            self.abort(False)
            raise error
        if code == 2:
            raise Aborted("the computation was stopped")
        if code == 1:
            raise CacheFull(f"no room for {count} tokens in a cache of {self.n_ctx}")
        if code != 0:
            raise EngineError(f"llama.cpp could not compute a batch (code {code}){native_log.complaints()}")
        self._outputs = frozenset(rows)

    def logits(self, index: int) -> Logits:
        """The row of logits of batch index `index`: llama.cpp's own memory, writable, valid until the next decode."""
        self._check_output(index)
        pointer = llama_cpp.llama_get_logits_ith(self.pointer, index)
        if not pointer:
            raise EngineError(f"llama.cpp has no logits at {index}")
        address = ctypes.addressof(pointer.contents)
        return np.ctypeslib.as_array((ctypes.c_float * self.model.vocab.n_tokens).from_address(address))

    def sample(self, chain: SamplerChain, index: int) -> int:
        """Let `chain` choose from the logits of batch index `index`."""
        self._check_output(index)
        return int(llama_cpp.llama_sampler_sample(chain.pointer, self.pointer, index))

    def abort(self, wanted: bool = True) -> None:
        """Stop the decode that is running, and any after it until `abort(False)`."""
        self._abort_byte[0] = b"\x01" if wanted else b"\x00"

    def remove(self, sequence: int, start: int = 0, stop: int = -1) -> bool:
        """Forget positions [start, stop) of `sequence`; -1 is its end. False when the model's memory cannot."""
        self.check_sequences([sequence])
        return bool(llama_cpp.llama_memory_seq_rm(self._memory, sequence, start, stop))

    def share(self, source: int, target: int, stop: int) -> None:
        """Let `target` have the first `stop` positions of `source` too, without a copy."""
        self.check_sequences([source, target])
        if source != target and stop > 0:
            llama_cpp.llama_memory_seq_cp(self._memory, source, target, 0, stop)

    def last_position(self, sequence: int) -> int:
        """The last position of `sequence` in the cache, -1 when it has none."""
        self.check_sequences([sequence])
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence))

    def close(self) -> None:
        if self.pointer:
            llama_cpp.llama_free(self.pointer)
            self.pointer = None

    def check_sequences(self, sequences: Sequence[int]) -> None:
        """EngineError unless all are sequence numbers of this context: C would end the process."""
        if min(sequences) < 0 or max(sequences) >= self.n_seq_max:
            raise EngineError(f"there is no sequence {min(sequences)} or {max(sequences)} among {self.n_seq_max}")

    def _check_output(self, index: int) -> None:
        if index not in self._outputs:
            raise EngineError(f"batch index {index} has no logits")


def _report(on_progress: Callable[[float], None] | None, value: float) -> bool:
    if on_progress is not None:
        on_progress(value)
    return True
