"""What a model can do: its facts and its chat template."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from interns1_local.chat.go_template import is_go_template, jinja_twin
from interns1_local.chat.template import ChatTemplate
from interns1_local.generation.families import CHATML, find_family
from interns1_local.runners.model_spec import ModelFacts, read_model_facts
from interns1_local.runners.upstream_runner import UPSTREAM_FACTS
from interns1_local.store.model_store import StoredModel


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do, as its metadata and its templates say.

    `tool_template` is for requests with tools, `thinking_prompt` the system prompt that makes the model think.
    """

    facts: ModelFacts
    template: ChatTemplate | None
    names: tuple[str, ...]
    tool_template: ChatTemplate | None = None
    thinking_prompt: str | None = None


def abilities(model: StoredModel) -> Abilities:
    """The model's facts and templates, read once for each version of it."""
    if model.upstream is not None:
        return Abilities(UPSTREAM_FACTS, None, UPSTREAM_FACTS.capabilities)
    facts = read_model_facts(model.model_path, model.mmproj_path, model.sidecar_path)
    tokens = facts.bos_token, facts.eos_token
    template = compiled(template_source(model, facts), *tokens)
    names = [name for name in facts.capabilities if name not in ("tools", "thinking")]
    if template is None or "embedding" in names:
        return Abilities(facts, template, tuple(names))
    family = None if template.supports_tools and template.supports_thinking else find_family(facts.metadata)
    tool_template = template if template.supports_tools else None
    if tool_template is None and family and family.has_tools and not _is_own(model):
        # The template that InternLM2 ships has no tools; its published format has them.
        tool_template = compiled(family.template_source, *tokens)
    thinking_prompt = family.thinking_prompt if family and not template.supports_thinking else None
    names += ["tools"] * (tool_template is not None)
    names += ["thinking"] * (template.supports_thinking or thinking_prompt is not None)
    return Abilities(facts, template, tuple(names), tool_template, thinking_prompt)


def template_source(model: StoredModel, facts: ModelFacts) -> str | None:
    """The Jinja in use: what a Modelfile gave (a Go template's twin), else the file's own, else that of its family.

    The Go template of a model that others made comes last: the file's own Jinja also knows tools and thinking.
    """
    if _is_own(model):
        return jinja_twin(model.template) if is_go_template(model.template) else model.template
    if facts.chat_template:
        return facts.chat_template
    family = find_family(facts.metadata)
    if family is not None and family is not CHATML:
        return family.template_source
    # ChatML is a guess from the vocabulary; the model's Go template is not.
    twin = jinja_twin(model.template) if model.template else None
    return twin or (family.template_source if family else None)


def _is_own(model: StoredModel) -> bool:
    """Whether a Modelfile gave the template, and it can be used."""
    if not model.template or not is_go_template(model.template):
        return bool(model.template)
    return model.template_given and jinja_twin(model.template) is not None


@lru_cache(maxsize=32)
def compiled(source: str | None, bos_token: str, eos_token: str) -> ChatTemplate | None:
    return None if source is None else ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
