"""Types that the user names for single tensors: REGEX=TYPE, as llama-quantize's --tensor-type takes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from quant.errors import BadTensor, QuantError, UnknownType
from quant.ggml_types import TYPES
from quant.imatrix import NEEDY_TYPES, ImportanceMatrix
from quant.recipes import fit_to_row, may_convert

# The types that float32 rows can be encoded to.
ENCODABLE = tuple(name for name in TYPES if name not in ("I8", "I16", "I32", "I64", "F64"))


@dataclass(frozen=True, slots=True)
class Override:
    """Tensors whose name contains a match of `pattern` become `type`."""

    text: str
    pattern: re.Pattern[str]
    type: str


def parse_override(text: str) -> Override:
    """`attn_v=q8_0`. The type follows the last `=`; upper and lower case count the same on both sides."""
    regex, _, name = text.rpartition("=")
    if not regex or not name.strip():
        raise QuantError(f"{text!r} does not name a type for tensors; write REGEX=TYPE, as in attn_v=q8_0.")
    try:
        pattern = re.compile(regex, re.IGNORECASE)
    except re.error as error:
        raise QuantError(f"{regex!r} in {text!r} is not a regular expression: {error}.") from None
    if name.strip().upper() not in ENCODABLE:
        raise UnknownType.named("tensor type", name.strip(), ENCODABLE)
    return Override(text, pattern, name.strip().upper())


def named_types(
    tensors: Sequence[tuple[str, Sequence[int]]], overrides: Sequence[str], imatrix: ImportanceMatrix | None = None
) -> dict[str, str]:
    """The types of the tensors that `overrides` name, by tensor name; the first override that matches decides.

    Vectors, norms and routers keep full precision whatever is asked, so an override that matches only those, or
    nothing, is an error. A type whose blocks do not fill a row gives way as it does in recipes.

    Args:
        tensors: (name, shape) of all tensors, shapes outermost first.
    """
    parsed = [parse_override(text) for text in overrides]
    open_ones = [(name, shape) for name, shape in tensors if may_convert(name, shape)]
    for override in parsed:
        if not any(override.pattern.search(name) for name, _ in open_ones):
            some = ", ".join(name for name, _ in open_ones[:3])
            raise BadTensor(
                f"{override.text!r} matches no tensor that may change its type; such tensors have names like {some}."
            )
    types: dict[str, str] = {}
    for name, shape in open_ones:
        wanted = next((override.type for override in parsed if override.pattern.search(name)), None)
        if wanted is not None:
            types[name] = fit_to_row(wanted, shape[-1])
            _check_weights(name, shape, types[name], imatrix)
    return types


def _check_weights(name: str, shape: Sequence[int], type: str, imatrix: ImportanceMatrix | None) -> None:
    if type in NEEDY_TYPES and (imatrix is None or imatrix.for_tensor(name, shape) is None):
        where = f", and {imatrix.path} has no weights for it" if imatrix else ""
        raise BadTensor(f"{type} for tensor {name} needs an importance matrix{where}.")
