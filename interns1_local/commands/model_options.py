"""Options of a request as a person types them: `--option name=value`, `/set parameter name value`, `--think=high`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from interns1_local.errors import BadRequest


def parse_option(name: str, values: Sequence[str]) -> Any:
    """The value of option `name`; only `stop` takes several."""
    from interns1_local.store.options import OPTION_TYPES, parse_parameters, unknown_option

    kind = OPTION_TYPES.get(name)
    if kind is None:
        raise unknown_option(name, f"known are {', '.join(OPTION_TYPES)}")
    if kind == "string":
        # The name of an adapter may have spaces.
        values = [" ".join(values)]
    if kind != "array" and len(values) != 1:
        raise BadRequest(f"parameter '{name}' takes one value")
    try:
        return parse_parameters((name, value) for value in values)[name]
    except BadRequest as error:
        raise BadRequest(f"parameter '{name}': {error}") from None


def parse_options(pairs: Sequence[str]) -> dict[str, Any]:
    """`["top_k=5", "stop=END"]` -> `{"top_k": 5, "stop": ["END"]}`."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise BadRequest(f"--option needs name=value, as in --option temperature=0.7; it is '{pair}'")
        parsed = parse_option(name.strip(), [value])
        options[name.strip()] = options.get(name.strip(), []) + parsed if isinstance(parsed, list) else parsed
    return options


def parse_think(value: str) -> bool | str:
    """`true`, `false` or a level."""
    from interns1_local.store.options import think_value

    text = value.strip().lower()
    return think_value({"true": True, "1": True, "false": False, "0": False}.get(text, text))


def parse_format(value: str) -> str | dict[str, Any]:
    """`json`, a JSON schema, or the path of a file with one."""
    import json
    from pathlib import Path

    if value == "json":
        return value
    text = value
    if not value.lstrip().startswith("{") and Path(value).is_file():
        text = Path(value).read_text(encoding="utf-8")
    try:
        schema = json.loads(text)
    except ValueError:
        schema = None
    if not isinstance(schema, dict):
        raise BadRequest(f"invalid format: '{value}'; expected 'json', a JSON schema or a file with one")
    return schema
