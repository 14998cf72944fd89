"""The estimate of a model's memory against two oracles: what llama.cpp says it allocates, and what a worker takes."""

from __future__ import annotations

import asyncio
import ctypes
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

from interns1_local.config import Settings
from interns1_local.engine import draft_model, engine, native_log, pooling
from interns1_local.engine.sampler_chain import SamplerChain
from interns1_local.engine.sampling import SamplingParams
from interns1_local.engine.speculative import Speculation
from interns1_local.runners import estimate, fit, model_shape
from interns1_local.runners.estimate import MIB, Graph
from interns1_local.runners.known_shapes import KNOWN, TextShape, VisionTower
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.model_shape import ModelShape
from interns1_local.runners.model_spec import ModelSpec, read_model_facts
from interns1_local.runners.protocol import GenerateRequest
from interns1_local.runners.runner import Runner
from tests.runners.shapes import EXPERTS, MANY_WORDS, SMALL, WIDE, write_sparse, write_sparse_tower
from tests.tiny import quiet_llama_cpp

TWO_LAYERS = {
    "intern-s1": TextShape(4096, 2, 64, 4, 128, 4096, 40960, n_experts=128, n_experts_used=8, expert_width=1536),
    "mini": TextShape(4096, 2, 32, 8, 128, 4096, 40960, ff_width=12288),
}
GREEDY = SamplingParams(temperature=0, ignore_eos=True)
SHAPES = {"small": SMALL, "wide": WIDE, "experts": EXPERTS, "many words": MANY_WORDS, **TWO_LAYERS}


def allocated(path: Path, graph: Graph) -> dict[str, float]:
    """MiB of each buffer in llama.cpp's log of a context; nothing is really allocated."""
    library = quiet_llama_cpp()
    lines: list[str] = []
    callback = library.llama_log_callback(lambda level, text, data: lines.append(text.decode(errors="replace")))
    library.llama_log_set(callback, None)
    try:
        params = library.llama_model_default_params()
        params.no_alloc, params.load_mode = True, 0
        model = library.llama_model_load_from_file(str(path).encode(), params)
        options = library.llama_context_default_params()
        options.n_ctx, options.n_batch, options.n_ubatch = graph.cells, graph.batch, graph.batch
        options.n_seq_max = options.n_outputs_max = graph.outputs
        options.kv_unified, options.n_threads = True, 1
        options.flash_attn_type = int(graph.flash)
        chain = SamplerChain(SamplingParams(), 1)
        if graph.samples:
            config = library.llama_sampler_seq_config(0, ctypes.cast(chain.pointer, ctypes.c_void_p))
            options.samplers, options.n_samplers = ctypes.pointer(config), 1
            options.n_outputs_max_per_seq = graph.outputs
        context = library.llama_init_from_model(model, options)
        library.llama_free(context)
        chain.close()
        library.llama_model_free(model)
    finally:
        native_log.capture()
    pairs = re.findall(r"CPU +(\w+) buffer size = +([\d.]+) MiB", "".join(lines))
    return {name: float(size) for name, size in pairs}


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_buffers_are_those_that_llama_cpp_allocates(name: str, samples: bool, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "model.gguf", SHAPES[name])
    shape = ModelShape.of(read_model_facts(path))
    for cells, batch, flash in ((1024, 512, False), (16384, 512, False), (16384, 512, True), (4096, 128, True)):
        graph = Graph(cells, batch, 8, flash, samples=samples)
        real = allocated(path, graph)
        compute, output = estimate.compute_bytes(shape, graph) / MIB, estimate.output_bytes(shape, graph) / MIB
        assert real["compute"] * 0.99 - 1 <= compute <= real["compute"] * 1.05 + 8, (cells, batch, flash, real)
        assert output == pytest.approx(real["output"], abs=0.1)


def test_the_engines_numbers_are_these() -> None:
    assert estimate.KEPT_SEQUENCES == engine.CACHED_SEQUENCES
    assert estimate.DRAFT_BATCH == draft_model.READ_AT_ONCE
    assert (model_shape.POOLED_AT_ONCE, model_shape.POOLED_WHOLE) == (pooling.TOKENS_AT_ONCE, pooling.LARGEST_CALL)
    assert model_shape.CAUSAL == pooling._CAUSAL


@pytest.mark.parametrize(
    ("name", "type", "gigabytes"),
    [
        ("intern-s1", "Q8_0", 250),
        ("intern-s1", "Q4_K_M", 142),
        ("intern-s1", "Q2_K", 86),
        ("intern-s1-mini", "Q8_0", 8.7),
        ("intern-s1-mini", "Q4_K_M", 5.0),
        ("internlm3-8b", "Q6_K", 7.2),
    ],
)
def test_sizes_of_published_models(name: str, type: str, gigabytes: float) -> None:
    assert KNOWN[name].shape(type).weight_bytes / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_vision_towers_and_caches_of_published_models() -> None:
    sizes = [KNOWN[name].shape("Q8_0").vision.n_bytes / 1e9 for name in ("intern-s1", "intern-s1-mini")]  # type: ignore[union-attr]
    assert sizes == pytest.approx([11.2, 0.68], rel=0.02)
    per_token = [fit.kv_per_token(KNOWN[name].shape("Q8_0"), "f16") for name in ("intern-s1", "intern-s1-mini")]
    assert per_token == [94 * 2 * 4 * 128 * 2, 36 * 2 * 8 * 128 * 2]


WORKERS = [
    ("f16", SMALL, "Q4_K_M", LoadOptions(num_ctx=2048, num_parallel=1)),
    ("q8_0 cache", SMALL, "Q8_0", LoadOptions(num_ctx=2048, num_parallel=1, kv_cache_type="q8_0")),
    ("experts", EXPERTS, "Q4_K_M", LoadOptions(num_ctx=1024, num_parallel=2, num_batch=256)),
    ("many words", MANY_WORDS, "Q8_0", LoadOptions(num_ctx=256, num_parallel=8)),
    ("samplers in the graph", MANY_WORDS, "Q8_0", LoadOptions(num_ctx=256, num_parallel=8, backend_sampling="on")),
    (
        "large cache",
        TextShape(1024, 8, 16, 16, 64, 1024, 32768, ff_width=1024),
        "Q4_K_M",
        LoadOptions(num_ctx=2048, num_parallel=1, num_batch=128),
    ),
    (
        "300 MB of weights",
        TextShape(2048, 12, 16, 4, 128, 4096, 32768, ff_width=6144),
        "Q4_K_M",
        LoadOptions(num_ctx=256, num_parallel=1, num_batch=64),
    ),
]


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux, which says what a process takes")
@pytest.mark.parametrize(("name", "text", "type", "options"), WORKERS, ids=[entry[0] for entry in WORKERS])
def test_a_worker_takes_what_was_planned(
    name: str, text: TextShape, type: str, options: LoadOptions, tmp_path: Path
) -> None:
    path = write_sparse(tmp_path / "model.gguf", text, type)

    def requests(plan: fit.Plan) -> Iterator[GenerateRequest]:
        assert options.num_ctx is not None
        # All cells are used, so that every page of every buffer is.
        for number in range(plan.n_cells // options.num_ctx):
            yield GenerateRequest([number + 1] * (options.num_ctx - 2), SamplingParams(temperature=0), 1)

    plan, real = after(requests, ModelSpec(name, "digest", path, options=options))
    assert plan.fits and not plan.gpus
    allowed = max(100 * MIB, 0.05 * real["Rss"])
    assert abs(plan.ram.private - real["Anonymous"]) <= allowed, (plan.ram, real)
    # Weights that were copied into another order stay in the page cache, for as long as nobody needs the room.
    copies = plan.ram.weights
    assert -allowed <= real["Rss"] - plan.ram.total <= allowed + copies, (plan.ram, real)


TOWER = VisionTower(1024, 3, 16, 4096, 512)
BESIDE = {
    # A tower of InternViT-300M's widths; a draft model whose cache counts.
    "vision tower": {"mmproj_path": lambda folder: write_sparse_tower(folder / "p.gguf", TOWER)},
    "draft model": {"draft_path": lambda folder: write_sparse(folder / "d.gguf", DRAFT, "Q8_0")},
}
DRAFT = TextShape(512, 16, 16, 16, 64, 2000, 262144, ff_width=1536)


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux, which says what a process takes")
@pytest.mark.parametrize("name", BESIDE)
def test_what_is_beside_the_model_was_planned(name: str, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "model.gguf", SMALL)
    files = {kind: write(tmp_path) for kind, write in BESIDE[name].items()}
    options = LoadOptions(num_ctx=2048, num_parallel=1)

    picture = [np.zeros((1, 448, 448, 3), np.uint8), "!" * 1700]
    prompt = picture if "mmproj_path" in files else [5] * 2020
    request = GenerateRequest(prompt, GREEDY, 20, speculation=Speculation("draft"))
    plan, real = after(lambda plan: [request], ModelSpec(name, "digest", path, options=options, **files))
    # Less than the 100 MB that a plan may be wrong by: these parts are small.
    assert abs(plan.ram.private - real["Anonymous"]) <= 40 * MIB, (plan.ram, real)


def after(
    requests: Callable[[fit.Plan], Iterable[GenerateRequest]], spec: ModelSpec
) -> tuple[fit.Plan, dict[str, int]]:
    """A worker's plan, and what it takes when it has answered `requests`."""

    async def run() -> tuple[fit.Plan, dict[str, int]]:
        # Several threads would use up a busy machine with waiting for each other.
        runner = await Runner.start(spec, Settings(threads=1))
        try:
            for request in requests(runner.plan):
                async for _ in runner.generate(request):
                    pass
            return runner.plan, memory_of(runner.pid)
        finally:
            await runner.close()

    return asyncio.run(run())


def memory_of(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    pairs = (line.split()[:2] for line in lines)
    return {name.rstrip(":"): int(count) * 1024 for name, count in pairs}


def test_the_processors_features_decide_on_copies() -> None:
    weights = KNOWN["intern-s1-mini"].shape("Q4_K_M").weights
    avx = estimate.cpu_features("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | ")
    assert avx == {"SSE3", "AVX2", "REPACK"}
    copied = {weight.type for weight in weights if estimate.repacked_bytes(weight, avx)}
    assert copied == {"Q4_K"}
    assert not any(estimate.repacked_bytes(weight, avx - {"REPACK"}) for weight in weights)
    amx = {weight.name: estimate.repacked_bytes(weight, avx | {"AMX_INT8"}) / weight.n_bytes for weight in weights}
    assert amx["blk.0.attn_q.weight"] == 148 / 144 and amx["output.weight"] == 1 and not amx["output_norm.weight"]
    experts = [weight for weight in KNOWN["intern-s1"].shape("Q8_0").weights if weight.is_expert]
    assert experts and not any(estimate.repacked_bytes(weight, avx | {"AMX_INT8"}) for weight in experts)
