"""The named arguments: none of a request is forgotten, none is misspelled in silence."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from interns1_local import Interns1
from interns1_local.api.arguments import ChatArguments, Options, TextArguments
from interns1_local.errors import BadRequest
from interns1_local.generation import ChatRequest, TextRequest
from interns1_local.runners.model_spec import LoadOptions
from interns1_local.store.options import OPTION_TYPES, OptionTypeError

# What is given in another way, or belongs to protocols.
OTHERS = {"model", "messages", "prompt", "name", "keep_alive", "context", "return_context", "echo"}


def names(request: type) -> set[str]:
    return {field.name for field in fields(request)}


def test_all_that_can_be_asked_has_a_name() -> None:
    assert names(ChatRequest) - OTHERS <= set(ChatArguments.__annotations__)
    assert names(TextRequest) - OTHERS <= set(TextArguments.__annotations__)
    assert set(Options.__annotations__) == {*OPTION_TYPES, *names(LoadOptions)} - {"rope_freq_base", "most_gpu_layers"}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"temprature": 0}, TypeError, "unknown argument 'temprature'; did you mean 'temperature'"),
        ({"xyz": 0}, TypeError, "known are .*temperature"),
        ({"options": {"num_ctxt": 5}}, TypeError, "did you mean 'num_ctx'"),
        ({"num_ctx": "many"}, OptionTypeError, "must be of type integer"),
        ({"temperature": "hot"}, OptionTypeError, 'option "temperature" must be of type float32'),
        ({"tool_choice": "required"}, BadRequest, "the request has no tools"),
        ({"think": "perhaps"}, BadRequest, "invalid think value"),
        ({"format": "xml"}, BadRequest, 'format is "json"'),
    ],
)
def test_mistakes(tiny_file: Path, arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with Interns1(tiny_file, options={"num_ctx": 1024}) as model, pytest.raises(error, match=message):
        model.chat("hello", **arguments)


def test_mistakes_of_options(tiny_file: Path) -> None:
    wrong: Any = {"num_ctxt": 5}
    with pytest.raises(TypeError, match="did you mean 'num_ctx'"):
        Interns1(tiny_file, options=wrong)
    wrong = {"num_ctx": -1}
    with pytest.raises(BadRequest, match="at least 1"):
        Interns1(tiny_file, options=wrong)


def test_options_are_the_calls_own(tiny_file: Path) -> None:
    """Over those of the object, for one call."""
    with Interns1(tiny_file, options={"num_ctx": 1024, "num_thread": 1, "num_predict": 3}) as model:
        assert model.chat("hello", ignore_eos=True).usage.output_tokens == 3
        assert model.chat("hello", ignore_eos=True, num_predict=5).usage.output_tokens == 5
        assert model.chat("hello", ignore_eos=True, options={"num_predict": 6}).usage.output_tokens == 6
        assert model.generate("hello", ignore_eos=True, max_tokens=7).usage.output_tokens == 7
        assert model.chat("hello", ignore_eos=True).usage.output_tokens == 3
