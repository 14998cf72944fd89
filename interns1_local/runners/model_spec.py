"""What the server knows of a model without loading it: its files, how to load them, what their metadata says."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from interns1_local.errors import LoadError, ModelNotFound
from interns1_local.media.wishes import FRAME_PREFIX, TileSpec
from interns1_local.runners.load_options import LoadOptions
from interns1_local.runners.rope_scaling import DynamicRope
from interns1_local.store.adapter_names import StoredAdapter
from interns1_local.store.mmproj_repair import needs_repair
from interns1_local.store.model_store import StoredModel
from interns1_local.store.options import check_options
from interns1_local.store.sidecars import known_keys, missing_science
from interns1_local.store.upstream import Upstream
from quant.errors import QuantError
from quant.gguf_file import GGUFMetadata, read_metadata

__all__ = [
    "LoadOptions", "ModelFacts", "ModelSpec", "NotEnoughMemory", "VisionFacts", "fit_context", "read_model_facts",
    "vision_facts",
]  # fmt: skip

# llama.cpp's file types, as `general.file_type` holds them.
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS",
    21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S",
    29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0",
    41: "Q2_0",
}  # fmt: skip

_SAMPLING_KEYS = {
    "temp": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "penalty_last_n": "repeat_last_n",
    "penalty_repeat": "repeat_penalty",
}


class NotEnoughMemory(LoadError):
    """A model does not fit. Ollama's clients know the sentence's beginning."""

    code = "not_enough_memory"


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model as the store knows it: its name, its files, and the load options of its Modelfile."""

    name: str
    digest: str
    model_path: Path
    mmproj_path: Path | None = None
    options: LoadOptions = field(default_factory=LoadOptions)
    # What the model file lacks of the checkpoint's tokenizer and settings, see store/sidecars.
    sidecar_path: Path | None = None
    # LoRAs, of which a request chooses one.
    adapters: tuple[StoredAdapter, ...] = ()
    # A smaller model that guesses ahead.
    draft_path: Path | None = None
    # The server that computes for the model; `model_path` is the layer that names it then.
    upstream: Upstream | None = None

    @classmethod
    def of(cls, model: StoredModel, options: Mapping[str, Any] | None = None) -> ModelSpec:
        """Of a model whose Modelfile's options hold, but for those of `options`."""
        load = LoadOptions.from_options({**check_options(model.params), **(options or {})})
        files = model.model_path, model.mmproj_path
        return cls(
            model.name.short, model.digest, *files, load, model.sidecar_path, model.adapters, model.draft_path,
            model.upstream,
        )  # fmt: skip

    @property
    def size(self) -> int:
        """Bytes of the model's files."""
        paths = (self.model_path, self.mmproj_path, self.draft_path)
        return sum(path.stat().st_size for path in paths if path is not None) + self.adapter_bytes

    @property
    def adapter_bytes(self) -> int:
        """Of all adapters: each is loaded."""
        return sum(adapter.size for adapter in self.adapters)


@dataclass(frozen=True, slots=True)
class VisionFacts:
    """How pictures are to be cut for this model, and what one tile costs."""

    tile_size: int
    min_patches: int
    max_patches: int
    use_thumbnail: bool
    tokens_per_tile: int
    # Of films. None: the checkpoint leaves it open.
    num_frames: int | None = None
    fps: float | None = None
    frame_prefix: str = FRAME_PREFIX

    @property
    def tile_spec(self) -> TileSpec:
        """How the model's own processor cuts a picture."""
        return TileSpec(self.tile_size, self.min_patches, self.max_patches, self.use_thumbnail)


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What the metadata of a model's files says. `metadata` and `mmproj_metadata` hold all fields."""

    architecture: str
    parameter_count: int
    context_length: int
    embedding_length: int
    quantization: str
    chat_template: str | None
    sampling_defaults: Mapping[str, float]
    capabilities: tuple[str, ...]
    vision: VisionFacts | None
    bos_token: str
    eos_token: str
    kv_bytes_per_token: int
    metadata: Mapping[str, Any]
    mmproj_metadata: Mapping[str, Any]
    tensors: Sequence[Any] = ()
    dynamic_rope: DynamicRope | None = None
    # Sentences about what the files lack, for a log and for `show`.
    warnings: tuple[str, ...] = ()


def fit_context(options: LoadOptions, facts: ModelFacts) -> LoadOptions:
    """`options` with a context as long as the model can have, and the rotary base that belongs to it."""
    if facts.dynamic_rope is None:
        return options.within(facts.context_length)
    return replace(options, rope_freq_base=facts.dynamic_rope.base_for(options.num_ctx))


def read_model_facts(model_path: Path, mmproj_path: Path | None = None, sidecar_path: Path | None = None) -> ModelFacts:
    """Read the metadata of the files. Kept in memory by path, size and time, as servers ask often."""
    paths = (model_path, mmproj_path, sidecar_path)
    try:
        return _read_facts(*paths, tuple(_stamp(path) for path in paths))
    except (ValueError, TypeError, ArithmeticError) as error:
        raise LoadError(f"the metadata of {model_path} cannot be understood: {error}") from error


@lru_cache(maxsize=64)
def _read_facts(model_path: Path, mmproj_path: Path | None, sidecar_path: Path | None, _stamps: object) -> ModelFacts:
    model = _metadata(model_path)
    mmproj = None if mmproj_path is None else _metadata(mmproj_path)
    values = model.fields
    if sidecar_path is not None:
        values = {**values, **known_keys(_metadata(sidecar_path).fields)}
    architecture = str(values.get("general.architecture", "unknown"))
    template = values.get("tokenizer.chat_template")
    return ModelFacts(
        architecture=architecture,
        parameter_count=int(values.get("general.parameter_count") or sum(math.prod(t.shape) for t in model.tensors)),
        context_length=int(values.get(f"{architecture}.context_length", 0)),
        embedding_length=int(values.get(f"{architecture}.embedding_length", 0)),
        quantization=FILE_TYPES.get(int(values.get("general.file_type", -1)), "unknown"),
        chat_template=template,
        sampling_defaults=MappingProxyType(_sampling_defaults(values)),
        capabilities=_capabilities(values, architecture, template, mmproj),
        vision=None if mmproj is None else vision_facts(mmproj.fields),
        bos_token=_token_text(values, "bos"),
        eos_token=_token_text(values, "eos"),
        kv_bytes_per_token=_kv_bytes_per_token(values, architecture),
        metadata=MappingProxyType(dict(values)),
        mmproj_metadata=MappingProxyType({} if mmproj is None else dict(mmproj.fields)),
        tensors=tuple(model.tensors),
        dynamic_rope=DynamicRope.of(values, architecture),
        warnings=_warnings(values, mmproj),
    )


def _warnings(values: Mapping[str, Any], mmproj: GGUFMetadata | None) -> tuple[str, ...]:
    lost = missing_science(values)
    found = [] if lost is None else [lost]
    if mmproj is not None and needs_repair(mmproj):
        found.append(
            "the vision file gives each patch its neighbour's position, as the stock converter writes it: "
            "a repaired copy is used; `interns1 create` stores one"
        )
    return tuple(found)


def _metadata(path: Path) -> GGUFMetadata:
    try:
        return read_metadata(path, lazy=True)
    except FileNotFoundError:
        raise ModelNotFound(f"the model file {path} is missing") from None
    except (QuantError, OSError) as error:
        raise LoadError(f"cannot read {path}: {error}") from error


def _stamp(path: Path | None) -> tuple[int, int] | None:
    if path is None:
        return None
    try:
        status = path.stat()
    except OSError:
        raise ModelNotFound(f"the model file {path} is missing") from None
    return status.st_size, status.st_mtime_ns


def _sampling_defaults(values: Mapping[str, Any]) -> dict[str, float]:
    found = {name: values.get(f"general.sampling.{key}") for key, name in _SAMPLING_KEYS.items()}
    return {name: value for name, value in found.items() if value is not None}


def _capabilities(
    values: Mapping[str, Any], architecture: str, template: str | None, mmproj: GGUFMetadata | None
) -> tuple[str, ...]:
    """Ollama's names, found by Ollama's rules."""
    if "interns1.reward.v_head" in values:
        return ("score",)
    if f"{architecture}.pooling_type" in values:
        return ("embedding",)
    text = template or ""
    found = ["completion"]
    if "tools" in text or "tool_call" in text:
        found.append("tools")
    if mmproj is not None or f"{architecture}.vision.block_count" in values:
        found.append("vision")
    if ("<think>" in text and "</think>" in text) or "content.split('</think>')" in text:
        found.append("thinking")
    return tuple(found)


def vision_facts(values: Mapping[str, Any]) -> VisionFacts | None:
    """From the metadata of a vision file; None when it does not say how large a tile is."""
    size, patch = values.get("clip.vision.image_size"), values.get("clip.vision.patch_size")
    if not size or not patch:
        return None
    scale = int(values.get("clip.vision.projector.scale_factor", 2)) or 1
    return VisionFacts(
        tile_size=int(size),
        min_patches=int(values.get("interns1.vision.min_patches", 1)),
        max_patches=int(values.get("interns1.vision.max_patches", 12)),
        use_thumbnail=bool(values.get("interns1.vision.use_thumbnail", True)),
        tokens_per_tile=(int(size) // int(patch) // scale) ** 2,
        num_frames=int(values.get("interns1.video.num_frames", 0)) or None,
        fps=float(values.get("interns1.video.fps", 0)) or None,
        frame_prefix=str(values.get("interns1.video.frame_prefix", FRAME_PREFIX)),
    )


def _token_text(values: Mapping[str, Any], kind: str) -> str:
    token, tokens = values.get(f"tokenizer.ggml.{kind}_token_id"), values.get("tokenizer.ggml.tokens")
    if token is None or tokens is None or not 0 <= int(token) < len(tokens):
        return ""
    return str(tokens[int(token)])


def _kv_bytes_per_token(values: Mapping[str, Any], architecture: str) -> int:
    """Bytes of K and V at 16 bits for one token, over all layers."""

    def read(key: str, default: int) -> Any:
        return values.get(f"{architecture}.{key}", default)

    layers, width = int(read("block_count", 0)), int(read("embedding_length", 0))
    heads = read("attention.head_count", 1)
    heads = heads if isinstance(heads, int) else max(heads, default=1)
    kv_heads = read("attention.head_count_kv", heads)
    total_kv_heads = kv_heads * layers if isinstance(kv_heads, int) else int(sum(kv_heads))
    head = width // max(int(heads), 1)
    return 2 * total_kv_heads * (int(read("attention.key_length", head)) + int(read("attention.value_length", head)))
