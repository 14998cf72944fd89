"""Reading ggml's tensors in memory: the C struct, the proof that this ggml uses it, and values as numpy arrays."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from interns1_local.engine.llama import EngineError
from interns1_local.engine.native import llama_cpp

F32, I32 = llama_cpp.GGML_TYPE_F32, llama_cpp.GGML_TYPE_I32
_DTYPES: dict[int, npt.DTypeLike] = {F32: np.float32, I32: np.int32}
_MAX_OP = 255
_PROBE_BYTES = 2**16


class GGMLTensor(ctypes.Structure):
    """ggml_tensor of the ggml in llama-cpp-python 0.3.36. Sizes `ne` and strides `nb` are innermost first."""

    _fields_: ClassVar[Any] = [
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    ]


class _InitParams(ctypes.Structure):
    _fields_: ClassVar[Any] = [
        ("mem_size", ctypes.c_size_t),
        ("mem_buffer", ctypes.c_void_p),
        ("no_alloc", ctypes.c_bool),
    ]


@functools.cache
def library() -> Any:
    """libggml-base, as libllama itself has loaded it: a second copy would have a state of its own."""
    # Symbols of the libraries that libllama depends on are found through it, except on Windows.
    found: Any = ctypes.CDLL("ggml-base.dll") if sys.platform == "win32" else llama_cpp._lib
    pointer, size, shape = ctypes.c_void_p, ctypes.c_size_t, [ctypes.c_int64]
    for name, result, arguments in (
        ("ggml_init", pointer, [_InitParams]),
        ("ggml_free", None, [pointer]),
        ("ggml_tensor_overhead", size, []),
        ("ggml_new_tensor_2d", pointer, [pointer, ctypes.c_int, *shape * 2]),
        ("ggml_new_tensor_3d", pointer, [pointer, ctypes.c_int, *shape * 3]),
        ("ggml_set_name", pointer, [pointer, ctypes.c_char_p]),
        ("ggml_mul_mat", pointer, [pointer] * 3),
        ("ggml_mul_mat_id", pointer, [pointer] * 4),
        ("ggml_get_data", pointer, [pointer]),
        ("ggml_nbytes", size, [pointer]),
        ("ggml_backend_buffer_is_host", ctypes.c_bool, [pointer]),
        ("ggml_backend_tensor_get", None, [pointer, pointer, size, size]),
    ):
        try:
            function = getattr(found, name)
        except AttributeError:
            raise _unknown_layout(f"it has no function {name}") from None
        function.restype, function.argtypes = result, arguments
    return found


def operations(struct: type[Any] = GGMLTensor) -> tuple[int, int]:
    """This ggml's numbers for MUL_MAT and MUL_MAT_ID. EngineError if its tensors do not have the layout of `struct`.

    ggml itself makes tensors whose every field is known; nothing is computed.
    """
    with _probe_context() as context:
        ggml = library()
        if ctypes.sizeof(struct) > ggml.ggml_tensor_overhead():
            raise _unknown_layout(f"a tensor takes less than {ctypes.sizeof(struct)} bytes")
        matrix = ggml.ggml_new_tensor_2d(context, F32, 32, 6)
        experts = ggml.ggml_new_tensor_3d(context, F32, 32, 6, 4)
        rows = ggml.ggml_new_tensor_3d(context, F32, 32, 2, 5)
        chosen = ggml.ggml_new_tensor_2d(context, I32, 2, 5)
        product = ggml.ggml_mul_mat(context, matrix, rows)
        routed = ggml.ggml_mul_mat_id(context, experts, rows, chosen)
        names = {address: b"probe %d " % index + b"x" * 50 for index, address in enumerate((matrix, experts, chosen))}
        for address, name in names.items():
            ggml.ggml_set_name(address, name)
        for address, type, shape, sources in (
            (matrix, F32, (32, 6, 1, 1), ()),
            (experts, F32, (32, 6, 4, 1), ()),
            (chosen, I32, (2, 5, 1, 1), ()),
            (product, F32, (6, 2, 5, 1), (matrix, rows)),
            (routed, F32, (6, 2, 5, 1), (experts, rows, chosen)),
        ):
            _check(struct.from_address(address), address, type, shape, sources, names.get(address))
        plain, indirect = struct.from_address(product).op, struct.from_address(routed).op
        if struct.from_address(matrix).op != 0 or not 0 < plain != indirect > 0 or max(plain, indirect) > _MAX_OP:
            raise _unknown_layout("op is not where it was")
        return plain, indirect


def values(address: int) -> npt.NDArray[Any]:
    """An F32 or I32 tensor, outermost dimension first. On host memory it is a view that lives as long as the node."""
    tensor = GGMLTensor.from_address(address)
    if tensor.type not in _DTYPES:
        raise EngineError(f"a tensor of ggml's type {tensor.type} was met where numbers of 32 bits were expected")
    size = library().ggml_nbytes(address)
    if tensor.buffer and tensor.data and library().ggml_backend_buffer_is_host(tensor.buffer):
        memory = (ctypes.c_char * size).from_address(tensor.data)
    else:
        memory = (ctypes.c_char * size)()
        library().ggml_backend_tensor_get(address, memory, 0, size)
    shape, strides = tuple(reversed(tensor.ne)), tuple(reversed(tensor.nb))
    return np.ndarray(shape, _DTYPES[tensor.type], memory, 0, strides)


@contextmanager
def _probe_context() -> Iterator[int]:
    context = library().ggml_init(_InitParams(_PROBE_BYTES, None, False))
    if not context:
        raise EngineError("ggml has no memory for a few tensors")
    try:
        yield context
    finally:
        library().ggml_free(context)


def _check(
    tensor: Any, address: int, type: int, shape: tuple[int, ...], sources: tuple[int, ...], name: bytes | None
) -> None:
    strides = [4]
    for length in shape[:-1]:
        strides.append(strides[-1] * length)
    expected = {
        "type": (tensor.type, type),
        "buffer": (tensor.buffer, None),
        "ne": (tuple(tensor.ne), shape),
        "nb": (list(tensor.nb), strides),
        "src": (list(tensor.src), [*sources, *[None] * (10 - len(sources))]),
        "view_src": (tensor.view_src, None),
        "data": (tensor.data, library().ggml_get_data(address)),
        "name": (tensor.name if name else None, name),
    }
    for field, (found, wanted) in expected.items():
        if found != wanted:
            raise _unknown_layout(f"{field} is not where it was")


def _unknown_layout(what: str) -> EngineError:
    return EngineError(
        f"the ggml of the llama-cpp-python that is installed has tensors of another layout than known here: {what}; "
        "install the version that interns1-local asks for (pip install --force-reinstall interns1-local)"
    )
