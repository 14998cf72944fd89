"""The flags of `serve` that say how models are loaded, as settings and load options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import pytest

from interns1_local.commands.load_flags import load_flags, with_flags
from interns1_local.config import Settings
from interns1_local.errors import BadRequest


def settings_of(*arguments: str, load: Mapping[str, Any] | None = None) -> Settings:
    @click.command()
    @load_flags
    def command(**flags: Any) -> Settings:
        return with_flags(Settings(load=load or {}), flags)

    found: Settings = command.main(list(arguments), standalone_mode=False)
    return found


def test_flags_are_settings_or_options_and_the_others_stay() -> None:
    settings = settings_of(
        "--num-ctx", "4096", "--threads", "3", "--num-batch", "64", "--no-mmap", "--mlock", "--tensor-split", "3,1",
        "--override-tensor", "a=CPU", "--override-tensor", "b=CPU", load={"num_batch": 512, "main_gpu": 0},
    )  # fmt: skip
    assert (settings.context_length, settings.threads, settings.num_parallel) == (4096, 3, 0)
    assert settings.load == {
        "num_batch": 64, "main_gpu": 0, "use_mmap": False, "use_mlock": True, "tensor_split": "3,1",
        "override_tensor": ["a=CPU", "b=CPU"],
    }  # fmt: skip
    assert settings_of() == Settings()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--threads", "9999"), '"num_thread" must be at most 4096; it is 9999'),
        (("--kv-cache-type", "q9"), '"kv_cache_type" must be one of'),
        (("--kv-cache-type", "q8_0", "--flash-attention", "off"), "need flash attention"),
        (("--split-mode", "x"), "split_mode"),
    ],
)
def test_what_no_model_could_be_loaded_with_is_refused(arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadRequest, match=message):
        settings_of(*arguments)
