"""Two processes that write and delete models in one folder lose nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from interns1_local.store.manifest import CONFIG_TYPE, MODEL, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName
from interns1_local.store.process_lock import ProcessLock

CODE = """
import sys
from pathlib import Path
from interns1_local.store.manifest import CONFIG_TYPE, MODEL, Manifest
from interns1_local.store.model_store import ModelStore
from interns1_local.store.name import ModelName

store, me = ModelStore(Path(sys.argv[1])), sys.argv[2]
for round in range(25):
    # The config is the same in all models: one deletes it while another is about to use it.
    layers = store.add_layer(MODEL, f"{me} {round}".encode()), store.add_layer(CONFIG_TYPE, b"{}")
    name = ModelName.parse(f"{me}-{round % 3}")
    try:
        store.write(name, Manifest(layers[1], layers[:1]))
    except Exception as error:
        assert "vanished while" in str(error), error
        continue
    if round % 2:
        store.delete(name)
"""


def test_two_processes(tmp_path: Path) -> None:
    children = [subprocess.Popen([sys.executable, "-c", CODE, str(tmp_path), me]) for me in ("one", "two", "three")]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    store = ModelStore(tmp_path)
    for name in store.names():
        model = store.resolve(name)
        assert all(store.blobs.has(digest) for digest in model.manifest.digests), f"{name} lost a blob"


def test_nested_and_without_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    for path in (tmp_path / "deep" / "lock", tmp_path / "file" / "lock"):
        lock = ProcessLock(path)
        with lock, lock:
            pass
    store = ModelStore(tmp_path / "models")
    layers = store.add_layer(MODEL, b"x"), store.add_layer(CONFIG_TYPE, b"{}")
    store.write(ModelName.parse("a"), Manifest(layers[1], layers[:1]))
    assert [name.short for name in store.names()] == ["a:latest"]
