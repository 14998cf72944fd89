"""The manifest of a stored model: one config and the layers, in the OCI form that Ollama writes."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from interns1_local.errors import InternS1Error

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
MODEL = "application/vnd.ollama.image.model"
PROJECTOR = "application/vnd.ollama.image.projector"
ADAPTER = "application/vnd.ollama.image.adapter"
DRAFT = "application/vnd.ollama.image.draft"
TEMPLATE = "application/vnd.ollama.image.template"
PROMPT = "application/vnd.ollama.image.prompt"
SYSTEM = "application/vnd.ollama.image.system"
PARAMS = "application/vnd.ollama.image.params"
MESSAGES = "application/vnd.ollama.image.messages"
LICENSE = "application/vnd.ollama.image.license"
# Ours: Ollama passes over the types that it does not know.
SIDECAR = "application/vnd.interns1.image.sidecar"
UPSTREAM = "application/vnd.interns1.image.upstream"
# In the config: a Modelfile gave the TEMPLATE to us; Ollama writes templates by itself, too.
TEMPLATE_GIVEN = "interns1_template_given"


class BrokenManifest(InternS1Error):
    code = "broken_manifest"


@dataclass(frozen=True, slots=True)
class Layer:
    media_type: str
    digest: str
    size: int
    extra: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size, **self.extra}


@dataclass(frozen=True, slots=True)
class Manifest:
    config: Layer
    layers: tuple[Layer, ...]

    @property
    def size(self) -> int:
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> set[str]:
        return {self.config.digest, *(layer.digest for layer in self.layers)}

    def of_type(self, media_type: str) -> list[Layer]:
        return [layer for layer in self.layers if layer.media_type == media_type]

    def to_bytes(self) -> bytes:
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": self.config.to_json(),
            "layers": [layer.to_json() for layer in self.layers],
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes, where: str = "manifest") -> Manifest:
        try:
            document = json.loads(data)
            return cls(_layer(document["config"]), tuple(_layer(layer) for layer in document.get("layers") or []))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BrokenManifest(f"{where} is not a model manifest; pull or create the model again") from None


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _layer(document: dict[str, Any]) -> Layer:
    known = ("mediaType", "digest", "size")
    extra = {key: value for key, value in document.items() if key not in known}
    return Layer(str(document["mediaType"]), str(document["digest"]), int(document["size"]), extra)
