"""A request and the model's own settings to what the runner is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interns1_local.chat.go_template import is_go_template, jinja_twin, not_understood
from interns1_local.chat.message import Message, Text
from interns1_local.chat.template import ChatTemplate
from interns1_local.engine.guide import ThoughtRules
from interns1_local.engine.sampling import MAX_SEED, SamplingParams
from interns1_local.engine.speculative import MOST_DRAFTED, Speculation
from interns1_local.errors import BadRequest, Unsupported
from interns1_local.generation.abilities import Abilities, compiled
from interns1_local.generation.adapter_choice import adapter_choice
from interns1_local.generation.requests import ChatRequest, TextRequest
from interns1_local.runners.model_spec import ModelFacts
from interns1_local.store.model_store import StoredModel
from interns1_local.store.options import check_options

# Ollama's num_keep.
DEFAULT_KEPT = 4

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


def template_in_use(request: ChatRequest, model: Abilities) -> ChatTemplate:
    name = request.name or request.model.name.short
    if "embedding" in model.names or "score" in model.names:
        use = "POST /api/score is for it" if "score" in model.names else "POST /api/embed is for it"
        raise BadRequest(f'"{name}" does not support chat; {use}')
    template = model.template
    if request.template:
        source = jinja_twin(request.template) if is_go_template(request.template) else request.template
        if source is None:
            reason = not_understood(request.template)
            raise Unsupported(f"template is a Go template with {reason}, which is not supported; write it in Jinja")
        template = compiled(source, model.facts.bos_token, model.facts.eos_token)
    if template is None:
        reason = not_understood(request.model.template) if request.model.template else None
        missing = "no chat template" if reason is None else f"only a Go template, with {reason}, which is not supported"
        raise Unsupported(f'"{name}" has {missing}; give it a Jinja TEMPLATE in a Modelfile, or use raw mode')
    if template.supports_tools:
        return template
    if model.tool_template is not None and not request.template:
        called = any(message.tool_calls or message.role == "tool" for message in request.messages)
        return model.tool_template if request.tools or called else template
    if request.tools:
        raise BadRequest(f"{request.model.name.full} does not support tools")
    return template


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


def thought_rules(
    request: ChatRequest,
    options: Mapping[str, Any],
    template: ChatTemplate,
    opens_thought: bool,
    think: bool | str | None,
) -> ThoughtRules:
    """Whether the answer begins inside a thought, may begin one, and how long it may be."""
    if not template.supports_thinking:
        return ThoughtRules(max_answer_tokens=request.max_answer_tokens)
    return ThoughtRules(
        starts_inside=opens_thought,
        may_open=not opens_thought and think is not False,
        budget=thought_budget(request, options),
        max_answer_tokens=request.max_answer_tokens,
    )


def thought_budget(request: ChatRequest, options: Mapping[str, Any]) -> int | None:
    """The most tokens of a thought; None where there is no limit."""
    budget = request.think_budget if request.think_budget is not None else options.get("think_budget")
    return None if budget is None or budget < 0 else int(budget)


def options_in_force(model: StoredModel, facts: ModelFacts, asked: Mapping[str, Any]) -> dict[str, Any]:
    """The options in force: the request's, over the Modelfile's, over the model file's."""
    return {**facts.sampling_defaults, **check_options(model.params), **check_options(asked)}


def sampling_params(options: Mapping[str, Any], request: ChatRequest | TextRequest) -> SamplingParams:
    """SamplingParams holds Ollama's defaults for what is not set."""
    return SamplingParams(
        **{name: options[name] for name in _SAMPLING_OPTIONS if name in options},
        seed=seed_of(options),
        logprobs=request.logprobs,
        logit_bias=dict(request.logit_bias),
        min_tokens=max(0, request.min_tokens),
        ignore_eos=request.ignore_eos,
    )


def seed_of(options: Mapping[str, Any]) -> int | None:
    """The seed that was asked for; a negative one is none, as in Ollama."""
    seed = options.get("seed", -1)
    return None if seed < 0 else int(seed) % (MAX_SEED + 1)


def speculation(options: Mapping[str, Any]) -> Speculation:
    """What may be guessed ahead. Raises BadRequest for a kind of guessing that there is not."""
    most = options.get("num_draft", options.get("draft_num_predict", MOST_DRAFTED))
    return Speculation(str(options.get("speculative", "auto")).lower(), max(0, most))


def runner_options(model: StoredModel, options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the runner's request that follow from options alone. Raises BadRequest for what there is not."""
    return {
        "speculation": speculation(options),
        "keep": kept_on_shift(options),
        "adaptation": adapter_choice(model, options),
    }


def token_limit(options: Mapping[str, Any], asked: int | None) -> int | None:
    limit = options.get("num_predict", -1) if asked is None else asked
    return None if limit < 0 else limit


def kept_on_shift(options: Mapping[str, Any]) -> int | None:
    """How much of a full context stays where `shift` says that its older part may go; None where it does not."""
    return int(options.get("num_keep", DEFAULT_KEPT)) if options.get("shift") else None
