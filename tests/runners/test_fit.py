"""The planner, with machines and models that exist in tables only."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from interns1_local.runners.devices import Device, Machine
from interns1_local.runners.fit import GIB, Plan, Wishes, choose_cells, default_context, fit
from interns1_local.runners.known_shapes import KNOWN
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.model_shape import ModelShape

AVX = "CPU : AVX2 = 1 | REPACK = 1 |"


def machine(ram: float, *vram: float, kind: str = "gpu") -> Machine:
    gpus = [Device(f"CUDA{i}", "a GPU", kind, "CUDA", int(size * GIB), int(size * GIB)) for i, size in enumerate(vram)]
    cpu = Device("CPU", "a CPU", "cpu", "CPU", int(ram * GIB), int(ram * GIB))
    return Machine((*gpus, cpu), int(ram * GIB), int(ram * GIB), system_info=AVX)


def shape(name: str, type: str = "Q4_K_M") -> ModelShape:
    return KNOWN[name].shape(type, "Q8_0" if name == "intern-s1" else "F16")


S1, MINI = "intern-s1", "intern-s1-mini"
ALL = {S1: 95, MINI: 37}


@pytest.mark.parametrize(
    ("name", "type", "place", "expected"),
    [
        # Everything on one GPU, at the full context.
        (MINI, "Q4_K_M", machine(64, 24), {"num_gpu": 37, "num_ctx": 32768, "kv_cache_type": "f16"}),
        # The context gives way before a layer does.
        (MINI, "Q4_K_M", machine(32, 10), {"num_gpu": 37, "num_ctx": 16384, "kv_cache_type": "f16"}),
        (MINI, "Q4_K_M", machine(32, 7), {"num_gpu": 37, "num_ctx": 8192, "kv_cache_type": "f16"}),
        # Then layers.
        (MINI, "Q8_0", machine(32, 8), {"num_ctx": 8192, "on_gpu": range(10, 37)}),
        (MINI, "Q4_K_M", machine(20), {"num_gpu": 0, "num_ctx": 32768, "kv_cache_type": "f16"}),
        (MINI, "Q4_K_M", machine(8), {"num_gpu": 0}),
        # Experts in RAM, the rest and the context on the GPU.
        (S1, "Q4_K_M", machine(192, 24), {"num_gpu": 95, "moe": range(85, 95), "num_ctx": 32768}),
        (S1, "Q3_K_M", machine(128, 24), {"num_gpu": 95, "moe": range(85, 95)}),
        # Two GPUs hold what one cannot.
        (MINI, "Q8_0", machine(64, 12, 12), {"num_gpu": 37, "num_ctx": 32768, "gpus": 2}),
        (MINI, "Q4_K_M", machine(64, 24, 24), {"num_gpu": 37, "num_ctx": 32768, "gpus": 1}),
        (S1, "Q4_K_M", machine(64, *[48] * 4), {"num_gpu": 95, "moe": range(1), "gpus": 4}),
        # A GPU too small for anything is left alone.
        (MINI, "Q4_K_M", machine(32, 1), {"num_gpu": 0}),
    ],
)
def test_what_is_chosen(name: str, type: str, place: Machine, expected: dict[str, Any]) -> None:
    plan = fit(LoadOptions(), shape(name, type), place)
    assert plan.fits, plan.line(name)
    for key, value in expected.items():
        if key == "on_gpu":
            assert plan.options.num_gpu in value, plan.line(name)
        elif key == "moe":
            assert plan.options.n_cpu_moe in value, plan.line(name)
        elif key == "gpus":
            assert len(plan.gpus) == value, plan.line(name)
        else:
            assert getattr(plan.options, key) == value, plan.line(name)
    assert_consistent(plan, name)


def assert_consistent(plan: Plan, name: str) -> None:
    options = plan.options
    for field in (
        "num_ctx",
        "num_batch",
        "num_gpu",
        "num_parallel",
        "kv_cache_type",
        "use_mmap",
        "flash_attention",
        "backend_sampling",
    ):
        assert getattr(options, field) is not None, field
    for use in plan.devices:
        assert use.total <= use.usable
    line = plan.line(name)
    assert line.startswith(f"{name}: ") and str(options.num_ctx) in line and "\n" not in line
    assert plan.reasons or line.endswith("all fits")
    # What was chosen, set by hand, is the same plan.
    if options.tensor_split is not None:
        assert sum(options.tensor_split) == options.num_gpu


@pytest.mark.parametrize("ram", [6, 8, 12, 16, 24, 48, 64, 128, 256])
@pytest.mark.parametrize("vram", [(), (2,), (6,), (8, 8), (12, 24), (24,), (80,)])
def test_no_plan_that_fits_exceeds_a_device(ram: int, vram: tuple[int, ...]) -> None:
    previous = 0
    for type in ("Q8_0", "Q4_K_M", "Q2_K"):
        plan = fit(LoadOptions(), shape(MINI, type), machine(ram, *vram))
        assert plan.fits == all(use.total <= use.usable for use in plan.devices)
        previous = max(previous, plan.fits)
        assert plan.fits or not previous or type == "Q8_0"


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        (LoadOptions(), machine(4)),
        (LoadOptions(num_ctx=40960, kv_cache_type="f16"), machine(8)),
        (LoadOptions(num_gpu=37), machine(64, 4)),
    ],
)
def test_what_does_not_fit_is_said(wanted: LoadOptions, place: Machine) -> None:
    plan = fit(wanted, shape(MINI), place)
    assert not plan.fits
    assert [use.name for use in plan.devices if not use.fits]


@pytest.mark.parametrize(
    ("wanted", "place"),
    [
        (LoadOptions(num_ctx=4096), machine(64, 24)),
        (LoadOptions(num_ctx=40960, num_parallel=2, num_batch=128), machine(64)),
        (LoadOptions(kv_cache_type="q4_0"), machine(64, 24)),
        (LoadOptions(num_gpu=10), machine(64, 24)),
        (LoadOptions(num_gpu=0), machine(64, 24)),
        (LoadOptions(flash_attention="off"), machine(64, 24)),
        (LoadOptions(tensor_split=(1.0, 3.0)), machine(64, 24, 24)),
        (LoadOptions(split_mode="none", main_gpu=1), machine(64, 8, 24)),
        (LoadOptions(use_mmap=False, use_mlock=True, num_thread=3), machine(64)),
    ],
)
def test_what_the_user_sets_is_kept(wanted: LoadOptions, place: Machine) -> None:
    plan = fit(wanted, shape(MINI), place)
    assert plan.fits
    assert plan.options.satisfies(wanted)
    assert plan.options.over(wanted) == plan.options
    if wanted.split_mode == "none":
        assert [use.name for use in plan.gpus] == ["CUDA1"]
    if wanted.tensor_split:
        light, heavy = (use.weights for use in plan.gpus)
        assert 2 * light < heavy


def test_wishes_of_all_models() -> None:
    wishes = Wishes(num_ctx=9000, num_parallel=3, kv_cache_type="q8_0")
    options = fit(LoadOptions(), shape(MINI), machine(64), wishes).options
    assert (options.num_ctx, options.num_parallel, options.kv_cache_type) == (9000, 3, "q8_0")
    # A default stretches no model; a wish of one model goes first.
    assert fit(LoadOptions(), shape(MINI), machine(64), Wishes(num_ctx=10**6)).options.num_ctx == 40960
    assert fit(LoadOptions(num_ctx=5000), shape(MINI), machine(64), wishes).options.num_ctx == 5000
    spread = fit(LoadOptions(), shape(MINI), machine(64, 24, 24), Wishes(spread=True))
    assert len(spread.gpus) == 2
    # Room for the inputs of calls that wait, which a model that is cut otherwise does not have.
    cut = fit(LoadOptions(num_gpu=20), shape(MINI), machine(64, 24, 24), Wishes(spread=True))
    assert cut.gpus[0].compute < spread.gpus[0].compute
    tight = fit(LoadOptions(), shape(MINI), machine(64, 12), Wishes(gpu_overhead=3 * GIB))
    assert tight.options.num_ctx < fit(LoadOptions(), shape(MINI), machine(64, 12)).options.num_ctx  # type: ignore[operator]


def test_attention_is_exact_on_a_processor_where_weights_are_and_its_buffer_fits() -> None:
    def flash(type: str, num_ctx: int, *gpus: int, kv_type: str | None = None) -> str | None:
        wanted = LoadOptions(num_ctx=num_ctx, kv_cache_type=kv_type)
        return fit(wanted, shape(MINI, type), machine(128, *gpus)).options.flash_attention

    assert flash("F32", 4096) == "off"
    assert flash("F32", 32768) == "on"
    assert flash("F32", 4096, kv_type="q8_0") == "on"
    assert flash("Q4_K_M", 4096) == "on"
    assert flash("F32", 4096, 48) == flash("Q4_K_M", 4096, 24) == "auto"


def test_samplers_in_the_graph_are_counted_where_they_may_be() -> None:
    def buffers(wanted: LoadOptions, *gpus: int) -> int:
        plan = fit(wanted, shape(MINI), machine(64, *gpus))
        assert plan.options.backend_sampling == (wanted.backend_sampling or "off")
        return plan.ram.compute

    auto = LoadOptions(backend_sampling="auto")
    # Candidates and what they are worth, beside the logits.
    assert buffers(LoadOptions(), 24) < buffers(auto, 24)
    assert buffers(LoadOptions()) == buffers(auto) < buffers(LoadOptions(backend_sampling="on"))
    for wanted in (LoadOptions(num_gpu=20), LoadOptions(num_parallel=2)):
        assert buffers(wanted.over(auto), 24) == buffers(wanted, 24)


def test_experts_stay_where_the_user_puts_them() -> None:
    override = (r"\.ffn_(up|down|gate)_exps=CPU",)
    plan = fit(LoadOptions(num_gpu=99, override_tensor=override), shape(S1), machine(192, 32))
    assert plan.fits
    assert plan.gpus[0].weights < 7 * GIB < 120 * GIB < plan.ram.total
    assert replace(plan.options, override_tensor=None).num_gpu == 95


def test_a_gpu_that_shares_memory_is_counted_once_as_ram() -> None:
    plan = fit(LoadOptions(), shape(MINI), machine(16, 16, kind="igpu"))
    assert plan.fits and plan.options.num_gpu == 37
    assert plan.ram.shared == plan.gpus[0].total
    assert plan.ram.total <= 16 * GIB


@pytest.mark.parametrize(("memory", "expected"), [(64 * GIB, 32768), (8 * GIB, 14336), (GIB // 4, 2048)])
def test_default_contexts(memory: int, expected: int) -> None:
    assert default_context(147456, memory) == expected


def test_cells_are_one_context_at_least_and_several_where_they_are_small() -> None:
    assert choose_cells(4096, 8, 147456) == 4096
    assert choose_cells(4096, 8, 1024) == 4 * 4096
    assert choose_cells(4096, 1, 1024) == 4096
