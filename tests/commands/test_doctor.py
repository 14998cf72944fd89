"""`interns1 doctor`: what it says of machines, real ones and others, and of how models fit."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

import pytest

from interns1_local.commands.machine_report import CMAKE, find_hardware, missing_backends, rebuild_command
from interns1_local.commands.plan_report import parse_size
from interns1_local.errors import BadRequest
from interns1_local.runners.rpc_protocol import VERSION
from tests.commands.conftest import Invoke
from tests.runners.shapes import SMALL, write_sparse
from tests.runners.test_rpc import answering, hello, says

BIG = ("--vram", "24GiB", "--ram", "128GiB")


@pytest.fixture(autouse=True)
def empty_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("INTERNS1_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("INTERNS1_HOST", "127.0.0.1:9")


def test_this_machine(invoke: Invoke) -> None:
    output = invoke("doctor").output
    for text in ("RAM", "backends: ", "native kernels", "model store", "Intern-S1 (241B)", "Intern-S1-mini (8B)"):
        assert text in output
    report = json.loads(invoke("doctor", "--json").output)
    assert report["machine"]["memory_total"] > 0
    assert {check["name"] for check in report["checks"]} >= {"native kernels", "RDKit", "films", "disk", "port"}
    assert set(report["quantizations"]) == {"intern-s1", "intern-s1-mini"}


def test_a_model_that_is_not_here_on_a_machine_that_is_not_here(invoke: Invoke) -> None:
    result = invoke("doctor", "intern-s1", *BIG)
    assert result.exit_code == 0, result.output
    assert "IQ4_XS is the best that fits" in result.output
    assert "experts of" in result.output and "GPU0" in result.output and "[W" in result.output
    plan = json.loads(invoke("doctor", "internlm/Intern-S1", "--json", "--type", "Q2_K", *BIG).output)
    assert plan["fits"] and plan["options"]["num_gpu"] == 95 and 70 < plan["options"]["n_cpu_moe"] < 94
    assert plan["quantizations"]["intern-s1"] == {
        **dict.fromkeys(("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M"), False),
        **dict.fromkeys(("IQ4_XS", "Q3_K_M", "IQ3_XXS", "Q2_K", "IQ2_XXS"), True),
    }


def test_several_gpus_and_options(invoke: Invoke) -> None:
    several = ("--vram", "6GiB", "--vram", "8GiB", "--ram", "32GiB")
    plan = json.loads(invoke("doctor", "intern-s1-mini", "--json", "--type", "Q8_0", *several).output)
    assert [use["name"] for use in plan["devices"]] == ["GPU0", "GPU1", "RAM"]
    assert sum(plan["options"]["tensor_split"]) == plan["options"]["num_gpu"]
    short = json.loads(
        invoke("doctor", "intern-s1-mini", "--json", "--option", "num_ctx=1024", "--vram", "24GiB").output
    )
    assert short["options"]["num_ctx"] == 1024
    assert invoke("doctor", "--vram", "8GiB", "--ram", "16GiB").output.count("best that fits") == 1


def test_the_table_goes_by_the_settings_as_the_plan_does(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNS1_CONTEXT_LENGTH", "4096")
    monkeypatch.setenv("INTERNS1_KV_CACHE_TYPE", "q8_0")
    output = invoke("doctor", "intern-s1-mini", "--vram", "12GiB", "--ram", "32GiB").output
    assert "context 4096 tokens" in output and "KV q8_0" in output
    assert len(re.findall(r"GB .* 4096, q8_0\n", output)) == 9


def test_rpc_workers_hold_layers_and_the_missing_are_named(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = struct.pack("<QQ", 22 * 2**30, 24 * 2**30)
    with answering(says(hello(*VERSION), struct.pack("<I", 1), memory)) as endpoint:
        output = invoke("doctor", "--rpc", f"{endpoint},127.0.0.1:9").output
        assert re.search(rf"RPC0 +{endpoint}", output) and "22.0 GiB free of 24.0 GiB" in output
        assert "the RPC worker 127.0.0.1:9 cannot be reached" in output
        monkeypatch.setenv("INTERNS1_RPC", f"{endpoint},127.0.0.1:9")
        plan = json.loads(invoke("doctor", "intern-s1-mini", "--type", "Q8_0", "--json").output)
        elsewhere = json.loads(invoke("doctor", "intern-s1-mini", "--json", "--ram", "64GiB").output)
    assert [use["name"] for use in plan["devices"]] == ["RPC0", "RAM"]
    assert plan["fits"] and plan["options"]["num_gpu"] == 37 and "127.0.0.1:9" in plan["unreachable"][0]
    assert [use["name"] for use in elsewhere["devices"]] == ["RAM"]


def test_what_does_not_fit_is_shown(invoke: Invoke) -> None:
    output = invoke("doctor", "intern-s1", "--type", "Q4_K_M", *BIG).output
    assert "does not fit" in output and "too much" in output


def test_a_file(invoke: Invoke, tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "small.gguf", SMALL)
    result = invoke("doctor", str(path))
    assert result.exit_code == 0, result.output
    assert result.output.startswith("small.gguf: 5/5 layers on the CPU")
    assert "Intern-S1" not in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nothing-here",), "not found; `interns1 list`"),
        (("intern-s1", "--vram", "lots"), "'lots' is not a size such as 24GiB"),
        (("intern-s1", "--ram", "0"), "is not a size"),
        (("intern-s1", "--type", "Q9"), "Q9"),
        (("intern-s1", "--option", "n_cpu_moe=x"), "n_cpu_moe"),
        (("intern-s1", "--option", "split_mode=x"), "split_mode"),
    ],
)
def test_mistakes(invoke: Invoke, arguments: tuple[str, ...], message: str) -> None:
    result = invoke("doctor", *arguments)
    assert result.exit_code == 1
    assert message in result.output


@pytest.mark.parametrize(
    ("text", "expected"),
    [("24GiB", 24 * 2**30), ("24", 24 * 2**30), ("24 gb", 24 * 10**9), ("1.5T", 3 * 2**39), ("512MiB", 2**29)],
)
def test_sizes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize("text", ["", "-3", "0", "1e9", "9" * 30, "3 parsecs"])
def test_no_sizes(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_size(text)


@pytest.mark.parametrize(
    ("files", "backends", "expected"),
    [
        ({}, ("CPU",), []),
        ({"proc/driver/nvidia/version": "x"}, ("CPU",), [("NVIDIA", "CUDA")]),
        ({"proc/driver/nvidia/version": "x"}, ("CUDA", "CPU"), []),
        ({"proc/driver/nvidia/version": "x"}, ("Vulkan", "CPU"), []),
        ({"sys/class/drm/card0/device/vendor": "0x1002\n"}, ("CPU",), [("AMD", "ROCm")]),
        ({"sys/class/drm/card1/device/vendor": "0x8086\n"}, ("CPU", "BLAS"), [("Intel", "SYCL")]),
        ({"sys/class/drm/card0/device/vendor": "0x1234\n"}, ("CPU",), []),
        ({"usr/share/vulkan/icd.d/lvp_icd.x86_64.json": "{}"}, ("CPU",), [("Vulkan", "Vulkan")]),
    ],
)
def test_what_a_rebuild_would_bring(
    tmp_path: Path, files: dict[str, str], backends: tuple[str, ...], expected: list[tuple[str, str]]
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    missing = missing_backends(find_hardware(tmp_path), backends)
    assert [(entry.vendor, backend) for entry, backend, _ in missing] == expected


def test_the_line_that_rebuilds() -> None:
    assert rebuild_command(CMAKE["CUDA"]) == (
        'CMAKE_ARGS="-DGGML_CUDA=on" pip install --force-reinstall --no-cache-dir '
        "--no-binary llama-cpp-python llama-cpp-python==0.3.36"
    )
