"""The registry protocol that Ollama speaks: manifests, blobs and their uploads (OCI distribution, v2)."""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx

from interns1_local.errors import BadRequest
from interns1_local.store.download import RemoteBlob
from interns1_local.store.manifest import MANIFEST_TYPE, Layer
from interns1_local.store.name import ModelName
from interns1_local.store.remote import RemoteError, is_private, open_client, read_bounded

MAX_MANIFEST = 4 << 20
UPLOAD_BYTES = 64 << 20
_READ_BYTES = 1 << 20
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')


class Registry:
    """One model's place in a registry. `with Registry(name) as registry: registry.manifest()`."""

    def __init__(self, name: ModelName, *, scheme: str = "https", insecure: bool = False) -> None:
        if scheme not in ("http", "https"):
            raise BadRequest(f"a registry is reached by https or http, not {scheme}")
        if scheme == "http" and not insecure:
            raise BadRequest("insecure protocol http: use --insecure to allow a registry without TLS")
        if insecure and scheme == "https" and is_private(name.host.rpartition(":")[0] or name.host):
            # A registry of one's own network, asked for as insecure, mostly has no certificate at all.
            scheme = "http"
        self._name = name
        self._root = f"{scheme}://{name.host}/v2/{name.namespace}/{name.model}"
        self.client = open_client(insecure=insecure, auth=_RegistryAuth(name.host))

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def manifest(self) -> bytes:
        """The manifest's bytes as the registry sent them."""
        url = f"{self._root}/manifests/{self._name.tag}"
        headers = {"accept": MANIFEST_TYPE}
        with self._errors("pull model manifest"), self.client.stream("GET", url, headers=headers) as response:
            if response.status_code == 404:
                raise RemoteError(
                    f"pull model manifest: file does not exist: {self._name.host} has no {self._name.namespace}/"
                    f"{self._name.model}:{self._name.tag}; check its name and tag"
                )
            _check(response, "pull model manifest")
            too_large = f"pull model manifest: {url} is larger than {MAX_MANIFEST} bytes"
            return read_bounded(response, MAX_MANIFEST, too_large)

    def blob(self, layer: Layer) -> RemoteBlob:
        return RemoteBlob(layer.digest, layer.size, f"{self._root}/blobs/{layer.digest}")

    def has(self, layer: Layer) -> bool:
        with self._errors("push"):
            return self.client.head(f"{self._root}/blobs/{layer.digest}").status_code == 200

    def upload(self, layer: Layer, path: Path, report: Callable[[int], None]) -> None:
        """Send a blob in chunks; the registry checks its digest."""
        with self._errors("push"), path.open("rb") as file:
            response = self.client.post(f"{self._root}/blobs/uploads/")
            _check(response, "push", (202,))
            sent = 0
            while sent < layer.size:
                length = min(UPLOAD_BYTES, layer.size - sent)
                headers = {
                    "content-range": f"{sent}-{sent + length - 1}",
                    "content-length": str(length),
                    "content-type": "application/octet-stream",
                }
                chunk = _pieces(file, length, sent, report)
                response = self.client.patch(self._place(response), content=chunk, headers=headers)
                _check(response, "push", (202,))
                sent += length
            done = self._place(response).copy_merge_params({"digest": layer.digest})
            _check(self.client.put(done), "push", (201, 204))

    def put_manifest(self, data: bytes) -> None:
        with self._errors("push manifest"):
            url = f"{self._root}/manifests/{self._name.tag}"
            _check(
                self.client.put(url, content=data, headers={"content-type": MANIFEST_TYPE}), "push manifest", (200, 201)
            )

    def _place(self, response: httpx.Response) -> httpx.URL:
        """Where an upload goes on: the Location that the registry gave, on its own host."""
        location = response.headers.get("location", "")
        place = response.request.url.join(location)
        if not location or place.host != response.request.url.host:
            raise RemoteError(
                f"push: the registry names no place of its own for the upload ({location or 'no Location'})"
            )
        return place

    def _errors(self, what: str) -> _Errors:
        return _Errors(what, self._root)


class _Errors:
    """Errors of the network as a sentence."""

    def __init__(self, what: str, where: str) -> None:
        self._what, self._where = what, where

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, httpx.HTTPError | httpx.InvalidURL):
            host = urlsplit(self._where).netloc
            hint = _TLS_HINT if "SSL" in str(error) else "; check its name, the network and HTTPS_PROXY"
            raise RemoteError(
                f"{self._what}: {host} cannot be reached: {error or type(error).__name__}{hint}"
            ) from error


class _RegistryAuth(httpx.Auth):
    """A token when the registry asks for one; with INTERNS1_REGISTRY_USER and _PASSWORD where it wants an account."""

    def __init__(self, host: str) -> None:
        self._host = host
        self._header = ""

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        if self._header:
            request.headers["authorization"] = self._header
        response = yield request
        if response.status_code != 401 or request.url.netloc.decode() != self._host:
            return
        kind, _, rest = response.headers.get("www-authenticate", "").partition(" ")
        if kind.lower() == "basic" and _account():
            self._header = _account()
        elif kind.lower() == "bearer":
            fields = dict(_CHALLENGE.findall(rest))
            answer = yield self._token_request(fields)
            answer.read()
            if answer.status_code != 200:
                raise RemoteError(f"{self._host} gives no token: status {answer.status_code}; {_ACCOUNT_HINT}")
            token = answer.json()
            self._header = f"Bearer {token.get('token') or token.get('access_token') or ''}"
        else:
            return
        request.headers["authorization"] = self._header
        yield request

    def _token_request(self, fields: dict[str, str]) -> httpx.Request:
        realm = fields.get("realm", "")
        # The account goes to the registry itself and to nobody that it names.
        if urlsplit(realm).netloc != self._host:
            raise RemoteError(f"{self._host} sends us for a token to {realm or 'nowhere'}, which is another host")
        params: dict[str, str] = {name: fields[name] for name in ("service", "scope") if name in fields}
        headers = {"authorization": _account()} if _account() else {}
        return httpx.Request("GET", realm, params=params, headers=headers)


_TLS_HINT = "; if it is a registry of yours without TLS, or with a certificate of its own, allow it with --insecure"
_ACCOUNT_HINT = "set INTERNS1_REGISTRY_USER and INTERNS1_REGISTRY_PASSWORD to an account of that registry"


def _account() -> str:
    user, word = os.environ.get("INTERNS1_REGISTRY_USER", ""), os.environ.get("INTERNS1_REGISTRY_PASSWORD", "")
    return "Basic " + base64.b64encode(f"{user}:{word}".encode()).decode() if user else ""


def _pieces(file: BinaryIO, length: int, sent: int, report: Callable[[int], None]) -> Iterator[bytes]:
    while length:
        data = file.read(min(_READ_BYTES, length))
        if not data:
            raise RemoteError("push: a blob of the store became shorter while it was sent")
        length -= len(data)
        sent += len(data)
        yield data
        report(sent)


def _check(response: httpx.Response, what: str, good: tuple[int, ...] = (200,)) -> None:
    if response.status_code in good:
        return
    response.read()
    hint = f"; {_ACCOUNT_HINT}" if response.status_code in (401, 403) else ""
    raise RemoteError(f"{what}: status {response.status_code}: {response.text[:200].strip()}{hint}")
