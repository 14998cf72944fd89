"""Making a stored model: from GGUF files, from a safetensors checkpoint, or from a model that is there already."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from interns1_local.errors import BadRequest, InternS1Error, Unsupported
from interns1_local.store import manifest as media
from interns1_local.store.adapter import replace_adapters
from interns1_local.store.adapter_names import Files, adapter_lines, check_default
from interns1_local.store.create_files import (
    adopt,
    blob_layer,
    check_widths,
    foreign_errors,
    link_files,
    new_layers,
    open_workspace,
    read_gguf,
)
from interns1_local.store.draft import draft_files, replace_draft
from interns1_local.store.manifest import Layer, Manifest
from interns1_local.store.mmproj_repair import needs_repair, repaired_layer
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.modelfile import Modelfile
from interns1_local.store.name import ModelName
from interns1_local.store.sidecars import (
    SIDECAR_ARCHITECTURE,
    missing_science,
    sidecars_in,
    take_sidecars,
    vision_keys,
    write_sidecar,
)
from interns1_local.store.upstream import Upstream, is_upstream, parse_upstream

Status = dict[str, Any]
Progress = Callable[[Status], None]

_PROGRESS_SECONDS = 0.06
# What of a config a Modelfile says, and no file.
_CHOSEN = ("renderer", "parser", "requires")
# Ollama's clients draw one bar for a digest; the work of a conversion has none.
_NO_DIGEST = "0000000000000000000"
_REPAIRING = "repairing the vision file: its position rows do not suit llama.cpp"
_UNQUANTIZED = ("F32", "F16", "BF16")


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What a new model is made of: one of `base`, `files` (by the name each had), `folder`, `checkpoint`; then changes.

    `checkpoint` is one on a hub, as `convert` names it (hf:owner/repo): it is read as it is converted.
    """

    base: StoredModel | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    folder: Path | None = None
    checkpoint: str | None = None
    quantize: str | None = None
    template: str | None = None
    system: str | None = None
    licenses: tuple[str, ...] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, Any], ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    # LoRAs by their names; they take the place of those that `base` has.
    adapters: Mapping[str, Files] = field(default_factory=dict)
    # A draft model, by the name that its file had, likewise.
    draft: Mapping[str, Path] = field(default_factory=dict)
    # Another server that computes for the model; it takes the place of files.
    upstream: Upstream | None = None


def plan_from_modelfile(
    store: ModelStore, modelfile: Modelfile, base_dir: Path, quantize: str | None = None
) -> ModelPlan:
    """FROM names a file or folder that exists (relative to the Modelfile), or a stored model."""
    upstream = parse_upstream(modelfile.sources[0]) if is_upstream(modelfile.sources[0]) else None
    paths = [base_dir / Path(source).expanduser() for source in modelfile.sources]
    shared: dict[str, Any] = {
        "quantize": quantize,
        "template": modelfile.last("template"),
        "system": modelfile.last("system"),
        "licenses": tuple(modelfile.values("license")),
        "parameters": modelfile.parameters,
        "messages": tuple(modelfile.messages),
        "adapters": adapter_lines(modelfile.values("adapter"), base_dir),
        "draft": draft_files(modelfile.last("draft"), base_dir, store),
        "config": {key: value for key in _CHOSEN if (value := modelfile.last(key))},
    }
    if upstream is not None:
        return ModelPlan(upstream=upstream, **shared)
    if len(paths) == 1 and paths[0].is_dir():
        return ModelPlan(folder=paths[0], **shared)
    if all(path.is_file() for path in paths):
        beside: dict[str, Path] = {}
        for path in paths:
            beside = {**sidecars_in(path.parent), **beside}
        return ModelPlan(files={**{str(path): path for path in paths}, **beside}, **shared)
    if len(paths) == 1:
        return ModelPlan(base=store.resolve(modelfile.sources[0]), **shared)
    missing = next(source for source, path in zip(modelfile.sources, paths, strict=True) if not path.is_file())
    raise BadRequest(f"FROM {missing}: there is no such file")


def create(store: ModelStore, name: ModelName, plan: ModelPlan, progress: Progress | None = None) -> StoredModel:
    """Make the model `name`. The manifest is written last, so a create that fails leaves no model behind."""
    report = progress or (lambda status: None)
    _check_upstream(plan)
    with open_workspace(store) as workspace, new_layers(store) as layers:
        config = _add_model(layers, store, name, plan, workspace, report)
        if plan.adapters:
            replace_adapters(layers, store, plan.adapters, workspace, report)
        if plan.draft:
            replace_draft(layers, store, plan.draft, report)
        check_default({**(plan.base.params if plan.base else {}), **plan.parameters}, layers)
    layers = _override(store, layers, plan)
    config = {**config, **plan.config}
    if plan.template or (plan.base is not None and plan.base.template_given):
        config[media.TEMPLATE_GIVEN] = True
    for layer in layers:
        report({"status": f"creating new layer {layer.digest}"})
    if plan.upstream is not None:
        store.name_upstream(plan.upstream.url)
    config_layer = store.add_layer(media.CONFIG_TYPE, json.dumps(_image_config(config, layers)).encode())
    report({"status": "writing manifest"})
    written = store.write(name, Manifest(config_layer, tuple(layers)))
    report({"status": "success"})
    return store.resolve(written)


def _check_upstream(plan: ModelPlan) -> None:
    """BadRequest for what only a model with files can have."""
    upstream = plan.upstream or (plan.base.upstream if plan.base is not None else None)
    if upstream is None:
        return
    if not upstream.model:
        raise BadRequest(f"FROM {upstream.url} names no model; expected {upstream.url}#MODEL")
    for given, word in (
        (plan.quantize, "quantized"),
        (plan.adapters, "given an ADAPTER"),
        (plan.draft, "given a DRAFT"),
    ):
        if given:
            raise BadRequest(f"a model that {upstream.url} computes cannot be {word} here: it has no weights")


def human_count(count: int) -> str:
    """8190735360 -> `8.19B`, as Ollama writes the size of a model."""
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "K")):
        if count >= size:
            number = count / size
            return f"{number:.{0 if number >= 100 else 1 if number >= 10 else 2}f}{unit}"
    return str(count)


def _add_model(
    layers: list[Layer], store: ModelStore, name: ModelName, plan: ModelPlan, workspace: Path, report: Progress
) -> dict[str, Any]:
    """Put the model's own layers into `layers`; gives its config."""
    if plan.base is not None:
        for layer in plan.base.manifest.layers:
            if layer.media_type == media.MODEL and plan.quantize:
                layers.append(_add_gguf(store, plan.base.model_path, plan.quantize, workspace, report, {}))
            else:
                layers.append(_sound_layer(store, layer, workspace, report))
        if not plan.quantize:
            return dict(plan.base.config)
        chosen = {key: value for key, value in plan.base.config.items() if key in _CHOSEN}
        return {**_describe(store, layers), **chosen}
    if plan.upstream is not None:
        layers.append(store.add_layer(media.UPSTREAM, plan.upstream.to_bytes()))
        family = plan.upstream.family
        return {"model_format": "upstream", "model_family": family, "model_families": [family]}
    if plan.checkpoint is not None:
        _convert(layers, store, plan.checkpoint, plan.quantize, workspace, report)
    elif any(file.lower().endswith(".safetensors") for file in plan.files):
        # The converter names a model for its folder when the checkpoint does not name it.
        folder = workspace / "files" / name.model
        link_files(plan.files, folder)
        _convert(layers, store, folder, plan.quantize, workspace, report)
    elif plan.folder is not None and any(plan.folder.glob("*.safetensors")):
        _convert(layers, store, plan.folder, plan.quantize, workspace, report)
    else:
        _add_files(layers, store, plan, workspace, report)
    return _describe(store, layers)


def _add_files(layers: list[Layer], store: ModelStore, plan: ModelPlan, workspace: Path, report: Progress) -> None:
    if plan.folder is not None:
        sidecars, paths = sidecars_in(plan.folder), sorted(plan.folder.glob("*.gguf"))
    else:
        sidecars, paths = take_sidecars(plan.files)
    if not paths:
        nothing = f"{plan.folder} holds neither safetensors nor GGUF files"
        raise BadRequest(nothing if plan.folder else "no files provided to convert")
    if sidecars:
        report({"status": f"found {', '.join(sorted(sidecars))}"})
    given_names = {path: Path(name).name for name, path in plan.files.items()}
    read = {path: read_gguf(path, name=given_names.get(path, "")) for path in paths}
    kinds = {path: _media_type(metadata) for path, metadata in read.items()}
    models, projectors, stored = (
        [path for path in paths if kinds[path] == kind] for kind in (media.MODEL, media.PROJECTOR, media.SIDECAR)
    )
    if len(models) != 1 or len(projectors) > 1 or len(stored) > 1:
        given = f"given were {len(models)} model files and {len(projectors)} projectors"
        raise BadRequest(f"a model is made of one model file and at most one projector; {given}")
    for path in projectors:
        check_widths(read[models[0]], read[path], given_names.get(path, path.name))
    beside = workspace / "sidecars"
    beside.mkdir()
    link_files(sidecars, beside)
    keys = vision_keys(beside)
    # The model last: it is the one that takes long, and nothing is wrong with the others then.
    layers += [] if stored else _sidecar_layers(store, models[0], beside, workspace, report)
    for path in (*stored, *projectors, *models):
        report({"status": "parsing GGUF"})
        layers.append(_add_gguf(store, path, plan.quantize, workspace, report, keys))
    # In a manifest the model comes first.
    layers.reverse()


def _sidecar_layers(store: ModelStore, model: Path, folder: Path, workspace: Path, report: Progress) -> list[Layer]:
    """What the files beside the model add to it, if they do; and a word about what is still missing."""
    output, fields = workspace / "sidecar.gguf", dict(read_gguf(model, arrays=True).fields)
    if write_sidecar(folder, model, output):
        report({"status": "adding the vocabularies and settings of the files beside the model"})
        fields |= read_gguf(output, arrays=True).fields
    lost = missing_science(fields)
    if lost is not None:
        report({"status": f"warning: {lost}"})
    return [adopt(store, output, media.SIDECAR)] if output.is_file() else []


def _sound_layer(store: ModelStore, layer: Layer, workspace: Path, report: Progress) -> Layer:
    """The layer, or a repaired one: a vision file may have been stored by others."""
    if layer.media_type != media.PROJECTOR or not needs_repair(read_gguf(store.blobs.path(layer.digest))):
        return layer
    report({"status": _REPAIRING})
    return repaired_layer(store, store.blobs.path(layer.digest), workspace)


def _add_gguf(
    store: ModelStore,
    path: Path,
    quantize: str | None,
    workspace: Path,
    report: Progress,
    keys: Mapping[str, Any],
) -> Layer:
    """One GGUF file as a layer, quantized first when asked."""
    metadata = read_gguf(path)
    if int(metadata.fields.get("split.count", 1)) > 1:
        raise Unsupported(f"{path.name} is one part of a split model; merge the parts first (llama-gguf-split --merge)")
    kind = _media_type(metadata)
    if kind == media.PROJECTOR:
        if not needs_repair(metadata):
            return blob_layer(store, path, media.PROJECTOR)
        report({"status": _REPAIRING})
        return repaired_layer(store, path, workspace, keys)
    if kind == media.SIDECAR or not quantize:
        return blob_layer(store, path, kind)
    before = _file_type(metadata.fields)
    if before not in _UNQUANTIZED:
        raise InternS1Error("quantization is only supported for F16, BF16 and F32 models")
    _check_type(quantize)
    from quant.requantize import requantize

    output = workspace / "quantized.gguf"
    status = f"quantizing {before} model to {quantize.upper()}"
    with foreign_errors():
        requantize(path, output, quantize.upper(), progress=_reporter(report, status))
    return adopt(store, output, media.MODEL)


def _media_type(metadata: Any) -> str:
    if metadata.architecture == "clip" or metadata.fields.get("general.type") == "mmproj":
        return media.PROJECTOR
    return media.SIDECAR if metadata.architecture == SIDECAR_ARCHITECTURE else media.MODEL


def _convert(
    layers: list[Layer],
    store: ModelStore,
    folder: Path | str,
    quantize: str | None,
    workspace: Path,
    report: Progress,
) -> None:
    """A checkpoint as a model layer and, when it can see, a projector layer."""
    kind = (quantize or "BF16").upper()
    _check_type(kind)
    from convert.hf_to_gguf import convert

    model, mmproj = workspace / "model.gguf", workspace / "mmproj.gguf"
    mmproj_type = "F16" if kind in _UNQUANTIZED else "Q8_0"
    with foreign_errors():
        convert(
            folder,
            model,
            type=kind,
            mmproj=mmproj,
            mmproj_type=mmproj_type,
            progress=_reporter(report, f"converting model to {kind}"),
        )
    layers.append(adopt(store, model, media.MODEL))
    if mmproj.is_file():
        layers.append(adopt(store, mmproj, media.PROJECTOR))


def _override(store: ModelStore, layers: list[Layer], plan: ModelPlan) -> list[Layer]:
    """The layers of the model with those of the plan in the place of the old ones."""

    def replace(media_type: str, text: str) -> None:
        kept[:] = [layer for layer in kept if layer.media_type != media_type]
        if text:
            kept.append(store.add_layer(media_type, text.encode()))

    kept = list(layers)
    if plan.template is not None:
        kept = [layer for layer in kept if layer.media_type != media.PROMPT]
        replace(media.TEMPLATE, plan.template)
    if plan.system is not None:
        replace(media.SYSTEM, plan.system)
    kept += [store.add_layer(media.LICENSE, text.encode()) for text in plan.licenses]
    if plan.parameters:
        before = dict(plan.base.params) if plan.base is not None else {}
        replace(media.PARAMS, json.dumps({**before, **plan.parameters}))
    if plan.messages:
        replace(media.MESSAGES, json.dumps([dict(message) for message in plan.messages]))
    return kept


def _describe(store: ModelStore, layers: list[Layer]) -> dict[str, Any]:
    """What the config says about the model file."""
    model = next(layer for layer in layers if layer.media_type == media.MODEL)
    metadata = read_gguf(store.blobs.path(model.digest))
    values, architecture = metadata.fields, metadata.architecture
    parameters = int(values.get("general.parameter_count") or sum(math.prod(t.shape) for t in metadata.tensors))
    has_projector = any(layer.media_type == media.PROJECTOR for layer in layers)
    return {
        "model_format": "gguf",
        "model_family": architecture,
        "model_families": [architecture, *(["clip"] if has_projector else [])],
        "model_type": human_count(parameters),
        "file_type": _file_type(values),
        "context_length": int(values.get(f"{architecture}.context_length", 0)),
        "embedding_length": int(values.get(f"{architecture}.embedding_length", 0)),
    }


def _image_config(config: dict[str, Any], layers: list[Layer]) -> dict[str, Any]:
    rootfs = {"type": "layers", "diff_ids": [layer.digest for layer in layers]}
    return {**config, "architecture": "amd64", "os": "linux", "rootfs": rootfs}


def file_type_of(path: Path) -> str:
    """The type that a GGUF file says most of it has, such as Q8_0."""
    return _file_type(read_gguf(path).fields)


def _file_type(fields: Mapping[str, Any]) -> str:
    from quant.recipes import RECIPES

    number = fields.get("general.file_type")
    return next((recipe.name for recipe in RECIPES.values() if recipe.file_type == number), "unknown")


def _check_type(kind: str) -> None:
    from quant.recipes import RECIPES

    if kind.upper() not in RECIPES:
        known = ", ".join(RECIPES)
        raise InternS1Error(f"unsupported quantization type {kind.upper()} - supported types are {known}")


def _reporter(report: Progress, status: str) -> Callable[[Any], None]:
    """A callback for convert and requantize that passes on a few reports a second, and always the last."""
    last = 0.0

    def on_progress(progress: Any) -> None:
        nonlocal last
        now = time.monotonic()
        done, total = int(progress.bytes_done), int(progress.bytes_total)
        if now - last >= _PROGRESS_SECONDS or done == total:
            last = now
            report({"status": status, "digest": _NO_DIGEST, "total": total, "completed": done})

    return on_progress
