"""`pull hf.co/owner/repo[:QUANT]` and `modelscope.cn/...`: GGUF files, or a checkpoint converted as it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store.create import ModelPlan, create
from interns1_local.store.download import fetch_blob
from interns1_local.store.hub import Hub, HubFile, open_hub, read_small
from interns1_local.store.hub_choice import Choice, choose
from interns1_local.store.layer_progress import layer_report
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import DEFAULT_TAG, ModelName
from interns1_local.store.shards import join_shards
from interns1_local.store.sidecars import MAX_SIDECAR, SIDECARS

DEFAULT_CONVERSION = "Q4_K_M"

Report = Callable[[dict[str, Any]], None]


def pull_from_hub(store: ModelStore, name: ModelName, report: Report, quantize: str | None = None) -> None:
    """The tag is a quantization or a file's name. A repository of safetensors is converted to it, or to `quantize`."""
    report({"status": "pulling manifest"})
    hub = open_hub(name)
    with hub.client:
        files = hub.files()
        choice = choose(files, name.tag)
        if choice.converts:
            wanted = quantize or (name.tag if name.tag.lower() != DEFAULT_TAG else DEFAULT_CONVERSION)
            create(store, name, ModelPlan(checkpoint=hub.checkpoint, quantize=wanted), report)
            return
        paths = _fetch(store, hub, choice, report)
        paths |= _sidecars(store, hub, files)
        create(store, name, ModelPlan(files=paths, quantize=quantize), report)
        # What the model was made from and does not hold, such as a vision file that was repaired.
        store.discard({digest for path in paths.values() if (digest := store.blobs.digest_of(path))})


def _fetch(store: ModelStore, hub: Hub, choice: Choice, report: Report) -> dict[str, Path]:
    parts = {_name(file): _download(store, hub, file, report) for file in choice.model}
    if len(parts) > 1:
        report({"status": f"joining {len(parts)} parts"})
        joined = join_shards(store.blobs, parts, report)
        store.discard({file.blob().digest for file in choice.model})
        parts = {_joined_name(choice.model): joined}
    if choice.mmproj is not None:
        parts[_name(choice.mmproj)] = _download(store, hub, choice.mmproj, report)
    return parts


def _download(store: ModelStore, hub: Hub, file: HubFile, report: Report) -> Path:
    blob = file.blob()
    fetch_blob(store.blobs, blob, hub.client, layer_report(report, "pulling", blob.digest, blob.size))
    return store.blobs.path(blob.digest)


def _sidecars(store: ModelStore, hub: Hub, files: Sequence[HubFile]) -> dict[str, Path]:
    found = {}
    for file in files:
        if file.path not in SIDECARS:
            continue
        if file.size > MAX_SIDECAR:
            raise BadRequest(f"{file.path} has {file.size} bytes; at most {MAX_SIDECAR} are read")
        digest, _ = store.blobs.add(read_small(hub, file))
        found[file.path] = store.blobs.path(digest)
    return found


def _name(file: HubFile) -> str:
    return file.path.rpartition("/")[2]


def _joined_name(parts: Sequence[HubFile]) -> str:
    return _name(parts[0]).rpartition("-00001-of-")[0] + ".gguf"
