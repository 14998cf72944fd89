"""How large each model is in each type, by the converter's own plans and recipes: the tables of docs/models.md.

    python -m benchmarks.model_sizes

The shapes are those of the released config.json files. Nothing is read or written: the plans get a checkpoint that has
every tensor they ask for. A real file has some megabytes more, for its vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from convert.architectures import internlm2, internlm3, interns1_vision, llama, qwen3
from convert.checkpoint import Checkpoint, TensorEntry
from convert.plan import TensorPlan
from interns1_local.commands.plan_report import simulated_machine
from interns1_local.runners.devices import Machine
from interns1_local.runners.fit import fit
from interns1_local.runners.known_shapes import TextShape
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.model_shape import ModelShape, VisionShape, shape_of
from quant.gguf_output import TensorSpec
from quant.recipes import ModelFacts, choose_types, recipe

TYPE_NAMES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
CONTEXTS = (8192, 32768)
GB = 1e9
MACHINES = (8, 16, 24, 32, 64, 96, 128, 192, 256, 512)
FITTED = ("Intern-S1", "Intern-S1-mini", "InternLM3-8B", "InternLM2.5-20B")
WANTED = LoadOptions(num_ctx=CONTEXTS[0])

_QWEN3 = {"max_position_embeddings": 40960, "vocab_size": 153216, "hidden_size": 4096, "head_dim": 128}
_VISION = {"image_size": 448, "patch_size": 14, "hidden_act": "gelu", "use_mean_pooling": True}
_INTERNLM2 = {"max_position_embeddings": 32768, "vocab_size": 92544}
_TOWER_6B = {
    **_VISION, "hidden_size": 3200, "num_hidden_layers": 45, "num_attention_heads": 25, "intermediate_size": 12800,
    "norm_type": "rms_norm", "use_qk_norm": True, "attention_bias": False,
}  # fmt: skip
_TOWER_300M = {
    **_VISION, "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096,
    "norm_type": "layer_norm", "use_qk_norm": False, "attention_bias": True,
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Model:
    """A released model: the numbers of its config.json that decide its size."""

    name: str
    architecture: str
    config: dict[str, Any]
    vision: dict[str, Any] | None = None


MODELS = (
    Model("Intern-S1", "qwen3", {
        **_QWEN3, "architectures": ["Qwen3MoeForCausalLM"], "num_hidden_layers": 94, "num_attention_heads": 64,
        "num_key_value_heads": 4, "intermediate_size": 12288, "moe_intermediate_size": 1536, "num_experts": 128,
        "num_experts_per_tok": 8,
    }, _TOWER_6B),
    Model("Intern-S1-mini", "qwen3", {
        **_QWEN3, "architectures": ["Qwen3ForCausalLM"], "num_hidden_layers": 36, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 12288,
    }, _TOWER_300M),
    Model("InternLM3-8B", "internlm3", {
        "max_position_embeddings": 32768, "vocab_size": 128512, "hidden_size": 4096, "head_dim": 128,
        "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 2, "intermediate_size": 10240,
    }),
    Model("InternLM2.5-20B", "internlm2", {
        **_INTERNLM2, "hidden_size": 6144, "num_hidden_layers": 48, "num_attention_heads": 48, "num_key_value_heads": 8,
        "intermediate_size": 16384,
    }),
    Model("InternLM2.5-7B", "internlm2", {
        **_INTERNLM2, "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        "intermediate_size": 14336,
    }),
    Model("InternLM2.5-1.8B", "internlm2", {
        **_INTERNLM2, "hidden_size": 2048, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8,
        "intermediate_size": 8192,
    }),
)  # fmt: skip


class _AsAsked(tuple[int, ...]):
    """A shape that is the one that was asked for."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = tuple.__hash__


@dataclass(slots=True)
class _Everything:
    """Stands for a checkpoint that has every tensor in the shape that the config asks for."""

    config: dict[str, Any]
    tensors: dict[str, TensorEntry] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    name: str = ""

    def entry(self, name: str) -> TensorEntry:
        return TensorEntry(name, Path(name), "BF16", _AsAsked((1, 1)), 0, 0)

    def json(self, name: str) -> dict[str, Any]:
        return {}

    def text(self, name: str) -> None:
        return None


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of the language model, of the vision file in Q8_0 (0 without one), and of the cache for one token."""

    model: int
    vision: int
    cache: int


@cache
def size(model: Model, type_name: str) -> Size:
    """What `model` takes in a type of quant.recipes."""
    config = model.config
    cache = 2 * 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * _head_width(config)
    return Size(sum(tensor.n_bytes for tensor in _tensors(model, type_name)), _vision_bytes(model), cache)


def parameters(model: Model) -> int:
    """Numbers in the language model."""
    return sum(math.prod(tensor.shape) for tensor in _language(model)[0])


def tables() -> str:
    """The tables as they stand in docs/models.md."""
    return "\n".join(line for model in MODELS for line in _table(model))


def machines() -> str:
    """The largest type of each model that fits a machine's memory, as `interns1 doctor` counts it."""
    models = [model for name in FITTED for model in MODELS if model.name == name]
    rows = [f"| memory | {' | '.join(FITTED)} |", "|---" * (len(FITTED) + 1) + "|"]
    for machine in MACHINES:
        rows.append(f"| {machine} GB | {' | '.join(_largest(model, machine) for model in models)} |")
    return "\n".join(rows) + "\n"


def _largest(model: Model, memory: int) -> str:
    machine = simulated_machine((), f"{memory}GB", Machine())
    return next((name for name in TYPE_NAMES if fit(WANTED, _shape(model, name), machine).fits), "-")


@cache
def _shape(model: Model, type_name: str) -> ModelShape:
    config = model.config
    text = TextShape(
        config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"],
        config["num_key_value_heads"], _head_width(config), config["vocab_size"], config["max_position_embeddings"],
        config["intermediate_size"], config.get("num_experts", 0), config.get("num_experts_per_tok", 0),
        config.get("moe_intermediate_size", 0),
    )  # fmt: skip
    named = [(tensor.name, tensor.shape, tensor.type, tensor.n_bytes) for tensor in _tensors(model, type_name)]
    vision, tower = None, model.vision
    if tower is not None:
        sizes = tower["hidden_size"], tower["intermediate_size"], tower["num_attention_heads"]
        vision = VisionShape(_vision_bytes(model), *sizes, (tower["image_size"] // tower["patch_size"]) ** 2 + 1)
    return shape_of(text.metadata(), named, vision)


def _table(model: Model) -> Iterator[str]:
    first = size(model, TYPE_NAMES[0])
    seeing = f", and a vision file of {_gb(first.vision)} (Q8_0)" if first.vision else ""
    yield f"### {model.name}"
    yield ""
    cache = f"The cache takes {first.cache / 1024:.0f} KiB a token."
    yield f"{parameters(model) / GB:.1f} billion parameters{seeing}. {cache}"
    yield ""
    yield "| type | file | memory at 8,192 tokens | memory at 32,768 tokens |"
    yield "|---|---|---|---|"
    for name in TYPE_NAMES:
        found = size(model, name)
        memory = [_gb(found.model + found.vision + found.cache * context) for context in CONTEXTS]
        yield f"| {name} | {_gb(found.model)} | {memory[0]} | {memory[1]} |"
    yield ""


def _gb(n: int) -> str:
    return f"{n / GB:.0f} GB" if n >= 100 * GB else f"{n / GB:.1f} GB"


def _head_width(config: dict[str, Any]) -> int:
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


@cache
def _tensors(model: Model, type_name: str) -> list[TensorSpec]:
    plans, facts = _language(model)
    named = [(plan.name, plan.shape) for plan in plans]
    types = choose_types(named, recipe(type_name), facts)
    return [TensorSpec(name, shape, type or "F32") for (name, shape), type in zip(named, types, strict=True)]


@cache
def _language(model: Model) -> tuple[list[TensorPlan], ModelFacts]:
    checkpoint: Any = _Everything(model.config)
    if model.architecture == "qwen3":
        config = qwen3.Config.from_dict(model.config)
        return qwen3.tensors(checkpoint, config, "model.", "lm_head.weight"), config.facts
    family = llama.Config.from_dict(model.config)
    if model.architecture == "internlm3":
        return internlm3._tensors(checkpoint, family), family.facts("llama")
    plans = internlm2.tensors(checkpoint, family)
    vocab, hidden = family.vocab_size, family.hidden_size
    plans.append(TensorPlan("output.weight", (vocab, hidden), ()))
    return plans, family.facts("internlm2")


def _vision_bytes(model: Model) -> int:
    if model.vision is None:
        return 0
    checkpoint: Checkpoint | Any = _Everything({"vision_config": model.vision})
    plan = interns1_vision.plan(checkpoint, "model.", model.config["hidden_size"])
    named = [(tensor.name, tensor.shape) for tensor in plan.tensors]
    types = [interns1_vision.choose_type(name, shape, "Q8_0") for name, shape in named]
    return sum(TensorSpec(*pair, type).n_bytes for pair, type in zip(named, types, strict=True))


if __name__ == "__main__":
    print(machines())
    print(tables())
