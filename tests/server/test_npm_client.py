"""The `ollama` package of npm. It runs where node and the package are: npm install ollama, in this folder or above."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.fake_runner import FakeBackend
from tests.store.registry_server import registry_server

SCRIPT = Path(__file__).with_name("npm_client.mjs")
PLACES = [Path(os.environ.get("NODE_PATH") or "node_modules"), *(folder / "node_modules" for folder in SCRIPT.parents)]
PACKAGE = next((place / "ollama" for place in PLACES if (place / "ollama").is_dir()), None)
pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or PACKAGE is None,
    reason="node or its ollama package is not here (npm install ollama, or NODE_PATH); the Python client is tested",
)


def test_every_method(live_url: str, backend: FakeBackend, tmp_path: Path) -> None:
    assert PACKAGE is not None
    # Node looks for packages beside the script only.
    script = tmp_path / SCRIPT.name
    script.write_text(SCRIPT.read_text())
    (tmp_path / "node_modules").symlink_to(PACKAGE.resolve().parent)
    for chunks in (["why</think>", "Hello"], ["Hel", "lo"], ["Hi"]):
        backend.enqueue(*chunks)
    backend.enqueue("</think>A", "<hang>")
    with registry_server() as registry:
        done = subprocess.run(
            ["node", str(script), live_url, registry.url], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["chat"] == {"role": "assistant", "content": "Hello", "thinking": "why"}
    assert result["stream"] == {"text": "Hello", "done": True, "reason": "stop"}
    assert result["generate"] == "Hi" and result["ps"] == 2 and result["show"] == "gguf"
    assert result["list"] == ["plain:latest", "tiny:latest"]
    for name in ("copy", "create", "createStream", "push", "pull", "delete"):
        assert result[name] == "success", name
    assert result["error"] == "model 'nope' not found, try pulling it first"
    assert result["abort"] == "AbortError" and result["hung"]
    assert result["version"].count(".") == 2
