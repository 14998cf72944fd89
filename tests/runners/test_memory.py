"""Plans of a loading model: gaps filled, what does not fit refused, idle models that make room."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from interns1_local.config import Settings
from interns1_local.errors import BadRequest
from interns1_local.runners.devices import Device, DeviceList, Machine
from interns1_local.runners.fit import Plan
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.memory import physical_cores, plan_for, plan_load, refuse, with_workers
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.model_spec import ModelFacts, ModelSpec, NotEnoughMemory, read_model_facts
from interns1_local.runners.rpc_protocol import RpcWorker
from interns1_local.store.adapter_names import StoredAdapter
from tests.runners.shapes import SMALL, write_sparse
from tests.runners.test_devices import LISTED
from tests.runners.test_model_scheduler import FACTS, FakeRunner

GIB = 2**30
MIB = 2**20


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> ModelFacts:
    return read_model_facts(write_sparse(tmp_path_factory.mktemp("sparse") / "small.gguf", SMALL))


def machine(ram: int, gpus: int = 0, total: int | None = None) -> Machine:
    devices = [Device(f"CUDA{i}", "GPU", "gpu", "CUDA", 8 * GIB, 8 * GIB) for i in range(gpus)]
    cpu = Device("CPU", "CPU", "cpu", "CPU", ram, ram)
    return Machine((*devices, cpu), total or ram, ram, system_info="CPU : AVX2 = 1 | REPACK = 1 |")


def test_a_plan_has_no_gap(facts: ModelFacts) -> None:
    plan = plan_load(LoadOptions(), facts, Settings(), machine(8 * GIB), cores=3)
    options = plan.options
    assert plan.fits
    assert (options.num_ctx, options.num_batch, options.num_gpu, options.num_thread) == (32768, 512, 0, 3)
    assert (options.num_parallel, options.kv_cache_type, options.use_mmap) == (8, "f16", True)
    assert options.satisfies(LoadOptions()) and options.satisfies(LoadOptions(num_gpu=99))
    assert physical_cores() >= 1


def test_settings_hold_where_a_model_says_nothing(facts: ModelFacts) -> None:
    settings = Settings(context_length=9000, threads=5, load={"num_batch": 128, "use_mmap": False, "numa": True})
    options = plan_load(LoadOptions(num_batch=64), facts, settings, machine(8 * GIB)).options
    assert (options.num_ctx, options.num_thread, options.num_batch) == (9000, 5, 64)
    assert (options.use_mmap, options.numa) == (False, "distribute")


@pytest.mark.parametrize(
    ("wanted", "gpus", "message"),
    [
        (LoadOptions(override_tensor=("a=CUDA1",)), 1, "no device 'CUDA1'; this machine has CUDA0, CPU"),
        (LoadOptions(override_tensor=("a=CUDA0",)), 0, "no device 'CUDA0'; this machine has CPU"),
        (LoadOptions(main_gpu=2), 2, '"main_gpu" must be below 2'),
        (LoadOptions(tensor_split=(1.0, 1.0)), 1, "2 shares for 1 GPUs"),
    ],
)
def test_devices_that_are_not_there(facts: ModelFacts, wanted: LoadOptions, gpus: int, message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        plan_load(wanted, facts, Settings(), machine(8 * GIB, gpus))


def test_what_cannot_fit_is_refused_with_what_is_needed(facts: ModelFacts) -> None:
    plan = plan_load(LoadOptions(), facts, Settings(), machine(80 * MIB))
    with pytest.raises(NotEnoughMemory, match=r"^model requires more system memory \(.*\) than is available") as caught:
        refuse(plan, "small", LoadOptions(), Settings())
    for text in ("RAM: ", "needed", "interns1 doctor small", "smaller quantization"):
        assert text in caught.value.message


def test_who_decides_himself_is_warned_unless_it_is_hopeless(facts: ModelFacts) -> None:
    wanted = LoadOptions(num_ctx=100000, num_parallel=1, kv_cache_type="f16")
    plan = plan_load(wanted, facts, Settings(), machine(100 * MIB, total=8 * GIB))
    assert not plan.fits
    assert "loaded as its options say" in refuse(plan, "small", wanted, Settings())
    assert "loaded as" in refuse(plan, "small", LoadOptions(), Settings(load={"num_gpu": 0}))
    hopeless = plan_load(wanted, facts, Settings(), machine(100 * MIB))
    with pytest.raises(NotEnoughMemory, match="a num_ctx below 100000"):
        refuse(hopeless, "small", wanted, Settings())
    assert (
        refuse(plan_load(LoadOptions(), facts, Settings(), machine(8 * GIB)), "small", LoadOptions(), Settings()) == ""
    )


def test_claims_are_not_free() -> None:
    import json

    listing = DeviceList(lambda: json.dumps(LISTED), memory=lambda: (9 * GIB, 4 * GIB))
    listing.claim("a", {"RAM": GIB, "CUDA0": 3})
    listing.claim("b", {"RAM": GIB})
    machine = listing.machine()
    assert (machine.memory_free, machine.gpus[0].free) == (2 * GIB, 2)
    assert listing.without_claims(machine).memory_free == 9 * GIB
    listing.claim("a", {"RAM": 1})
    listing.release("b")
    assert listing.machine().memory_free == 4 * GIB - 1


def scheduled(tmp_path: Path, room: Callable[[set[str], str], bool], test: Callable[..., Awaitable[None]]) -> None:
    """Runs `test(use, scheduler)` with models that need room, as `room(loaded, name)` says."""

    async def main() -> None:
        path = tmp_path / "model.gguf"
        path.write_bytes(b"12345")
        alive: dict[str, FakeRunner] = {}

        async def start(spec: ModelSpec, settings: Settings, report: Any) -> FakeRunner:
            alive[spec.name] = FakeRunner(spec)
            return alive[spec.name]

        def has_room(spec: ModelSpec, settings: Settings) -> bool:
            return room({name for name, runner in alive.items() if runner.alive}, spec.name)

        scheduler = ModelScheduler(
            Settings(), lambda name: ModelSpec(name, "d", path), lambda: 0.0, start, lambda *paths: FACTS, has_room
        )

        async def use(name: str) -> Any:
            async with scheduler.acquire(name) as lease:
                return lease.runner

        try:
            await test(use, scheduler)
        finally:
            await scheduler.close()

    asyncio.run(main())


def test_idle_models_make_room_one_after_the_other(tmp_path: Path) -> None:
    async def test(use: Any, scheduler: ModelScheduler) -> None:
        await use("a")
        await use("b")
        await use("big")
        assert sorted(model.name for model in scheduler.loaded()) == ["b", "big"]
        await use("a")
        assert len(scheduler.loaded()) == 3

    scheduled(tmp_path, lambda loaded, name: name != "big" or len(loaded) < 2, test)


def test_models_in_use_stay_when_another_wants_room(tmp_path: Path) -> None:
    async def test(use: Any, scheduler: ModelScheduler) -> None:
        async with scheduler.acquire("a") as lease:
            await use("b")
            await use("c")
            assert lease.runner.alive
            assert sorted(model.name for model in scheduler.loaded()) == ["a", "c"]

    scheduled(tmp_path, lambda loaded, name: not loaded, test)


def test_memory_in_the_list_of_models(facts: ModelFacts) -> None:
    plan = plan_load(LoadOptions(), facts, Settings(), machine(8 * GIB, 1))
    assert plan.gpu_bytes == plan.gpus[0].total
    assert plan.total_bytes == plan.gpu_bytes + plan.ram.total
    assert replace(plan, reasons=("x",)).line("m").endswith(": x")


def test_all_adapters_are_counted(tiny_spec: ModelSpec, tmp_path: Path) -> None:
    sizes, adapters = (3 * MIB, 5 * MIB), []
    for index, size in enumerate(sizes):
        path = tmp_path / f"{index}.gguf"
        with path.open("wb") as file:
            file.truncate(size)
        adapters.append(StoredAdapter(path.stem, path))
    facts = read_model_facts(tiny_spec.model_path, tiny_spec.mmproj_path)
    adapted = replace(tiny_spec, adapters=tuple(adapters))
    without, with_them = (plan_for(spec, facts, Settings(), machine(8 * GIB)) for spec in (tiny_spec, adapted))
    assert with_them.ram.total - without.ram.total == sum(sizes) == adapted.size - tiny_spec.size


def test_where_a_model_is(facts: ModelFacts) -> None:
    here, seeing = machine(8 * GIB, 1), replace(facts, mmproj_metadata={"clip.vision.embedding_length": 256})
    worker = RpcWorker("gpu1:50052", (7, 0, 0), ((8 * GIB, 8 * GIB),))
    both = with_workers(here, [worker])
    assert [(gpu.name, gpu.description) for gpu in both.gpus] == [("RPC0", "gpu1:50052"), ("CUDA0", "GPU")]

    def shares(machine: Machine, **options: Any) -> tuple[int, int, int, Plan]:
        plan = plan_load(LoadOptions(**options), seeing, Settings(), machine, mmproj_bytes=50 * MIB)
        return plan.loaded_bytes, plan.offloaded_bytes, plan.remote_bytes, plan

    size, on_gpu, remote, plan = shares(here)
    # Nothing is computed in RAM; what is remembered of pictures is no size of the model.
    assert size == on_gpu == plan.total_bytes - Settings().image_cache * MIB and remote == 0
    size, on_gpu, remote, plan = shares(here, num_gpu=2)
    assert 0 < on_gpu == plan.gpus[0].total < size and remote == 0
    size, on_gpu, remote, plan = shares(both)
    assert size == on_gpu and 0 < remote == plan.gpus[0].total < size
    size, on_gpu, remote, plan = shares(with_workers(machine(8 * GIB), [worker]))
    assert size == on_gpu == remote
    assert shares(machine(8 * GIB))[1:3] == (0, 0)
