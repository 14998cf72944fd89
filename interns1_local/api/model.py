"""The model that an Interns1 runs: a stored one by its name, or files where they lie."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from interns1_local.config import Settings
from interns1_local.errors import BadRequest, ModelNotFound
from interns1_local.runners.model_spec import read_model_facts
from interns1_local.store.adapter import adapter_file
from interns1_local.store.adapter_names import StoredAdapter
from interns1_local.store.create import plan_from_modelfile
from interns1_local.store.draft import draft_file
from interns1_local.store.manifest import CONFIG_TYPE, TEMPLATE_GIVEN, Layer, Manifest
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.modelfile import parse
from interns1_local.store.name import ModelName
from interns1_local.store.nano import is_nano, pull_nano
from interns1_local.store.sidecars import (
    SIDECAR_ARCHITECTURE,
    missing_science,
    sidecars_in,
    take_sidecars,
    write_sidecar,
)

_GGUF = b"GGUF"


def open_model(name: str | Path, mmproj: Path | None, settings: Settings) -> StoredModel:
    """`name` is a GGUF file, a Modelfile, or a model of the store; `nano` is made at its first use."""
    path = Path(name).expanduser()
    store = ModelStore(settings.models_dir)
    if str(name).lower().endswith(".gguf") or (path.is_file() and _starts(path) == _GGUF):
        return _from_files(path, mmproj, settings.cache_dir)
    if mmproj is not None:
        raise BadRequest("mmproj goes with a GGUF file; a stored model and a Modelfile name their own")
    if path.is_file():
        return _from_modelfile(path, store, settings.cache_dir)
    if isinstance(name, Path) or (path.is_dir() and len(path.parts) > 1):
        reason = "is a folder: make a model of what is in it (interns1 create)" if path.is_dir() else "is not there"
        raise ModelNotFound(f"{path} {reason}; a GGUF file, a Modelfile or a stored model's name was expected")
    return _stored(store, str(name))


def _stored(store: ModelStore, name: str) -> StoredModel:
    found = store.find(name)
    if found is None and is_nano(name):
        return pull_nano(store)
    if found is None:
        raise ModelNotFound(f"model '{name}' not found in {store.root}: pull or create it, or give a file's path")
    return store.resolve(found)


def _from_modelfile(path: Path, store: ModelStore, cache: Path) -> StoredModel:
    """The model as `create` would make it, but where its files lie: nothing is copied."""
    modelfile = parse(path.read_bytes())
    if modelfile.sources == ["nano"]:
        _stored(store, "nano")
    plan = plan_from_modelfile(store, modelfile, path.parent)
    files = take_sidecars(plan.files)[1]
    if plan.base is not None:
        model = plan.base
    elif files and all(_starts(file) == _GGUF for file in files):
        kinds: dict[str, list[Path]] = {"clip": [], SIDECAR_ARCHITECTURE: [], "": []}
        for file in files:
            architecture = read_model_facts(file).architecture
            kinds[architecture if architecture in kinds else ""].append(file)
        vision, sidecars, models = kinds.values()
        if len(models) != 1 or len(vision) > 1 or len(sidecars) > 1:
            raise BadRequest(f"{path}: a model is made of one model file and at most one vision file")
        model = _from_files(models[0], vision[0] if vision else None, cache)
        model = replace(model, sidecar_path=sidecars[0] if sidecars else model.sidecar_path)
    else:
        raise BadRequest(
            f"{path} starts from a checkpoint or a server: make a model of it first (interns1 create NAME -f {path})"
        )
    adapters = tuple(StoredAdapter(name, adapter_file(files)) for name, files in plan.adapters.items())
    return replace(
        model,
        adapters=adapters or model.adapters,
        draft_path=draft_file(plan.draft) if plan.draft else model.draft_path,
        template=model.template if plan.template is None else plan.template,
        system=model.system if plan.system is None else plan.system,
        config={**model.config, TEMPLATE_GIVEN: True} if plan.template else model.config,
        params={**model.params, **plan.parameters},
        messages=[dict(message) for message in plan.messages] or model.messages,
    )


def _from_files(path: Path, mmproj: Path | None, cache: Path) -> StoredModel:
    for file in filter(None, (path, mmproj)):
        if not file.is_file():
            raise ModelNotFound(f"there is no file {file}")
    status = path.stat()
    digest = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    manifest = Manifest(Layer(CONFIG_TYPE, "", 0), ())
    modified = datetime.fromtimestamp(status.st_mtime, UTC)
    return StoredModel(ModelName.parse("file"), manifest, digest, modified, path, mmproj, _sidecar(path, cache))


def _sidecar(path: Path, cache: Path) -> Path | None:
    """What the checkpoint's small files beside a model file bring, if that lacks the science vocabularies."""
    beside = sidecars_in(path.parent)
    if not beside or missing_science(read_model_facts(path).metadata) is None:
        return None
    stamps = [(str(file.resolve()), file.stat().st_mtime_ns) for file in (path, *beside.values())]
    output = cache / "sidecars" / f"{hashlib.sha256(repr(stamps).encode()).hexdigest()}.gguf"
    if output.is_file():
        return output
    output.parent.mkdir(parents=True, exist_ok=True)
    return output if write_sidecar(path.parent, path, output) else None


def _starts(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(len(_GGUF))
