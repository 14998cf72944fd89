"""`pull` and `push`: a model between the store and a registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from interns1_local.errors import BadRequest
from interns1_local.store import manifest as media
from interns1_local.store.blobs import check_digest
from interns1_local.store.download import fetch_blob
from interns1_local.store.hub import is_hub
from interns1_local.store.hub_pull import pull_from_hub
from interns1_local.store.hub_push import push_to_hub
from interns1_local.store.layer_progress import layer_report
from interns1_local.store.manifest import Layer, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from interns1_local.store.registry import Registry
from interns1_local.store.remote import RemoteError

Status = dict[str, Any]
Progress = Callable[[Status], None]

MAX_LAYERS = 4096
HOW_TO_ALLOW = "that is refused unless INTERNS1_UPSTREAMS names it"


def pull(
    store: ModelStore,
    text: str,
    progress: Progress | None = None,
    *,
    insecure: bool = False,
    quantize: str | None = None,
) -> None:
    """Bring the model that `text` names into the store. The manifest is written last.

    hf.co and modelscope.cn are hubs, whose files are quantized to `quantize` if that is given; any other host is a
    registry, whose models come as they are.
    """
    report = progress or (lambda status: None)
    name = ModelName.parse(text)
    if is_hub(name):
        pull_from_hub(store, name, report, quantize)
        return
    if quantize:
        raise BadRequest("a registry's models come as they are; quantize is for models of hf.co and modelscope.cn")
    report({"status": "pulling manifest"})
    with Registry(name, scheme=_scheme(text), insecure=insecure) as registry:
        raw = registry.manifest()
        manifest = _checked(raw, name)
        for layer in _blobs(manifest):
            step = layer_report(report, "pulling", layer.digest, layer.size)
            fetch_blob(store.blobs, registry.blob(layer), registry.client, step)
    report({"status": "verifying sha256 digest"})
    report({"status": "writing manifest"})
    store.write(name, manifest, raw)
    if manifest.of_type(media.UPSTREAM) and (upstream := store.resolve(name).upstream) and not upstream.named_here:
        report({"status": f"warning: this model would send what it is asked to {upstream.url}; {HOW_TO_ALLOW}"})
    report({"status": "success"})


def push(store: ModelStore, text: str, progress: Progress | None = None, *, insecure: bool = False) -> None:
    """Send a stored model to the registry that its name names."""
    report = progress or (lambda status: None)
    report({"status": "retrieving manifest"})
    model = store.resolve(text)
    if model.upstream is not None:
        raise BadRequest(f"{model.name} has no weights to push: {model.upstream.url} computes for it")
    if is_hub(model.name):
        push_to_hub(model, report)
        report({"status": "success"})
        return
    raw = store.raw_manifest(model.name)
    manifest = _checked(raw, model.name)
    with Registry(model.name, scheme=_scheme(text), insecure=insecure) as registry:
        for layer in _blobs(manifest):
            step = layer_report(report, "pushing", layer.digest, layer.size)
            if registry.has(layer):
                step(layer.size)
            else:
                registry.upload(layer, store.blobs.path(layer.digest), step)
        report({"status": "pushing manifest"})
        registry.put_manifest(raw)
    report({"status": "success"})


def _scheme(text: str) -> str:
    return text.partition("://")[0].lower() if "://" in text else "https"


def _checked(raw: bytes, name: ModelName) -> Manifest:
    """What a registry sent is believed in nothing: digests become file names, sizes become files."""
    manifest = Manifest.from_bytes(raw, f"the manifest of {name}")
    layers = (manifest.config, *manifest.layers)
    if len(layers) > MAX_LAYERS:
        raise RemoteError(f"the manifest of {name} has {len(layers)} layers; the limit is {MAX_LAYERS}")
    for layer in layers:
        check_digest(layer.digest)
        if layer.size < 0:
            raise RemoteError(f"the manifest of {name} gives layer {layer.digest} a size of {layer.size}")
    return manifest


def _blobs(manifest: Manifest) -> list[Layer]:
    """Each blob once, the largest first as it decides how long it takes."""
    layers = {layer.digest: layer for layer in (*manifest.layers, manifest.config)}
    return sorted(layers.values(), key=lambda layer: -layer.size)
