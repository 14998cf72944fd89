"""A checkpoint on ModelScope, read by byte ranges as one on the Hugging Face hub is."""

from __future__ import annotations

import os
from urllib.parse import quote_plus

import httpx

from convert.errors import HubError
from convert.hub_source import HubSource


class ModelScopeSource(HubSource):
    """owner/repo[@revision] (default: master). The API is the one that ModelScope's own Python client speaks."""

    scheme = "ms"

    def _open_client(self) -> httpx.Client:
        token = os.environ.get("MODELSCOPE_API_TOKEN")
        headers = {"Accept-Encoding": "identity", **({"Authorization": f"Bearer {token}"} if token else {})}
        return httpx.Client(headers=headers, follow_redirects=True, timeout=httpx.Timeout(30.0))

    def _look_up(self, revision: str | None) -> tuple[str, dict[str, int]]:
        """ModelScope names no commit for a branch, so that the branch itself is what later reads ask for."""
        revision = revision or "master"
        try:
            response = self._client.get(f"{self._place}/files", params={"Revision": revision, "Recursive": "True"})
            files = response.json()["Data"]["Files"] if response.status_code == 200 else None
            sizes = {str(f["Path"]): int(f["Size"]) for f in files or [] if f.get("Type") != "tree"}
        except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise HubError(f"ModelScope could not be asked about {self._repository}: {error!r}.") from None
        if files is None:
            raise HubError(
                f"There is no model {self._repository} at {revision} on ModelScope, or it is private: "
                "set MODELSCOPE_API_TOKEN."
            )
        return revision, {name: size for name, size in sizes.items() if "/" not in name}

    def _url(self, file: str) -> str:
        return f"{self._place}?Revision={quote_plus(self._commit)}&FilePath={quote_plus(file)}"

    @property
    def _place(self) -> str:
        root = (os.environ.get("MODELSCOPE_ENDPOINT") or "https://modelscope.cn").rstrip("/")
        return f"{root}/api/v1/models/{self._repository}/repo"
