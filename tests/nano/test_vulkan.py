"""A model on a GPU: Vulkan, added to the installed llama.cpp, with Mesa's software driver where there is no other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ollama
import pytest

from benchmarks.gpu_backend import library_path
from interns1_local.commands.own_server import own_server
from tests.nano.conftest import Converted, chat, store_model
from tests.nano.evaluate import exam
from tests.nano.families import Sample

LIBRARY = Path(os.environ.get("INTERNS1_TEST_VULKAN") or library_path("vulkan")).absolute()
pytestmark = pytest.mark.skipif(
    not LIBRARY.is_file(),
    reason=(
        "NOT RUN: Vulkan is tested where `python -m benchmarks.gpu_backend vulkan` has built it (4 minutes of CPU), or "
        "INTERNS1_TEST_VULKAN names it; Mesa's software driver does (apt install mesa-vulkan-drivers)"
    ),
)
# Drivers that compute on the processor are used only when they are named.
ON_VULKAN = {
    "INTERNS1_BACKENDS": str(LIBRARY),
    "GGML_VK_VISIBLE_DEVICES": os.environ.get("GGML_VK_VISIBLE_DEVICES", "0"),
}
# Mesa's software driver (22.3) crashes while it compiles flash attention for a single token.
OPTIONS = {"temperature": 0, "num_predict": 24, "num_ctx": 1024, "num_parallel": 2, "flash_attention": "off"}


def doctor(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "interns1_local.commands", "doctor", *map(str, arguments), "--json"]
    done = subprocess.run(command, env=os.environ | ON_VULKAN, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def vulkan(nano_gguf: Callable[..., Converted], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ollama.Client]:
    """A server whose one model, nano, is to be on the GPU."""
    store = tmp_path_factory.mktemp("vulkan")
    environ = {"INTERNS1_MODELS": str(store), **ON_VULKAN}
    with own_server(environ) as started, ollama.Client(started.base_url, timeout=170) as client:
        store_model(client, "nano", *nano_gguf("F16", "F16"))
        yield client


def answer(client: ollama.Client, model: str, sample: Sample, **options: Any) -> str:
    return chat(client, model, sample, OPTIONS | options)


def test_doctor_sees_the_device_and_plans_for_it(nano_gguf: Callable[..., Converted]) -> None:
    machine = doctor()["machine"]
    assert "Vulkan" in machine["backends"]
    device = next(device for device in machine["devices"] if device["backend"] == "Vulkan")
    assert device["type"] in ("gpu", "igpu") and 0 < device["free"] <= device["total"]
    model, _ = nano_gguf("F16", "F16")
    plan = doctor(model)
    assert device["name"] in [use["name"] for use in plan["devices"]], plan


def test_the_same_answers_as_on_the_processor(
    vulkan: ollama.Client, client: ollama.Client, served: Callable[[str], str]
) -> None:
    samples = [*exam("sums", 3), *exam("identity", 2), *exam("pictures", 2)]
    on_processor = [answer(client, served("F16"), sample) for sample in samples]
    assert [answer(vulkan, "nano", sample) for sample in samples] == on_processor
    assert all(on_processor)
    loaded = vulkan.ps().models[0]
    # Not the size of the file: also the cache and the buffers.
    assert loaded.size_vram and loaded.size_vram > 0


def test_tokens_that_the_device_chooses_are_the_same(vulkan: ollama.Client) -> None:
    if any("llvmpipe" in device["description"] for device in doctor()["machine"]["devices"]):
        pytest.skip("NOT RUN: Mesa's software driver crashes in it, this needs a real GPU")
    samples = [*exam("sums", 3), *exam("identity", 2)]
    ways: list[dict[str, Any]] = [{}, {"temperature": 1.5, "seed": 7}]
    for way in ways:
        outside = [answer(vulkan, "nano", sample, backend_sampling="off", **way) for sample in samples]
        assert [answer(vulkan, "nano", sample, backend_sampling="on", **way) for sample in samples] == outside
        assert all(outside)
