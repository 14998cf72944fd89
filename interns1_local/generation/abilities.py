"""What a model can do: its facts and its chat template."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from interns1_local.chat.template import ChatTemplate
from interns1_local.runners.model_spec import ModelFacts, read_model_facts
from interns1_local.store.model_store import StoredModel


@dataclass(frozen=True, slots=True)
class Abilities:
    """What a model can do, as its metadata and its template in use say."""

    facts: ModelFacts
    template: ChatTemplate | None
    names: tuple[str, ...]


def abilities(model: StoredModel) -> Abilities:
    """The model's facts and template, read once for each version of it."""
    facts = read_model_facts(model.model_path, model.mmproj_path)
    template = compiled(template_source(model, facts), facts.bos_token, facts.eos_token)
    names = [name for name in facts.capabilities if name not in ("tools", "thinking")]
    if template is not None and "embedding" not in names:
        names += ["tools"] * template.supports_tools + ["thinking"] * template.supports_thinking
    return Abilities(facts, template, tuple(names))


def template_source(model: StoredModel, facts: ModelFacts) -> str | None:
    """The Jinja in use: the model's TEMPLATE when it is Jinja, else the file's own, else Intern-S1's where it fits."""
    if model.template and is_jinja(model.template):
        return model.template
    if facts.chat_template:
        return facts.chat_template
    tokens = facts.metadata.get("tokenizer.ggml.tokens")
    return ChatTemplate.default_interns1().source if tokens is not None and "<|im_start|>" in tokens else None


def is_jinja(template: str) -> bool:
    """Whether a TEMPLATE is Jinja; Ollama's own are Go templates, whose variables start with a point."""
    if "{%" in template:
        return True
    opened = template.replace("{{-", "{{").split("{{")[1:]
    go_words = (".", "if ", "range ", "end", "else", "$", "with ", "template ", "define ", "block ", "json ")
    return bool(opened) and not any(part.lstrip().startswith(go_words) for part in opened)


@lru_cache(maxsize=32)
def compiled(source: str | None, bos_token: str, eos_token: str) -> ChatTemplate | None:
    return None if source is None else ChatTemplate(source, bos_token=bos_token, eos_token=eos_token)
