"""Backends that INTERNS1_BACKENDS adds: what is wrong with one is said, by a child that may crash in our place."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from interns1_local.config import backend_paths
from interns1_local.errors import LoadError
from interns1_local.runners.devices import DeviceList

STAMP = 'const char interns1_built_for[64] = "%s";'
NULL = "void *ggml_backend_init(void) { return 0; }"
# ggml_backend_reg begins with the number of the interface.
OLD = "struct { int version; void *rest[8]; } reg = { 1 }; void *ggml_backend_init(void) { return &reg; }"
CRASH = "#include <stdlib.h>\nvoid *ggml_backend_init(void) { abort(); }"


def library(folder: Path, source: str) -> Path:
    code, path = folder / "backend.c", folder / "libggml-test.so"
    code.write_text(source)
    subprocess.run(["cc", "-shared", "-fPIC", code, "-o", path], check=True)
    return path


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (STAMP % "0.0.1" + NULL, r"built for llama-cpp-python 0\.0\.1, and \S+ is installed"),
        ("int nothing;", "is no backend of this llama.cpp.*ggml_backend_init"),
        (NULL, "is no backend of this llama.cpp.*returned NULL"),
        (OLD, "incompatible API version"),
        (CRASH, r"cannot list its devices \(exit code -6; INTERNS1_BACKENDS adds .*libggml-test"),
    ],
    ids=["another version", "no backend", "no driver", "another interface", "a crash"],
)
def test_a_library_that_does_not_suit(
    source: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERNS1_BACKENDS", str(library(tmp_path, source)))
    with pytest.raises(LoadError, match=message):
        DeviceList().machine()


@pytest.mark.parametrize(("text", "message"), [(None, "there is no such file"), ("no library", "cannot be loaded")])
def test_a_file_that_is_none(text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "libggml-test.so"
    if text is not None:
        path.write_text(text)
    monkeypatch.setenv("INTERNS1_BACKENDS", str(path))
    with pytest.raises(LoadError, match=f"{path}.*{message}.*docs/gpu.md"):
        DeviceList().machine()


def test_several_paths() -> None:
    value = os.pathsep.join(["/a/libggml-vulkan.so", " ", "~/b.so"])
    assert backend_paths({"INTERNS1_BACKENDS": value}) == (Path("/a/libggml-vulkan.so"), Path.home() / "b.so")
    assert backend_paths({}) == ()
