"""What the slots of the cache hold: shared, forgotten, looked at, as bytes for a file, moved to earlier positions."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from interns1_local.engine.llama import Context, EngineError
from interns1_local.engine.native import llama_cpp
from interns1_local.engine.plan import Cut, Operation, Remove, Share, Store

Bytes = npt.NDArray[np.uint8]


def holds_beginning(context: Context, slot: int, length: int) -> bool:
    """Whether all that is needed after the first `length` positions is there.

    Where layers look back through a window only, llama.cpp reuses cells of keys that lie behind the window of the
    sequence's end: a much shorter beginning of it may lack some.
    """
    window = int(llama_cpp.llama_model_n_swa(context.model.pointer))
    if window <= 0:
        return True
    first = int(llama_cpp.llama_memory_seq_pos_min(llama_cpp.llama_get_memory(context.pointer), slot))
    return 0 <= first <= max(0, length - window)


def apply(context: Context, operations: Iterable[Operation], store: Callable[[Store], None] | None) -> None:
    """Carry out a scheduler's operations in order; `store` writes what is about to leave."""
    for operation in operations:
        if isinstance(operation, Share):
            context.share(operation.source, operation.target, operation.length)
        elif isinstance(operation, Remove):
            context.remove(operation.slot, operation.start)
        elif isinstance(operation, Cut):
            cut(context, operation.slot, operation.start, operation.stop)
        elif store is not None:
            store(operation)


def save(context: Context, slot: int) -> Bytes:
    """The keys and values of `slot`, in llama.cpp's own format. EngineError when there is nothing to save."""
    context.check_sequences([slot])
    size = int(llama_cpp.llama_state_seq_get_size(context.pointer, slot))
    data = np.empty(size, np.uint8)
    written = int(llama_cpp.llama_state_seq_get_data(context.pointer, _pointer(data), size, slot))
    if written != size or context.last_position(slot) < 0:
        raise EngineError(f"the cache of sequence {slot} could not be read")
    return data


def restore(context: Context, slot: int, data: Bytes, length: int) -> None:
    """Give the empty `slot` the `length` positions that `save` wrote. EngineError when llama.cpp refuses; then the
    slot is empty."""
    context.check_sequences([slot])
    data = np.ascontiguousarray(data, np.uint8)
    read = int(llama_cpp.llama_state_seq_set_data(context.pointer, _pointer(data), data.nbytes, slot))
    if read != data.nbytes or context.last_position(slot) != length - 1:
        context.remove(slot)
        raise EngineError(f"llama.cpp refused a stored sequence of {length} tokens")


def can_shift(context: Context) -> bool:
    """Whether the model's positions can be changed after they were computed."""
    return bool(llama_cpp.llama_memory_can_shift(llama_cpp.llama_get_memory(context.pointer)))


def cut(context: Context, slot: int, start: int, stop: int) -> None:
    """Forget positions [start, stop) of `slot`, and let those after it take their place. The cells of those must
    belong to `slot` alone: a cell has one position for all who share it."""
    if not can_shift(context):
        raise EngineError("this model's positions cannot be changed")
    context.remove(slot, start, stop)
    memory = llama_cpp.llama_get_memory(context.pointer)
    llama_cpp.llama_memory_seq_add(memory, slot, stop, -1, start - stop)


def _pointer(data: Bytes) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
