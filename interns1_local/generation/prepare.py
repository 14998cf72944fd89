"""A request and the model's own settings to what the runner is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from interns1_local.chat.message import Image, Message, Text
from interns1_local.chat.template import ChatTemplate
from interns1_local.engine.sampling import MAX_SEED, SamplingParams
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation.abilities import Abilities, compiled, is_jinja
from interns1_local.generation.requests import ChatRequest, TextRequest
from interns1_local.media.image import TileSpec, load_image, tile_image
from interns1_local.runners.model_spec import ModelFacts, VisionFacts
from interns1_local.store.model_store import StoredModel
from interns1_local.store.options import check_options, think_value

_SAMPLING_OPTIONS = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repeat_last_n",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_NO_IMAGES = "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj"


def template_in_use(request: ChatRequest, model: Abilities) -> ChatTemplate:
    name = request.name or request.model.name.short
    if "embedding" in model.names:
        raise BadRequest(f'"{name}" does not support chat')
    template = model.template
    if request.template:
        if not is_jinja(request.template):
            raise Unsupported("a Go template cannot be rendered by this version; write the template in Jinja")
        template = compiled(request.template, model.facts.bos_token, model.facts.eos_token)
    if template is None:
        raise Unsupported(f'"{name}" has no chat template; give it a Jinja TEMPLATE in a Modelfile, or use raw mode')
    if request.tools and not template.supports_tools:
        raise BadRequest(f"{request.model.name.full} does not support tools")
    return template


def think_choice(request: ChatRequest, options: Mapping[str, Any], template: ChatTemplate) -> bool | str | None:
    """The request's choice, else the Modelfile's, else none: then the template decides."""
    if request.think is None:
        return options.get("think") if template.supports_thinking else None
    think = think_value(request.think)
    if think and not template.supports_thinking:
        raise BadRequest(f'"{request.name or request.model.name.short}" does not support thinking')
    return think if template.supports_thinking else None


def all_messages(request: ChatRequest) -> list[Message]:
    """The Modelfile's messages and system text around the request's."""
    messages = list(request.messages)
    if not request.with_model_messages:
        return messages
    stored = [Message(str(m.get("role", "user")), (Text(str(m.get("content", ""))),)) for m in request.model.messages]
    if request.model.system and not (messages and messages[0].role == "system"):
        stored.insert(0, Message("system", (Text(request.model.system),)))
    elif messages and messages[0].role == "system":
        return [messages[0], *stored, *messages[1:]]
    return [*stored, *messages]


def image_files(messages: Sequence[Message], facts: ModelFacts) -> list[bytes]:
    media = [part for message in messages for part in message.media]
    if any(not isinstance(part, Image) for part in media):
        raise Unsupported("video input is not supported yet by this version")
    if media and facts.vision is None:
        raise Unsupported(_NO_IMAGES)
    return [part.data for part in media]


def tile_images(images: Sequence[bytes], vision: VisionFacts | None) -> list[Any]:
    if not images or vision is None:
        return []
    spec = TileSpec(vision.tile_size, vision.min_patches, vision.max_patches, vision.use_thumbnail)
    return [tile_image(load_image(data), spec) for data in images]


def options_in_force(model: StoredModel, facts: ModelFacts, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options in force: the request's, over the Modelfile's, over the model file's."""
    return {**facts.sampling_defaults, **check_options(model.params), **check_options(asked)}


def sampling_params(options: Mapping[str, Any], request: ChatRequest | TextRequest) -> SamplingParams:
    """SamplingParams holds Ollama's defaults for what is not set. A negative seed means none, as in Ollama."""
    seed = options.get("seed", -1)
    return SamplingParams(
        **{name: options[name] for name in _SAMPLING_OPTIONS if name in options},
        seed=None if seed < 0 else seed % (MAX_SEED + 1),
        logprobs=request.logprobs,
        logit_bias=dict(request.logit_bias),
    )


def token_limit(options: Mapping[str, Any], asked: int | None) -> int | None:
    limit = options.get("num_predict", -1) if asked is None else asked
    return None if limit < 0 else limit
