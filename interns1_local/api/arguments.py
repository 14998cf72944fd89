"""What may be said beside a conversation or a text: options of the model, and fields of a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypedDict

from interns1_local.errors import BadRequest
from interns1_local.generation import ChatRequest, Constraint, TextRequest
from interns1_local.runners.model_spec import LoadOptions
from interns1_local.store.options import IGNORED_OPTIONS

# A path, the bytes of a file, or a PIL image.
Picture = str | Path | bytes | Any
# Of these the API makes something itself.
_FOUND_ELSEWHERE = {"model", "messages", "prompt", "name", "options", "keep_alive", "images", "format"}


class Options(TypedDict, total=False):
    """Ollama's options: how the model is loaded (a change loads it anew), and how it chooses its words."""

    num_ctx: int
    num_batch: int
    num_gpu: int
    num_thread: int
    num_parallel: int
    n_cpu_moe: int
    override_tensor: str | Sequence[str]
    split_mode: str
    tensor_split: str | Sequence[float]
    main_gpu: int
    kv_cache_type: str
    flash_attention: bool | str
    backend_sampling: bool | str
    use_mmap: bool
    use_mlock: bool
    numa: bool | str
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    seed: int
    num_predict: int
    num_keep: int
    shift: bool
    draft_num_predict: int
    num_draft: int
    speculative: Literal["auto", "lookup", "draft", "off"]
    repeat_last_n: int
    repeat_penalty: float
    presence_penalty: float
    frequency_penalty: float
    stop: str | list[str]
    think: bool | str
    think_budget: int | None
    max_patches: int
    max_total_patches: int
    num_frames: int
    adapter: str
    adapter_scale: float
    fps: float
    frame_prefix: str


class TextArguments(Options, total=False):
    """For `generate`.

    `images` are paths, bytes or PIL images; `format` is "json", a JSON schema, a pydantic model, or a Constraint.
    """

    images: Sequence[Picture]
    format: Any
    max_tokens: int | None
    min_tokens: int
    ignore_eos: bool
    logprobs: int | None
    logit_bias: Mapping[int, float]
    options: Mapping[str, Any]


class ChatArguments(TextArguments, total=False):
    """For `chat` and `stream`: see TextArguments and ChatRequest.

    `images` are for the last user's message; `tools` are functions as OpenAI describes them; `think` is whether to
    think first, or how much.
    """

    tools: Sequence[Mapping[str, Any]]
    tool_choice: Literal["auto", "none", "required"]
    tool_name: str | None
    parallel_tool_calls: bool
    max_answer_tokens: int | None
    truncate: bool
    template: str | None
    template_kwargs: Mapping[str, Any]
    with_model_messages: bool


def read_arguments(
    arguments: Mapping[str, Any], request: type[ChatRequest] | type[TextRequest]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments that are fields of the request, and those that are options. TypeError for any other."""
    known = set((ChatArguments if request is ChatRequest else TextArguments).__annotations__)
    _refuse_unknown(arguments, known)
    of_request = {field.name for field in fields(request)} & known - _FOUND_ELSEWHERE
    asked = {name: value for name, value in arguments.items() if name in of_request}
    named = {name: value for name, value in arguments.items() if name in Options.__annotations__ and name not in asked}
    options = read_options(arguments.get("options")) | {k: v for k, v in named.items() if v is not None}
    if "format" in arguments:
        asked["format"] = constraint(arguments["format"])
    return asked, options


def read_options(options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options that exist. What old programs still set is passed over; TypeError for any other."""
    given = {name: value for name, value in (options or {}).items() if name not in IGNORED_OPTIONS}
    _refuse_unknown(given, set(Options.__annotations__))
    LoadOptions.from_options(given)
    return given


def constraint(value: Any) -> Constraint | None:
    """What `format` may be: a Constraint, "json", a schema, or a class of pydantic."""
    if value is None or isinstance(value, Constraint):
        return value
    if value == "json":
        return Constraint("json")
    if isinstance(value, dict):
        return Constraint("json_schema", value)
    if hasattr(value, "model_json_schema"):
        return Constraint("json_schema", value.model_json_schema())
    raise BadRequest(f'format is "json", a JSON schema, a pydantic model or a Constraint; given was {value!r}')


def _refuse_unknown(given: Mapping[str, Any], known: set[str]) -> None:
    for name in given:
        if name not in known:
            close = get_close_matches(name, known, 1)
            meant = f"; did you mean {close[0]!r}?" if close else f": known are {', '.join(sorted(known))}"
            raise TypeError(f"unknown argument {name!r}{meant}")
