"""A model's adapters: LoRAs in GGUF files or in PEFT's files, checked against the model before llama.cpp sees them.

llama.cpp compares two dimensions of each tensor and takes the rest on trust: with other numbers of experts it reads
outside of the tensor, with a key of another type it ends the process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store import manifest as media
from interns1_local.store.adapter_names import NAME_KEY, Files
from interns1_local.store.create_files import adopt, blob_layer, foreign_errors, link_files, read_gguf
from interns1_local.store.manifest import Layer
from interns1_local.store.model_store import ModelStore

# What converters write, and what every operation of llama.cpp on these tensors takes.
TYPES = ("F32", "F16", "BF16", "Q8_0")
ALPHA = "adapter.lora.alpha"
INVOCATION = "adapter.alora.invocation_tokens"
TOKEN_EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"

_A, _B = ".lora_a", ".lora_b"
_GGUF_FLOAT32 = 6
_CONVERT_FIRST = "the adapter is in safetensors format: make a model of it first (interns1 create)"

Shape = tuple[int, ...]


def replace_adapters(
    layers: list[Layer],
    store: ModelStore,
    adapters: Mapping[str, Files],
    workspace: Path,
    report: Callable[[dict[str, Any]], None],
) -> None:
    """Put `adapters`, by their names, in the place of old ones. Raises BadRequest when one does not fit the model."""
    model = next(layer for layer in layers if layer.media_type == media.MODEL)
    model_path = store.blobs.path(model.digest)
    layers[:] = [layer for layer in layers if layer.media_type != media.ADAPTER]
    for place, (name, files) in enumerate(adapters.items()):
        converts = any(map(_is_safetensors, files))
        if converts:
            report({"status": "converting adapter"})
            path = _convert(files, model_path, workspace / f"adapter-{place}")
        else:
            path = adapter_file(files)
            report({"status": "parsing GGUF"})
        for warning in check_adapter(path, model_path):
            report({"status": f"warning: {warning}"})
        layer = (adopt if converts else blob_layer)(store, path, media.ADAPTER)
        layers.append(replace(layer, extra={NAME_KEY: name}))


def check_adapter(path: Path, model_path: Path) -> list[str]:
    """BadRequest unless llama.cpp can apply all of the adapter to the model; gives what it will pass over."""
    if not path.is_file():
        raise BadRequest(f"the adapter file {path} is missing; create or pull the model again")
    adapter, model = read_gguf(path), read_gguf(model_path)
    _check_kind(adapter, model.architecture)
    theirs = {tensor.name: tensor for tensor in model.tensors}
    pairs, norms = _pairs(adapter)
    for name, (a, b) in pairs.items():
        base = theirs.get(name)
        if base is None:
            raise BadRequest(
                f"the adapter changes the tensor {name!r}, which the model does not have: it was made for another "
                "model; give the adapter's own base model in FROM"
            )
        if name == TOKEN_EMBEDDING and OUTPUT not in theirs:
            raise BadRequest(
                f"the adapter changes {name}, which is the model's output matrix as well; llama.cpp cannot apply "
                "such an adapter: train one without the embeddings, or merge it into the model"
            )
        if base.type == "NVFP4":
            raise BadRequest(f"the model's {name} is NVFP4, which takes no adapter; give the model in another type")
        _check_pair(name, base.shape, a, b)
    return [f"llama.cpp does not apply the adapter's {len(norms)} norm weights ({norms[0]} ...)"] if norms else []


def adapter_file(files: Files) -> Path:
    """The one file of weights among the files of an adapter."""
    weights = {name: path for name, path in files.items() if not name.lower().endswith((".json", ".md", ".txt"))}
    if any(map(_is_safetensors, weights)):
        raise BadRequest(_CONVERT_FIRST)
    if len(weights) > 1:
        raise BadRequest(f"an adapter is one GGUF file, not {', '.join(weights)}; an ADAPTER line names one of them")
    if not weights:
        raise BadRequest(f"the adapter's files ({', '.join(files)}) hold no weights; an adapter is one GGUF file")
    return next(iter(weights.values()))


def _is_safetensors(name: str) -> bool:
    return name.lower().endswith(".safetensors")


def _convert(files: Files, model_path: Path, workspace: Path) -> Path:
    """A PEFT adapter as GGUF."""
    weights, *others = filter(_is_safetensors, files)
    if others:
        raise BadRequest(f"an adapter is one safetensors file, not {', '.join((weights, *others))}; give each a folder")
    from convert.lora import CONFIG, convert_lora

    if CONFIG not in files:
        raise BadRequest(f"an adapter in safetensors format comes with its {CONFIG}; give the folder, or both files")
    folder, output = workspace / "files", workspace / "adapter.gguf"
    link_files(files, folder)
    with foreign_errors():
        convert_lora(folder, weights, read_gguf(model_path), output)
    return output


def _check_kind(adapter: Any, architecture: str) -> None:
    fields = adapter.fields
    kind, method = fields.get("general.type"), fields.get("adapter.type")
    if kind != "adapter":
        raise BadRequest(
            f"the file given as adapter is none: its general.type is {kind!r}, expected was 'adapter'; "
            "a model's own file belongs into FROM"
        )
    if method != "lora":
        raise BadRequest(f"the adapter is of type {method!r}; only 'lora' is supported")
    if adapter.architecture != architecture:
        raise BadRequest(
            f"the adapter is for the architecture {adapter.architecture!r}, the model's is {architecture!r}; "
            "give an adapter that was made for this model"
        )
    if INVOCATION in fields:
        raise BadRequest(
            "the adapter is an activated LoRA (it waits for invocation tokens); only plain LoRA is supported"
        )
    alpha = fields.get(ALPHA)
    if ALPHA not in fields:
        raise BadRequest(
            f"the adapter lacks the key {ALPHA}; convert it again with llama.cpp's convert_lora_to_gguf.py"
        )
    start = adapter.spans[ALPHA][0]
    with adapter.path.open("rb") as file:
        file.seek(start)
        type_id = int.from_bytes(file.read(4), "little")
    if type_id != _GGUF_FLOAT32 or not isinstance(alpha, float) or not math.isfinite(alpha) or not alpha:
        raise BadRequest(f"the adapter's {ALPHA} is {alpha!r}; expected was a finite float32 other than 0")


def _pairs(adapter: Any) -> tuple[dict[str, tuple[Shape, Shape]], list[str]]:
    """The shapes of A and B by the tensor that they change, and the tensors that llama.cpp passes over."""
    halves: dict[str, dict[str, Shape]] = {}
    norms = []
    for tensor in adapter.tensors:
        stem, suffix = tensor.name[: -len(_A)], tensor.name[-len(_A) :]
        if suffix not in (_A, _B):
            if not tensor.name.endswith("_norm.weight"):
                raise BadRequest(f"the adapter's tensor {tensor.name!r} is not part of a LoRA (X{_A}, X{_B})")
            norms.append(tensor.name)
            continue
        if tensor.type not in TYPES:
            raise BadRequest(f"the adapter's tensor {tensor.name} is {tensor.type}; expected was {', '.join(TYPES)}")
        halves.setdefault(stem, {})[suffix] = tensor.shape
    for stem, found in halves.items():
        missing = {_A, _B} - found.keys()
        if missing:
            raise BadRequest(f"the adapter has no {stem}{missing.pop()}; the two parts of a LoRA go together")
    if not halves:
        raise BadRequest(f"the adapter changes nothing: it has no tensors X{_A} and X{_B}; was it converted whole?")
    return {stem: (found[_A], found[_B]) for stem, found in halves.items()}, norms


def _check_pair(name: str, base: Shape, a: Shape, b: Shape) -> None:
    """A is [rank, inputs] and B [outputs, rank], for each expert; of the embeddings, A is read by rows of tokens."""
    if len(base) not in (2, 3):
        raise BadRequest(
            f"the adapter changes {name}, which is no matrix (shape {list(base)}); llama.cpp cannot do that"
        )
    rank = b[-1]
    *experts, outputs, inputs = base
    wanted_a, wanted_b = (*experts, rank, inputs), (*experts, outputs, rank)
    if name == TOKEN_EMBEDDING:
        wanted_a, wanted_b = (outputs, rank), (inputs, rank)
    if rank < 1 or _plain(a, len(base)) != wanted_a or _plain(b, len(base)) != wanted_b:
        raise BadRequest(
            f"the adapter's tensors for {name} have shapes {list(a)} and {list(b)}; the model's {list(base)} with rank "
            f"{rank} asks for {list(wanted_a)} and {list(wanted_b)}: was it made for this model?"
        )


def _plain(shape: Shape, n_dimensions: int) -> Shape:
    """Without leading dimensions of 1 beyond those of the base."""
    extra = len(shape) - n_dimensions
    return shape[extra:] if extra > 0 and set(shape[:extra]) == {1} else shape
