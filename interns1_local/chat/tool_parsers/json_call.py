"""A call written as a JSON object. Repaired only where no other meaning is possible; otherwise it is no call."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

from interns1_local.chat.message import ToolCall

_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')


def read_call(body: str, argument_names: tuple[str, ...]) -> ToolCall | None:
    """`{"name": ..., <one of argument_names>: {...}}` as a call; None if it is anything else."""
    fields = _read_object(body)
    if fields is None:
        return None
    name = fields.get("name")
    arguments: Any = next((fields[key] for key in argument_names if key in fields), {})
    if arguments is None:
        arguments = {}
    elif isinstance(arguments, str):
        arguments = _read_object(arguments)
    if not isinstance(name, str) or not name or not isinstance(arguments, dict):
        return None
    return ToolCall(name, arguments)


def _read_object(text: str) -> dict[str, Any] | None:
    for candidate in (text, _escape_lone_backslashes(text)):
        try:
            # Not strict: a raw line break in a string can only be a line break.
            value = json.loads(candidate, strict=False, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            continue
        return value if isinstance(value, dict) else None
    return None


def _escape_lone_backslashes(text: str) -> str:
    r"""`F\C=C\F` -> `F\\C=C\\F`: a backslash that begins no JSON escape, as SMILES has them, stands for itself."""
    return _ESCAPE.sub(lambda found: found.group() if found.group(1) else r"\\", text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
