"""A parameter's value from text, as the tool's JSON schema types it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from interns1_local.chat.tool_parsers.json_text import read_json

_KINDS: dict[type, tuple[str, ...]] = {
    type(None): ("null",),
    bool: ("boolean",),
    int: ("integer", "number"),
    float: ("number",),
    str: ("string",),
    list: ("array",),
    dict: ("object",),
}
MAX_REFERENCES = 20


def parameter_types(schema: Mapping[str, Any], name: str) -> frozenset[str]:
    """The types that the parameter `name` may have; empty when the schema says nothing of it."""
    properties = schema.get("properties")
    parameter = properties.get(name) if isinstance(properties, Mapping) else None
    return frozenset(_types(parameter, schema, MAX_REFERENCES)) if isinstance(parameter, Mapping) else frozenset()


def is_text(types: frozenset[str]) -> bool:
    """Whether a value is the text as it stands, whatever it says: no other type is possible."""
    return not types - {"string"}


def read_value(text: str, types: frozenset[str]) -> Any:
    """The value of one of `types` that `text` is; the text itself when it is none of them.

    Where a text is possible, only a literal null is anything else: "5" is a text there.
    """
    if is_text(types):
        return text
    wanted = types & {"null"} if "string" in types else types
    found, value = read_json(text.strip())
    if not found:
        # Models that write Python write its words for the two truths and for nothing.
        words = {"True": True, "False": False, "None": None}
        if text.strip() not in words:
            return text
        value = words[text.strip()]
    if isinstance(value, float) and value.is_integer() and "integer" in wanted and "number" not in wanted:
        value = int(value)
    return value if wanted.intersection(_KINDS[type(value)]) else text


def _types(schema: Mapping[str, Any], root: Mapping[str, Any], references: int) -> set[str]:
    found: set[str] = set()
    reference = schema.get("$ref")
    if isinstance(reference, str) and references:
        target = _target(reference, root)
        if target is not None:
            found |= _types(target, root, references - 1)
    kinds = schema.get("type")
    found |= {kind for kind in (kinds if isinstance(kinds, list) else [kinds]) if isinstance(kind, str)}
    for key in ("anyOf", "oneOf", "allOf"):
        choices = schema.get(key)
        if isinstance(choices, list) and references:
            for choice in choices:
                found |= _types(choice, root, references - 1) if isinstance(choice, Mapping) else set()
    if not found:
        values = list(schema["enum"]) if isinstance(schema.get("enum"), list) else []
        values += [schema["const"]] if "const" in schema else []
        found |= {_KINDS[type(value)][0] for value in values if type(value) in _KINDS}
    return found


def _target(reference: str, root: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What `#/$defs/name` points to."""
    place: Any = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        place = place.get(step) if isinstance(place, Mapping) else None
    return place if isinstance(place, Mapping) and reference.startswith("#/") else None
