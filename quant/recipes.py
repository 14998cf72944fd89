"""Which type each tensor gets under Q4_K_M, Q6_K and the other names users know, as data.

The choices equal llama-quantize's, so a file made here has the types that the same name has elsewhere. A recipe has a
default type and, for some roles of tensors, an ordered list of (type, condition): the first that holds decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

from quant.errors import BadTensor, UnknownType
from quant.ggml_types import TYPES

OUTPUT = "output.weight"
TOKEN_EMBEDDING = "token_embd.weight"


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the rules ask about the model."""

    architecture: str = ""
    n_layers: int = 0
    n_experts: int = 0
    n_heads: int = 1
    n_heads_kv: int = 1
    has_imatrix: bool = False

    @property
    def heads_per_kv(self) -> int:
        return self.n_heads // max(1, self.n_heads_kv)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor stands among those of its role: `index` of `count`."""

    index: int
    count: int
    facts: ModelFacts


Condition = Callable[[Place], bool]


def _always(place: Place) -> bool:
    return True


def _more_bits(place: Place) -> bool:
    """The first and the last eighth of the layers, and every third between."""
    eighth = place.count // 8
    return place.index < eighth or place.index >= 7 * place.count // 8 or (place.index - eighth) % 3 == 2


def _first(n: int) -> Condition:
    return lambda place: place.index < n


def _first_part(n: int) -> Condition:
    return lambda place: place.index < place.count // n


def _middle(place: Place) -> bool:
    return place.count // 8 <= place.index < 7 * place.count // 8


def _grouped(place: Place) -> bool:
    return place.facts.heads_per_kv >= 4


def _grouped_or_experts(place: Place) -> bool:
    return _grouped(place) or place.facts.n_experts >= 4


def _eight_experts(place: Place) -> bool:
    return place.facts.n_experts == 8


def _no_imatrix(place: Place) -> bool:
    return not place.facts.has_imatrix


def _both(*conditions: Condition) -> Condition:
    return lambda place: all(condition(place) for condition in conditions)


def _either(*conditions: Condition) -> Condition:
    return lambda place: any(condition(place) for condition in conditions)


Rules = Mapping[str, Sequence[tuple[str, Condition]]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A named mix: the number in `general.file_type`, the default type and the exceptions by role."""

    name: str
    file_type: int
    default: str
    rules: Rules = field(default_factory=dict)
    output: str = "Q6_K"
    # Mixtral-sized models have few distinct attention tensors: these get more bits when there are exactly 8 experts.
    eight_experts: Mapping[str, str] = field(default_factory=dict)
    needs_imatrix: bool = False

    @property
    def is_quantized(self) -> bool:
        return TYPES[self.default].is_quantized


_KV8 = {"attn_v": "Q8_0", "attn_k": "Q8_0"}
_KV8_OUT5 = {**_KV8, "attn_output": "Q5_K"}


def _low_bit_rules(small: str, attention_output: str, embedding: str) -> Rules:
    """IQ1 and IQ2 mixes."""
    return {
        "token_embd": [(embedding, _always)],
        "attn_v": [("Q4_K", _grouped_or_experts), (small, _always)],
        "attn_k": [("Q4_K", _eight_experts)],
        "attn_output": [("Q5_K", _eight_experts), (attention_output, _always)],
        "ffn_down": [(small, _first_part(8))],
    }


_LOW_A = _low_bit_rules("Q2_K", "IQ2_XXS", "Q2_K")
_LOW_B = {**_LOW_A, "attn_output": [("Q5_K", _eight_experts)]}
_LOW_C = _low_bit_rules("IQ3_S", "IQ3_S", "IQ3_S")
_IQ4: Rules = {"attn_v": [("Q5_K", _grouped)], "ffn_down": [("Q5_K", _both(_first_part(8), _no_imatrix))]}
_IQ3_XXS: Rules = {
    "token_embd": [("IQ3_S", _always)],
    "attn_v": [("Q4_K", _grouped), ("IQ3_S", _no_imatrix), ("IQ3_XXS", _always)],
    "attn_k": [("IQ2_S", _always)],
    "attn_q": [("IQ2_S", _always)],
    "ffn_down": [("Q4_K", _both(_first_part(8), _no_imatrix)), ("Q3_K", _no_imatrix)],
    "attn_output": [("IQ3_S", _always)],
}
_IQ3_XS: Rules = {
    "attn_v": [("Q4_K", _grouped)],
    "attn_k": [("IQ3_XXS", _always)],
    "attn_q": [("IQ3_XXS", _always)],
    "ffn_gate": [("IQ3_XXS", _middle)],
    "ffn_up": [("IQ3_XXS", _middle)],
}
_IQ3_M: Rules = {
    "attn_v": [("Q4_K", _always)],
    "ffn_down": [("Q4_K", _either(_first_part(8), _both(_eight_experts, _more_bits)))],
    "attn_output": [("Q4_K", _always)],
}
_Q3_K_M: Rules = {
    "attn_v": [("Q5_K", _first(2)), ("Q4_K", _always)],
    "ffn_down": [("Q5_K", _first_part(16)), ("Q4_K", _always)],
    "attn_output": [("Q4_K", _always)],
}
_Q3_K_L: Rules = {
    "attn_v": [("Q5_K", _always)],
    "ffn_down": [("Q5_K", _always)],
    "attn_output": [("Q5_K", _always)],
}
_Q2_K: Rules = {
    "attn_v": [("Q4_K", _grouped), ("Q3_K", _always)],
    "ffn_down": [("Q3_K", _always)],
    "attn_output": [("Q3_K", _always)],
}
_Q4_K_S: Rules = {"attn_v": [("Q5_K", _first(4))], "ffn_down": [("Q5_K", _first_part(8))]}
_MORE_BITS: Rules = {"attn_v": [("Q6_K", _more_bits)], "ffn_down": [("Q6_K", _more_bits)]}
_Q2_K_S: Rules = {"attn_v": [("Q4_K", _grouped)], "ffn_down": [("Q4_K", _first_part(8))]}


def _with_imatrix(place: Place) -> bool:
    return place.facts.has_imatrix


def _guarded(stronger: str) -> Rules:
    """Q4_0 and Q5_0 misbehave in the first ffn_down layers when an importance matrix steers them."""
    return {"ffn_down": [(stronger, _both(_with_imatrix, _first_part(8)))]}


def _has_experts(place: Place) -> bool:
    return place.facts.n_experts > 0


_FEW_VALUES: Rules = {"token_embd": [("Q4_K", _always)]}
_EXPERTS_MXFP4: Rules = {key: [("MXFP4", _has_experts)] for key in ("ffn_gate", "ffn_up", "ffn_down")}

_ALL = (
    Recipe("F32", 0, "F32"),
    Recipe("F16", 1, "F16"),
    Recipe("BF16", 32, "BF16"),
    Recipe("Q8_0", 7, "Q8_0", output="Q8_0", eight_experts=_KV8),
    Recipe("Q6_K", 18, "Q6_K", eight_experts=_KV8),
    Recipe("Q5_K_M", 17, "Q5_K", _MORE_BITS, eight_experts=_KV8),
    Recipe("Q5_K_S", 16, "Q5_K", eight_experts=_KV8),
    Recipe("Q5_1", 9, "Q5_1", eight_experts=_KV8),
    Recipe("Q5_0", 8, "Q5_0", _guarded("Q5_1"), eight_experts=_KV8),
    Recipe("Q4_K_M", 15, "Q4_K", _MORE_BITS, eight_experts=_KV8_OUT5),
    Recipe("Q4_K_S", 14, "Q4_K", _Q4_K_S, eight_experts=_KV8_OUT5),
    Recipe("Q4_1", 3, "Q4_1", eight_experts=_KV8),
    Recipe("Q4_0", 2, "Q4_0", _guarded("Q4_1"), eight_experts=_KV8),
    Recipe("IQ4_NL", 25, "IQ4_NL", _IQ4, eight_experts=_KV8_OUT5),
    Recipe("IQ4_XS", 30, "IQ4_XS", _IQ4, eight_experts=_KV8_OUT5),
    Recipe("Q3_K_L", 13, "Q3_K", _Q3_K_L, eight_experts={**_KV8, "attn_output": "Q3_K"}),
    Recipe("Q3_K_M", 12, "Q3_K", _Q3_K_M, eight_experts=_KV8_OUT5),
    Recipe("Q3_K_S", 11, "Q3_K", eight_experts=_KV8_OUT5),
    Recipe("IQ3_M", 27, "IQ3_S", _IQ3_M, eight_experts=_KV8_OUT5),
    Recipe("IQ3_S", 26, "IQ3_S", {"attn_v": [("Q4_K", _grouped)]}, eight_experts=_KV8_OUT5),
    Recipe("IQ3_XS", 22, "IQ3_S", _IQ3_XS, eight_experts=_KV8_OUT5, needs_imatrix=True),
    Recipe("IQ3_XXS", 23, "IQ3_XXS", _IQ3_XXS, output="Q5_K", eight_experts=_KV8_OUT5, needs_imatrix=True),
    Recipe("Q2_K", 10, "Q2_K", _Q2_K, eight_experts=_KV8_OUT5),
    Recipe("Q2_K_S", 21, "Q2_K", _Q2_K_S, eight_experts=_KV8, needs_imatrix=True),
    Recipe("IQ2_M", 29, "IQ2_S", _LOW_C, output="Q5_K", needs_imatrix=True),
    Recipe("IQ2_S", 28, "IQ2_XS", _LOW_C, output="Q5_K", needs_imatrix=True),
    Recipe("IQ2_XS", 20, "IQ2_XS", _LOW_B, output="Q5_K", needs_imatrix=True),
    Recipe("IQ2_XXS", 19, "IQ2_XXS", _LOW_B, output="Q5_K", needs_imatrix=True),
    Recipe("IQ1_M", 31, "IQ1_M", _LOW_A, output="Q5_K", needs_imatrix=True),
    Recipe("IQ1_S", 24, "IQ1_S", _LOW_A, output="Q5_K", needs_imatrix=True),
    Recipe("MXFP4_MOE", 38, "Q8_0", _EXPERTS_MXFP4, output="Q8_0"),
    # For models that were trained with weights of so few values.
    Recipe("TQ2_0", 37, "TQ2_0", _FEW_VALUES, eight_experts=_KV8),
    Recipe("TQ1_0", 36, "TQ1_0", _FEW_VALUES, eight_experts=_KV8),
    Recipe("Q2_0", 41, "Q2_0", _FEW_VALUES, eight_experts=_KV8),
    Recipe("Q1_0", 40, "Q1_0", eight_experts=_KV8),
)

RECIPES: dict[str, Recipe] = {recipe.name: recipe for recipe in _ALL}
ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}
RECIPE_BY_FILE_TYPE: dict[int, Recipe] = {recipe.file_type: recipe for recipe in _ALL}

# When a row is not whole blocks of 256 values, the nearest type with blocks of 32.
_FALLBACK = {
    **dict.fromkeys(("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"), "IQ4_NL"),
    **dict.fromkeys(("Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"), "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}

# A substring of a tensor's name -> its role; the first hit decides.
_ROLES = (
    ("attn_qkv.weight", "attn_v"),
    ("attn_kv_b.weight", "attn_v"),
    ("attn_v.weight", "attn_v"),
    ("attn_k.weight", "attn_k"),
    ("attn_q.weight", "attn_q"),
    ("attn_output.weight", "attn_output"),
    ("ffn_up", "ffn_up"),
    ("ffn_gate", "ffn_gate"),
    ("ffn_down", "ffn_down"),
)
_NEVER_QUANTIZED = ("_norm.weight", "ffn_gate_inp.weight", "position_embd", "token_types", ".patch_embd", "ssm_conv1d")
_LAYER = re.compile(r"blk\.(\d+)\.")


def recipe(name: str) -> Recipe:
    """The recipe called `name`, in any case."""
    try:
        return RECIPES[ALIASES.get(name.upper(), name.upper())]
    except KeyError:
        raise UnknownType.named("quantization type", name, RECIPES) from None


def recipe_of_type(type: str) -> Recipe:
    """The recipe to name a file after whose bytes are mostly of `type`: Q4_K gives Q4_K_M."""

    def distance(entry: Recipe) -> tuple[bool, bool, float]:
        bits = TYPES[entry.default].bits_per_weight - TYPES[type].bits_per_weight
        return entry.default != type, entry.name != ALIASES.get(type, type), abs(bits)

    return min(_ALL, key=distance)


def may_convert(name: str, shape: Sequence[int]) -> bool:
    """False for tensors that keep full precision whatever the recipe: vectors, norms, routers, positions."""
    matrix = sum(size > 1 for size in shape[:-1]) > 0
    return matrix and name.endswith("weight") and not any(part in name for part in _NEVER_QUANTIZED)


def choose_types(
    tensors: Sequence[tuple[str, Sequence[int]]],
    chosen: Recipe,
    facts: ModelFacts,
    named: Mapping[str, str] = MappingProxyType({}),
) -> list[str | None]:
    """The type of each (name, shape), shapes outermost first. None: the tensor keeps full precision.

    Args:
        named: types by tensor name that the user has decided.
    """
    places = _places([name for name, _ in tensors], facts, named)
    tied = not any(name == OUTPUT for name, _ in tensors)
    types: list[str | None] = []
    for name, shape in tensors:
        if not may_convert(name, shape):
            types.append(None)
        elif name in named:
            types.append(named[name])
        elif not chosen.is_quantized:
            types.append(chosen.default)
        else:
            is_output = name == OUTPUT or (tied and name == TOKEN_EMBEDDING)
            wanted = _output_type(chosen, shape[-1]) if is_output else _role_type(chosen, name, places)
            types.append(fit_to_row(wanted, shape[-1]))
    return types


def fit_to_row(type: str, columns: int) -> str:
    """`type`, or the nearest one whose blocks fill a row of `columns` values."""
    if columns % TYPES[type].block_size == 0:
        return type
    smaller = _FALLBACK.get(type, type)
    return smaller if columns % TYPES[smaller].block_size == 0 else "F16"


def _output_type(chosen: Recipe, columns: int) -> str:
    return "Q8_0" if columns % TYPES[chosen.default].block_size else chosen.output


def _role(name: str) -> str:
    if name in (OUTPUT, TOKEN_EMBEDDING):
        return name.removesuffix(".weight")
    return next((role for part, role in _ROLES if part in name), "other")


def _role_type(chosen: Recipe, name: str, places: Mapping[str, Place]) -> str:
    role, place = _role(name), places[name]
    if _eight_experts(place) and role in chosen.eight_experts:
        return chosen.eight_experts[role]
    wanted = chosen.default
    for type, holds in chosen.rules.get(role, ()):
        if holds(place):
            wanted = type
            break
    if role == "attn_v" and wanted in ("Q3_K", "Q4_K") and _is_70b(place.facts):
        return "Q5_K"
    return wanted


def _is_70b(facts: ModelFacts) -> bool:
    return facts.n_layers == 80 and (
        facts.architecture == "qwen2" or (facts.architecture == "llama" and facts.n_heads != facts.n_heads_kv)
    )


def _places(names: Sequence[str], facts: ModelFacts, named: Mapping[str, str]) -> dict[str, Place]:
    """Tensors count in order of (layer, name); feed-forward ones of expert models go by the layer in their name.

    As in llama-quantize, a tensor with a type of its own is not counted: the ones after it take its place.
    """
    n_values = sum(_role(name) == "attn_v" for name in names)
    seen: dict[str, int] = {}
    places: dict[str, Place] = {}
    for name in sorted(names, key=lambda name: (_layer(name), name)):
        role = _role(name)
        # Routers and shared gates carry "ffn_gate" in their names, but only tensors that may be quantized are counted.
        counted = name.endswith("weight") and not any(part in name for part in _NEVER_QUANTIZED)
        index = seen.get(role, 0)
        if counted and name not in named:
            seen[role] = index + 1
        if role.startswith("ffn_") and facts.n_experts > 1:
            index = _layer(name)
            if counted and not 0 <= index < facts.n_layers:
                raise BadTensor(f"Tensor {name}: its layer is not one of the model's {facts.n_layers}.")
        places[name] = Place(index, n_values if role == "attn_v" else facts.n_layers, facts)
    return places


def _layer(name: str) -> int:
    found = _LAYER.match(name)
    return int(found.group(1)) if found else -1
