"""HTTP to the server, as Ollama's command line speaks it: JSON in, JSON or one JSON object a line out."""

from __future__ import annotations

import json
from collections.abc import Generator, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from interns1_local.commands.errors import NoServer, ServerError

if TYPE_CHECKING:
    import httpx

Json = dict[str, Any]


class Client:
    """One server. Answers may take as long as a model needs; only connecting has a limit."""

    def __init__(self, base_url: str, api_key: str = "") -> None:
        import httpx

        self.base_url = base_url
        # trust_env is off: a proxy for the internet must not stand between us and a server on this machine.
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        timeout = httpx.Timeout(None, connect=5.0)
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def answers(self) -> bool:
        """Whether a server is there."""
        import httpx

        try:
            # 401: there is a server, and it asks for a key; the command that follows says so.
            return self._http.get("/api/version", timeout=5.0).status_code in (200, 401)
        except httpx.TransportError:
            return False

    def get(self, path: str) -> Json:
        return self._send("GET", path)

    def post(self, path: str, body: Json) -> Json:
        """POST, with the whole answer in one object."""
        return self._send("POST", path, body)

    def delete(self, path: str, body: Json) -> Json:
        return self._send("DELETE", path, body)

    def exists(self, path: str) -> bool:
        """What HEAD says."""
        return bool(self._request("HEAD", path).status_code == 200)

    def upload(self, path: str, chunks: Iterable[bytes]) -> None:
        """POST raw bytes."""
        _raise_for_error(self._request("POST", path, content=chunks))

    def stream(self, path: str, body: Json) -> Generator[Json, None, None]:
        """POST, with one object for each line of the answer. Leaving the loop ends the request."""
        import httpx

        try:
            with self._http.stream("POST", path, json=body) as response:
                if response.status_code >= 400:
                    response.read()
                    _raise_for_error(response)
                for line in _lines(response.iter_bytes()):
                    yield _checked(json.loads(line))
        except httpx.ConnectError:
            raise NoServer(self.base_url) from None

    def _send(self, method: str, path: str, body: Json | None = None) -> Json:
        response = self._request(method, path, json=body)
        _raise_for_error(response)
        if not response.content:
            return {}
        try:
            answer = response.json()
        except ValueError:
            raise ServerError(f"{self.base_url}{path} answered with something other than JSON") from None
        return _checked(answer)

    def _request(self, method: str, path: str, **arguments: Any) -> httpx.Response:
        import httpx

        try:
            return self._http.request(method, path, **arguments)
        except httpx.ConnectError:
            raise NoServer(self.base_url) from None


def _lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines end with \\n only: httpx would also split inside a JSON string at U+2028 and U+0085."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())
    if rest.strip():
        yield rest


def _checked(answer: Any) -> Json:
    if not isinstance(answer, dict):
        raise ServerError("the server answered with something other than a JSON object")
    if isinstance(answer.get("error"), str):
        raise ServerError(answer["error"])
    return answer


def _raise_for_error(response: httpx.Response) -> None:
    if response.status_code < 400:
        return
    try:
        message = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        message = response.text.strip() or response.reason_phrase
    if isinstance(message, dict):
        message = message.get("message", "")
    raise ServerError(str(message), response.status_code)
