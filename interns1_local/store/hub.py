"""Repositories of the Hugging Face hub and of ModelScope: which files they hold and where their bytes are."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote_plus

import httpx

from interns1_local.errors import InternS1Error, NotFound
from interns1_local.store.download import RemoteBlob
from interns1_local.store.name import ModelName
from interns1_local.store.remote import RemoteError, open_client, read_bounded

HUGGING_FACE_HOSTS = ("hf.co", "huggingface.co")
MODELSCOPE_HOSTS = ("modelscope.cn", "www.modelscope.cn")
MAX_SMALL = 64 << 20

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository; `sha256` is known for the large ones (Git LFS), on ModelScope for all."""

    path: str
    size: int
    url: str
    sha256: str = ""

    def blob(self) -> RemoteBlob:
        if not _SHA256.fullmatch(self.sha256):
            raise RemoteError(f"the hub gives no sha256 of {self.path}, so that it cannot be checked")
        return RemoteBlob(f"sha256:{self.sha256}", self.size, self.url)


class Hub(Protocol):
    """One repository at one revision."""

    repository: str
    checkpoint: str  # what `convert` calls it
    client: httpx.Client

    def files(self) -> list[HubFile]: ...


def is_hub(name: ModelName) -> bool:
    return name.host.lower() in HUGGING_FACE_HOSTS + MODELSCOPE_HOSTS


def open_hub(name: ModelName, revision: str | None = None) -> Hub:
    repository = f"{name.namespace}/{name.model}"
    if name.host.lower() in MODELSCOPE_HOSTS:
        return ModelScope(repository, revision or "master")
    return HuggingFace(repository, revision)


def read_small(hub: Hub, file: HubFile) -> bytes:
    """A file of a few megabytes at most, whole."""
    try:
        with hub.client.stream("GET", file.url) as response:
            if response.status_code != 200:
                raise RemoteError(f"{file.path}: the hub answered {response.status_code}")
            return read_bounded(response, MAX_SMALL, f"{file.path} is larger than {MAX_SMALL >> 20} MB")
    except httpx.HTTPError as error:
        raise RemoteError(f"{file.path} cannot be fetched: {error or type(error).__name__}") from error


class HuggingFace:
    """Through huggingface_hub; HF_ENDPOINT names a mirror, HF_TOKEN or a login opens private and gated repositories."""

    def __init__(self, repository: str, revision: str | None = None) -> None:
        from huggingface_hub import get_token

        self.repository = repository
        self._revision = revision
        self._endpoint = os.environ.get("HF_ENDPOINT") or None
        self.checkpoint = f"hf:{repository}" + (f"@{revision}" if revision else "")
        self.client = open_client()
        if token := get_token():
            # Dropped by httpx where a redirect leads to another host.
            self.client.headers["authorization"] = f"Bearer {token}"

    def files(self) -> list[HubFile]:
        from huggingface_hub import hf_hub_url

        info = self._info()
        found = []
        for file in info.siblings or []:
            url = hf_hub_url(self.repository, file.rfilename, revision=info.sha, endpoint=self._endpoint)
            lfs: Any = file.lfs
            found.append(HubFile(file.rfilename, int(file.size or 0), url, str(lfs.sha256) if lfs else ""))
        return found

    def _info(self) -> Any:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

        try:
            return HfApi(endpoint=self._endpoint).model_info(
                self.repository, revision=self._revision, files_metadata=True
            )
        except GatedRepoError:
            raise InternS1Error(
                f"{self.repository} asks its readers to accept its terms on huggingface.co, then to log in "
                "(huggingface-cli login, or HF_TOKEN for the server)"
            ) from None
        except RevisionNotFoundError:
            raise NotFound(f"{self.repository} has no revision {self._revision!r}") from None
        except RepositoryNotFoundError:
            raise NotFound(
                f"pull model manifest: there is no model {self.repository} on the hub, or it is private "
                "(huggingface-cli login, or HF_TOKEN for the server)"
            ) from None
        except Exception as error:  # its HTTP library, and so its errors, differ from version to version
            raise RemoteError(f"the hub could not be asked about {self.repository}: {error}") from error


class ModelScope:
    """ModelScope's own API, as its Python client uses it. MODELSCOPE_ENDPOINT names another address."""

    def __init__(self, repository: str, revision: str = "master") -> None:
        self.repository = repository
        self._revision = revision
        self._root = (os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/")
        self.checkpoint = f"ms:{repository}@{revision}"
        self.client = open_client()
        if token := os.environ.get("MODELSCOPE_API_TOKEN"):
            self.client.headers["authorization"] = f"Bearer {token}"

    def files(self) -> list[HubFile]:
        url = f"{self._root}/api/v1/models/{self.repository}/repo/files"
        try:
            response = self.client.get(url, params={"Revision": self._revision, "Recursive": "True"})
        except httpx.HTTPError as error:
            raise RemoteError(f"ModelScope cannot be reached: {error or type(error).__name__}") from error
        if response.status_code in (401, 403, 404):
            raise NotFound(
                f"pull model manifest: there is no model {self.repository} on ModelScope at {self._revision}, "
                "or it is private (MODELSCOPE_API_TOKEN for the server)"
            )
        try:
            entries = response.json()["Data"]["Files"]
            return [self._file(entry) for entry in entries if entry.get("Type") != "tree"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RemoteError(f"ModelScope's list of {self.repository} cannot be read: {error!r}") from error

    def _file(self, entry: dict[str, Any]) -> HubFile:
        path = str(entry["Path"])
        place = f"{self._root}/api/v1/models/{self.repository}/repo"
        url = f"{place}?Revision={quote_plus(self._revision)}&FilePath={quote_plus(path)}"
        return HubFile(path, int(entry["Size"]), url, str(entry.get("Sha256") or "").lower())
