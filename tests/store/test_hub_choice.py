"""Which files a hub name means."""

from __future__ import annotations

import pytest

from interns1_local.errors import BadRequest, NotFound
from interns1_local.store.hub import HubFile
from interns1_local.store.hub_choice import choose, quant_of


def files(*paths: str) -> list[HubFile]:
    return [HubFile(path, 1, f"https://hub/{path}") for path in paths]


PLAIN = files(
    "README.md", "Intern-S1-mini-Q8_0.gguf", "Intern-S1-mini-Q4_K_M.gguf", "mmproj-Intern-S1-mini-F16.gguf",
    "mmproj-Intern-S1-mini-Q8_0.gguf", "Intern-S1-mini-F16.gguf", "imatrix.gguf",
)  # fmt: skip
SHARDED = files(
    *(f"Q4_K_M/Intern-S1-Q4_K_M-{i:05}-of-00012.gguf" for i in range(1, 13)),
    *(f"Q8_0/Intern-S1-Q8_0-{i:05}-of-00003.gguf" for i in (1, 3)),
    "mmproj-F16.gguf",
)


@pytest.mark.parametrize(
    ("given", "tag", "model", "mmproj"),
    [
        (PLAIN, "latest", ["Intern-S1-mini-Q4_K_M.gguf"], "mmproj-Intern-S1-mini-F16.gguf"),
        (PLAIN, "q8_0", ["Intern-S1-mini-Q8_0.gguf"], "mmproj-Intern-S1-mini-Q8_0.gguf"),
        (PLAIN, "Intern-S1-mini-F16", ["Intern-S1-mini-F16.gguf"], "mmproj-Intern-S1-mini-F16.gguf"),
        (PLAIN, "Intern-S1-mini-F16.gguf", ["Intern-S1-mini-F16.gguf"], "mmproj-Intern-S1-mini-F16.gguf"),
        (SHARDED, "Q4_K_M", [file.path for file in SHARDED[:12]], "mmproj-F16.gguf"),
        (SHARDED, "latest", [file.path for file in SHARDED[:12]], "mmproj-F16.gguf"),
        (files("model.gguf"), "latest", ["model.gguf"], None),
        (files("a/x-IQ2_XXS.gguf", "x-TQ1_0.gguf"), "iq2_xxs", ["a/x-IQ2_XXS.gguf"], None),
        (files("x.UD-Q4_K_XL.gguf", "x.Q4_K_M.gguf"), "UD-Q4_K_XL", ["x.UD-Q4_K_XL.gguf"], None),
    ],
)
def test_choose(given: list[HubFile], tag: str, model: list[str], mmproj: str | None) -> None:
    choice = choose(given, tag)
    assert [file.path for file in choice.model] == model
    assert (choice.mmproj.path if choice.mmproj else None) == mmproj


def test_a_checkpoint_is_converted() -> None:
    assert choose(files("config.json", "model-00001-of-00002.safetensors"), "Q4_K_M").converts


def test_what_cannot_be_chosen() -> None:
    with pytest.raises(BadRequest, match=r"no Q3_K_S; it has F16, Q4_K_M, Q8_0"):
        choose(PLAIN, "Q3_K_S")
    with pytest.raises(BadRequest, match="no Q8_0; it has Q4_K_M"):
        choose(SHARDED, "Q8_0")
    with pytest.raises(NotFound, match="some are missing"):
        choose(files("x-00001-of-00002.gguf"), "latest")
    with pytest.raises(NotFound, match="neither GGUF nor safetensors"):
        choose(files("README.md"), "latest")


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("Intern-S1-Q4_K_M.gguf", "Q4_K_M"), ("internlm3-8b-instruct-fp16.gguf", "F16"), ("x.f16.gguf", "F16"),
        ("Q8_0/model.gguf", "Q8_0"), ("qwen-bf16.gguf", "BF16"), ("x-iq4_nl.gguf", "IQ4_NL"),
        ("x-mxfp4_moe.gguf", "MXFP4_MOE"),
    ],
)  # fmt: skip
def test_quant(path: str, quant: str) -> None:
    assert quant_of(path) == quant
