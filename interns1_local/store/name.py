"""Model names: `[host/][namespace/]model[:tag]`, their defaults, their checks and their place on disk."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from interns1_local.errors import InvalidName

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

NAME_RULE = "a name is [HOST/][NAMESPACE/]MODEL[:TAG], of letters, digits and - _ ."
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")


@dataclass(frozen=True, slots=True)
class ModelName:
    """A complete name. Every part is checked, so a path made of the parts stays inside the store."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Fill in the defaults; a text that cannot be a name is an `InvalidName`."""
        rest = text.partition("://")[2] if "://" in text else text
        head, colon, tag = rest.rpartition(":")
        if not colon or "/" in tag:
            head, tag = rest, DEFAULT_TAG
        parts = head.rsplit("/", 2)
        model = parts[-1]
        namespace = parts[-2] if len(parts) > 1 else DEFAULT_NAMESPACE
        host = parts[-3] if len(parts) > 2 else DEFAULT_HOST
        checks = ((_HOST, host), (_NAMESPACE, namespace), (_PART, model), (_PART, tag))
        if not all(pattern.fullmatch(part) for pattern, part in checks):
            raise InvalidName(f"invalid model name {text[:100]!r}: {NAME_RULE}")
        return cls(host, namespace, model, tag)

    @property
    def short(self) -> str:
        """The shortest text that parses to this name, always with its tag: `nano:latest`."""
        name = f"{self.model}:{self.tag}"
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{name}"
        return name if self.namespace == DEFAULT_NAMESPACE else f"{self.namespace}/{name}"

    @property
    def full(self) -> str:
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def path(self) -> PurePosixPath:
        """Where the manifest lies below the manifests folder."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    @property
    def key(self) -> str:
        """Equal for names that differ only in case: the store holds at most one of them."""
        return self.full.lower()

    def __str__(self) -> str:
        return self.short
