"""The models folder in Ollama's layout: `manifests/HOST/NAMESPACE/MODEL/TAG` and `blobs/sha256-HEX`."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from interns1_local.errors import InternS1Error, InvalidName, ModelNotFound
from interns1_local.store import manifest as media
from interns1_local.store.adapter_names import StoredAdapter, names_of
from interns1_local.store.blobs import PARTIAL_SUFFIX, BlobStore, write_atomically
from interns1_local.store.manifest import BrokenManifest, Layer, Manifest
from interns1_local.store.name import ModelName
from interns1_local.store.process_lock import ProcessLock
from interns1_local.store.upstream import Upstream, upstream_from

_PRUNE_AGE = 3600.0
_PARTIAL_AGE = 7 * 86400.0


@dataclass(frozen=True, slots=True)
class StoredModel:
    """One model as the store holds it."""

    name: ModelName
    manifest: Manifest
    digest: str
    modified_at: datetime
    model_path: Path
    mmproj_path: Path | None = None
    sidecar_path: Path | None = None
    adapters: tuple[StoredAdapter, ...] = ()
    draft_path: Path | None = None
    template: str = ""
    system: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    messages: list[dict[str, Any]] = field(default_factory=list)
    licenses: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    # The server that computes for this model; `model_path` is the layer that says so then.
    upstream: Upstream | None = None

    @property
    def size(self) -> int:
        return self.manifest.size

    @property
    def template_given(self) -> bool:
        return bool(self.config.get(media.TEMPLATE_GIVEN))

    @property
    def license(self) -> str:
        return "\n".join(self.licenses)


class ModelStore:
    """Every change of a manifest goes through one lock; blobs are written before the manifest that names them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root / "blobs")
        self._manifests = root / "manifests"
        # Beside the manifests, where neither program looks for models.
        self._lock = ProcessLock(root / ".interns1.lock")
        self._named_upstreams = root / ".interns1-upstreams.json"

    def names(self) -> list[ModelName]:
        """Every stored name. Files that are no manifests (hidden files, wrong depth) are passed over."""
        found = []
        for path in sorted(self._manifests.glob("*/*/*/*")):
            parts = path.relative_to(self._manifests).parts
            if path.name.startswith(".") or not path.is_file():
                continue
            with contextlib.suppress(InvalidName):
                name = ModelName.parse("{}/{}/{}:{}".format(*parts))
                if name.path.parts == parts:
                    found.append(name)
        return found

    def find(self, name: str | ModelName) -> ModelName | None:
        """The stored name that equals `name` but for case, or None."""
        wanted = ModelName.parse(name) if isinstance(name, str) else name
        if self._manifest_path(wanted).is_file():
            return wanted
        return next((stored for stored in self.names() if stored.key == wanted.key), None)

    def resolve(self, name: str | ModelName) -> StoredModel:
        """Read a model; one that is not there is a `ModelNotFound` that names it as asked."""
        found = self.find(name)
        if found is None:
            raise ModelNotFound(f"model '{name}' not found")
        return self._read(found)

    def list(self) -> list[StoredModel]:
        """Every readable model, newest first. A broken one is passed over, so that it cannot hide the others."""
        models = []
        for name in self.names():
            with contextlib.suppress(InternS1Error, OSError):
                models.append(self._read(name))
        return sorted(models, key=lambda model: model.modified_at, reverse=True)

    def write(self, name: ModelName, manifest: Manifest, raw: bytes | None = None) -> ModelName:
        """Write a manifest last, once all its blobs are there. Blobs that only its predecessor used go away.

        `raw` is the manifest as a registry sent it: its digest is the model's, so it is kept to the byte.
        """
        with self._lock:
            target = self.find(name) or name
            missing = [digest for digest in manifest.digests if not self.blobs.has(digest)]
            if missing:
                raise InternS1Error(f"blob {missing[0]} vanished while {name} was written; try again")
            before = self._manifest(target).digests if self._manifest_path(target).is_file() else set()
            write_atomically(self._manifest_path(target), manifest.to_bytes() if raw is None else raw)
            self._drop(before - manifest.digests)
            return target

    def copy(self, source: str | ModelName, destination: str | ModelName) -> None:
        with self._lock:
            model = self.resolve(source)
            self.write(ModelName.parse(destination) if isinstance(destination, str) else destination, model.manifest)

    def delete(self, name: str | ModelName) -> None:
        """Remove the manifest, the folders it leaves empty, and the blobs no other manifest uses."""
        with self._lock:
            found = self.find(name)
            if found is None:
                raise ModelNotFound(f"model '{name}' not found")
            digests: set[str] = set()
            with contextlib.suppress(BrokenManifest):
                digests = self._manifest(found).digests
            path = self._manifest_path(found)
            path.unlink()
            for folder in list(path.parents)[:3]:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            self._drop(digests)

    def prune(self, now: float | None = None) -> int:
        """Remove blobs that no manifest names and that are older than an hour; partial downloads are kept a week."""
        with self._lock:
            now = time.time() if now is None else now
            used = self._used()
            if used is None or not self.blobs.folder.is_dir():
                return 0
            removed = 0
            for digest in self.blobs.digests():
                path = self.blobs.path(digest)
                if digest not in used and now - path.stat().st_mtime > _PRUNE_AGE:
                    path.unlink(missing_ok=True)
                    removed += 1
            for path in self.blobs.folder.glob(f"interns1-*{PARTIAL_SUFFIX}"):
                if now - path.stat().st_mtime > _PARTIAL_AGE:
                    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            return removed

    def add_layer(self, media_type: str, data: bytes) -> Layer:
        digest, size = self.blobs.add(data)
        return Layer(media_type, digest, size)

    def name_upstream(self, url: str) -> None:
        """Remember that `url` was written here: a model that others made is not believed when it names a server."""
        with self._lock:
            write_atomically(self._named_upstreams, json.dumps(sorted({*self._upstream_urls(), url})).encode())

    def _upstream_urls(self) -> set[str]:
        try:
            return set(map(str, json.loads(self._named_upstreams.read_bytes())))
        except (OSError, ValueError, TypeError):
            return set()

    def _manifest_path(self, name: ModelName) -> Path:
        return self._manifests.joinpath(*name.path.parts)

    def discard(self, digests: set[str]) -> None:
        """Remove those of the blobs that no manifest names."""
        with self._lock:
            self._drop(digests)

    def raw_manifest(self, name: ModelName) -> bytes:
        """The manifest's bytes, whose sha256 is the model's digest."""
        return self._manifest_path(name).read_bytes()

    def _manifest(self, name: ModelName) -> Manifest:
        return Manifest.from_bytes(self._manifest_path(name).read_bytes(), f"the manifest of {name}")

    def _used(self) -> set[str] | None:
        """Digests in use, or None when a manifest cannot be read: then nothing may be removed."""
        used: set[str] = set()
        try:
            for name in self.names():
                used |= self._manifest(name).digests
        except (BrokenManifest, OSError):
            return None
        return used

    def _drop(self, digests: set[str]) -> None:
        used = self._used() if digests else None
        for digest in digests - used if used is not None else ():
            self.blobs.remove(digest)

    def _read(self, name: ModelName) -> StoredModel:
        path = self._manifest_path(name)
        raw = path.read_bytes()
        manifest = Manifest.from_bytes(raw, f"the manifest of {name}")
        upstreams = [] if manifest.of_type(media.MODEL) else manifest.of_type(media.UPSTREAM)
        models = manifest.of_type(media.MODEL) or upstreams
        if not models:
            raise BrokenManifest(f"{name} has no model layer; pull or create it again")
        projectors = manifest.of_type(media.PROJECTOR)
        sidecars = manifest.of_type(media.SIDECAR)
        adapters = manifest.of_type(media.ADAPTER)
        adapter_names = names_of(adapters)
        if len(set(adapter_names)) < len(adapters):
            # Older versions of Ollama stored several, without names. Applying one of them would be another model.
            raise BrokenManifest(f"{name} has {len(adapters)} adapters, which have no names to choose one by")
        drafts = manifest.of_type(media.DRAFT)
        prompts = manifest.of_type(media.TEMPLATE) or manifest.of_type(media.PROMPT)
        return StoredModel(
            name=name,
            manifest=manifest,
            digest=hashlib.sha256(raw).hexdigest(),
            modified_at=datetime.fromtimestamp(path.stat().st_mtime, UTC),
            model_path=self.blobs.path(models[0].digest),
            mmproj_path=self.blobs.path(projectors[0].digest) if projectors else None,
            sidecar_path=self.blobs.path(sidecars[-1].digest) if sidecars else None,
            adapters=tuple(map(StoredAdapter, adapter_names, (self.blobs.path(layer.digest) for layer in adapters))),
            draft_path=self.blobs.path(drafts[-1].digest) if drafts else None,
            template=self._text(prompts[-1:]),
            system=self._text(manifest.of_type(media.SYSTEM)[-1:]),
            params=self._json(manifest.of_type(media.PARAMS), {}),
            messages=self._json(manifest.of_type(media.MESSAGES), []),
            licenses=[self._text([layer]) for layer in manifest.of_type(media.LICENSE)],
            config=self._json([manifest.config], {}),
            upstream=upstream_from(self.blobs.read(upstreams[0].digest), self._upstream_urls()) if upstreams else None,
        )

    def _text(self, layers: Sequence[Layer]) -> str:
        return "".join(self.blobs.read(layer.digest).decode("utf-8", "replace") for layer in layers)

    def _json(self, layers: Sequence[Layer], empty: Any) -> Any:
        try:
            value = json.loads(self.blobs.read(layers[-1].digest)) if layers else empty
        except ValueError:
            raise BrokenManifest(f"layer {layers[-1].digest} is not JSON; pull or create the model again") from None
        return value if isinstance(value, type(empty)) else empty
