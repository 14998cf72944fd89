"""Request bodies read as Go reads them: any Content-Type, any case of keys, unknown fields ignored, Go's errors."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from interns1_local.errors import BadRequest

_EXAMPLES = {"model": ', as in "model": "nano"'}
_KINDS = {str: "string", bool: "bool", int: "number", float: "number", list: "array", dict: "object"}


class Fields:
    """One JSON object under the name of the Go struct that clients know it by; null is the same as absent."""

    def __init__(self, values: dict[str, Any], struct: str, path: str = "") -> None:
        self.values = values
        self._struct = struct
        self._path = path
        self._by_lower = {key.lower(): value for key, value in values.items()} | values

    def get(self, name: str) -> Any:
        return self._by_lower.get(name, self._by_lower.get(name.lower()))

    def text(self, name: str, default: str = "") -> str:
        return self._typed(name, (str,), "string", default)  # type: ignore[no-any-return]

    def flag(self, name: str) -> bool | None:
        return self._typed(name, (bool,), "bool", None)  # type: ignore[no-any-return]

    def number(self, name: str) -> float | None:
        return self._typed(name, (int, float), "float64", None)  # type: ignore[no-any-return]

    def integer(self, name: str) -> int | None:
        value = self._typed(name, (int, float), "int", None)
        if isinstance(value, float):
            if not value.is_integer():
                self._refuse(f"number {value:g}", name, "int")
            return int(value)
        return value  # type: ignore[no-any-return]

    def array(self, name: str, go_type: str = "[]interface {}") -> list[Any] | None:
        return self._typed(name, (list,), go_type, None)  # type: ignore[no-any-return]

    def texts(self, name: str) -> list[str]:
        return [self._item(value, name, str, "string") for value in self.array(name, "[]string") or []]

    def object(self, name: str, go_type: str = "map[string]interface {}") -> dict[str, Any] | None:
        return self._typed(name, (dict,), go_type, None)  # type: ignore[no-any-return]

    def required(self, name: str) -> str:
        """A text that is not empty; BadRequest without it."""
        text = self.text(name)
        if not text:
            raise BadRequest(f"{name} is required{_EXAMPLES.get(name, '')}")
        return text

    def child(self, name: str, struct: str) -> Fields | None:
        value = self.object(name, struct)
        return None if value is None else Fields(value, self._struct, f"{self._path}{name}.")

    def children(self, name: str, struct: str) -> list[Fields] | None:
        """An array of objects; `struct` is the Go type of one (`api.Message`)."""
        items = self.array(name, f"[]{struct}")
        if items is None:
            return None
        path = f"{self._path}{name}."
        return [Fields(self._item(item, name, dict, struct), self._struct, path) for item in items]

    def refuse(self, value: Any, name: str, go_type: str) -> NoReturn:
        self._refuse(_KINDS.get(type(value), "null"), name, go_type)

    def _typed(self, name: str, kinds: tuple[type, ...], go_type: str, default: Any) -> Any:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            self.refuse(value, name, go_type)
        return value

    def _item(self, value: Any, name: str, kind: type, go_type: str) -> Any:
        if not isinstance(value, kind):
            self.refuse(value, name, go_type)
        return value

    def _refuse(self, given: str, name: str, go_type: str) -> NoReturn:
        where = f"{self._struct}.{self._path}{name}"
        raise BadRequest(f"json: cannot unmarshal {given} into Go struct field {where} of type {go_type}")


async def read_fields(request: Request, struct: str) -> Fields:
    """The body of `request` as the fields of `struct` (`ChatRequest`)."""
    value = parse_json(await request.body())
    if not isinstance(value, dict):
        kind = _KINDS.get(type(value), "null")
        raise BadRequest(f"json: cannot unmarshal {kind} into Go value of type api.{struct}")
    return Fields(value, struct)


def parse_json(body: bytes) -> Any:
    """The first JSON value of `body`; what follows it is ignored, as Go's decoder ignores it."""
    text = body.decode("utf-8", "replace").removeprefix("\ufeff").lstrip(" \t\r\n")
    if not text:
        raise BadRequest("missing request body")
    try:
        value, _ = json.JSONDecoder(parse_constant=_no_constant).raw_decode(text)
    except json.JSONDecodeError as error:
        raise BadRequest(f"{_go_syntax_error(text, error)}: the body of the request is no whole JSON value") from None
    except RecursionError:
        raise BadRequest("exceeded max depth") from None
    # A lone half of a surrogate pair can be written in JSON but in no UTF-8: Go reads it as U+FFFD.
    return _without_surrogates(value) if "\\ud" in text or "\\uD" in text else value


def _no_constant(name: str) -> NoReturn:
    raise BadRequest(f"invalid character '{name.lstrip('-')[0]}' looking for beginning of value")


def _go_syntax_error(text: str, error: json.JSONDecodeError) -> str:
    at = error.pos
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    if at >= len(text) or error.msg.startswith("Unterminated string"):
        return "unexpected EOF"
    shown = f"invalid character '{text[at]}'"
    if error.msg.startswith("Invalid control character"):
        return f"invalid character {text[at]!a} in string literal"
    if error.msg.startswith("Invalid \\") or error.msg.startswith("Invalid escape"):
        return "invalid character in string escape code"
    if error.msg.startswith("Expecting property name") or error.msg.startswith("Illegal trailing comma"):
        return f"{shown} looking for beginning of object key string"
    if error.msg.startswith("Expecting ':'"):
        return f"{shown} after object key"
    if error.msg.startswith("Expecting ','"):
        return f"{shown} after " + ("array element" if _in_array(text[:at]) else "object key:value pair")
    return f"{shown} looking for beginning of value"


def _in_array(text: str) -> bool:
    """Whether the innermost bracket that is open at the end of `text` is a square one."""
    opened: list[str] = []
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            opened.append(char)
        elif char in "]}" and opened:
            opened.pop()
    return bool(opened) and opened[-1] == "["


def _without_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode() if any("\ud800" <= c <= "\udfff" for c in value) else value
    if isinstance(value, list):
        return [_without_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_surrogates(key): _without_surrogates(item) for key, item in value.items()}
    return value
