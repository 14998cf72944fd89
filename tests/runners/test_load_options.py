"""Load options: what is refused before C sees it, and which change needs no new worker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from interns1_local.errors import BadRequest
from interns1_local.runners.load_options import LoadOptions, kv_types


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_ctx": "8k"}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": True}, 'option "num_ctx" must be of type integer'),
        ({"num_ctx": float("nan")}, "type integer"),
        ({"num_ctx": float("inf")}, "type integer"),
        ({"num_ctx": 0}, "at least 1"),
        ({"num_ctx": 2**31}, "at most"),
        ({"num_batch": 2**21}, "at most"),
        ({"num_gpu": -2}, "at least -1"),
        ({"n_cpu_moe": -1}, "at least 0"),
        ({"main_gpu": 500}, "at most 127"),
        ({"kv_cache_type": 3}, "string"),
        ({"kv_cache_type": "q3_k"}, "one of f32, f16, bf16, q8_0"),
        ({"kv_cache_type": "f16/q9"}, "KEYS/VALUES"),
        ({"kv_cache_type": "q8_0", "flash_attention": "off"}, "need flash attention"),
        ({"kv_cache_type": "f16/q4_0", "flash_attention": False}, "need flash attention"),
        ({"flash_attention": "maybe"}, "one of auto, on, off"),
        ({"backend_sampling": 1.5}, "of type string"),
        ({"use_mmap": 1}, "boolean"),
        ({"use_mlock": "yes"}, "boolean"),
        ({"numa": "everywhere"}, "distribute, isolate, numactl"),
        ({"split_mode": "tensor"}, "none, layer, row"),
        ({"tensor_split": [0, 0]}, "not all 0"),
        ({"tensor_split": "a,b"}, "list of numbers"),
        ({"tensor_split": [1, -1]}, "0 or more"),
        ({"tensor_split": [float("nan")]}, "0 or more"),
        ({"tensor_split": [1.0] * 200}, "1 to 128"),
        ({"override_tensor": 3}, "list of"),
        ({"override_tensor": ["exps"]}, "not REGEX=DEVICE"),
        ({"override_tensor": ["=CPU"]}, "not REGEX=DEVICE"),
        ({"override_tensor": ["(=CPU"]}, "no regular expression"),
        ({"override_tensor": ["(a+)+b=CPU"]}, "too complex"),
        ({"override_tensor": ["(?=x)=CPU"]}, "too complex"),
        ({"override_tensor": ["a" * 300 + "=CPU"]}, "too complex"),
        ({"override_tensor": ["a=CPU"] * 65}, "64 entries"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        LoadOptions.from_options(options)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"num_thread": 0, "num_gpu": -1, "flash_attention": "auto", "numa": False, "seed": 3}, LoadOptions()),
        ({"kv_cache_type": "Q8_0"}, LoadOptions(kv_cache_type="q8_0")),
        ({"kv_cache_type": "q8_0/q8_0"}, LoadOptions(kv_cache_type="q8_0")),
        ({"kv_cache_type": "q8_0/iq4_nl"}, LoadOptions(kv_cache_type="q8_0/iq4_nl")),
        (
            {"kv_cache_type": "q8_0/f16", "flash_attention": "off"},
            LoadOptions(kv_cache_type="q8_0/f16", flash_attention="off"),
        ),
        ({"flash_attention": True, "numa": True}, LoadOptions(flash_attention="on", numa="distribute")),
        ({"backend_sampling": "auto"}, LoadOptions(backend_sampling="auto")),
        ({"backend_sampling": False}, LoadOptions(backend_sampling="off")),
        ({"tensor_split": "3,1"}, LoadOptions(tensor_split=(3.0, 1.0))),
        ({"tensor_split": [3, 1.5]}, LoadOptions(tensor_split=(3.0, 1.5))),
        ({"override_tensor": r"\.ffn_(up|down)_exps=CPU"}, LoadOptions(override_tensor=(r"\.ffn_(up|down)_exps=CPU",))),
        (
            {"n_cpu_moe": 12.0, "main_gpu": 1, "split_mode": "ROW"},
            LoadOptions(n_cpu_moe=12, main_gpu=1, split_mode="row"),
        ),
        ({"rope_freq_base": 5.0, "most_gpu_layers": 3}, LoadOptions()),
    ],
)
def test_options_as_they_are_written(options: dict[str, Any], expected: LoadOptions) -> None:
    assert LoadOptions.from_options(options) == expected


def test_types_of_keys_and_values() -> None:
    assert kv_types("q8_0") == ("q8_0", "q8_0")
    assert kv_types("f16/q4_0") == ("f16", "q4_0")


CPU = LoadOptions(4096, 512, 0, 2, 8, "f16", True, flash_attention="off", n_cpu_moe=0, most_gpu_layers=0)
GPU = LoadOptions(4096, 512, 37, 2, 8, "q8_0", True, n_cpu_moe=3, most_gpu_layers=37, flash_attention="auto")


@pytest.mark.parametrize(
    ("loaded", "wanted", "serves"),
    [
        (CPU, LoadOptions(), True),
        (CPU, LoadOptions(num_ctx=2048, num_parallel=1, num_batch=64), True),
        (CPU, LoadOptions(num_ctx=8192), False),
        (CPU, LoadOptions(num_parallel=9), False),
        (CPU, LoadOptions(num_batch=1024), False),
        (CPU, LoadOptions(num_thread=4), False),
        (CPU, LoadOptions(kv_cache_type="q8_0"), False),
        (CPU, LoadOptions(use_mmap=False), False),
        (CPU, LoadOptions(use_mlock=True), False),
        (CPU, LoadOptions(flash_attention="on"), False),
        (CPU, LoadOptions(flash_attention="off"), True),
        (CPU, LoadOptions(backend_sampling="on"), False),
        (replace(CPU, backend_sampling="auto"), LoadOptions(backend_sampling="auto"), True),
        # Nothing of this matters where there is no GPU.
        (CPU, LoadOptions(num_gpu=99, n_cpu_moe=4, split_mode="row", tensor_split=(1.0,), main_gpu=1), True),
        (CPU, LoadOptions(override_tensor=("a=CPU",)), False),
        (GPU, LoadOptions(num_gpu=99), True),
        (GPU, LoadOptions(num_gpu=37), True),
        (GPU, LoadOptions(num_gpu=12), False),
        (GPU, LoadOptions(n_cpu_moe=3), True),
        (GPU, LoadOptions(n_cpu_moe=4), False),
        (GPU, LoadOptions(tensor_split=(1.0, 2.0)), False),
        (LoadOptions(4096), LoadOptions(num_gpu=3), False),
    ],
)
def test_which_change_needs_a_new_worker(loaded: LoadOptions, wanted: LoadOptions, serves: bool) -> None:
    assert loaded.satisfies(wanted) == serves
