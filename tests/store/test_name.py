"""Model names: what parses, how it is shown, and what is refused."""

from __future__ import annotations

import pytest

from interns1_local.errors import InvalidName
from interns1_local.store.name import ModelName


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("nano", "registry.ollama.ai/library/nano:latest", "nano:latest"),
        ("nano:q8", "registry.ollama.ai/library/nano:q8", "nano:q8"),
        ("internlm/interns1", "registry.ollama.ai/internlm/interns1:latest", "internlm/interns1:latest"),
        ("hf.co/user/Repo.x:Q4_K_M", "hf.co/user/Repo.x:Q4_K_M", "hf.co/user/Repo.x:Q4_K_M"),
        ("localhost:5000/a/b", "localhost:5000/a/b:latest", "localhost:5000/a/b:latest"),
        ("https://registry.ollama.ai/library/nano", "registry.ollama.ai/library/nano:latest", "nano:latest"),
        ("library/nano", "registry.ollama.ai/library/nano:latest", "nano:latest"),
    ],
)
def test_parse(text: str, full: str, short: str) -> None:
    name = ModelName.parse(text)
    assert name.full == full
    assert name.short == short
    assert ModelName.parse(name.short) == name


@pytest.mark.parametrize(
    "text",
    ["", "a b", "..", "../x", "a/../b", "a/b/c/d/e", "x:", ":x", "a//b", "n.s/model/..", "ns.dot/model", "x:a/b:",
     "m" * 81, "m:" + "t" * 81, "x\n", "é", ".hidden", "a/b/.c", "C:\\x", "nul\0"],
)  # fmt: skip
def test_refused(text: str) -> None:
    with pytest.raises(InvalidName, match="invalid model name"):
        ModelName.parse(text)


def test_key_ignores_case() -> None:
    assert ModelName.parse("Nano:Latest").key == ModelName.parse("nano").key
