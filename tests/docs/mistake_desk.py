"""Makes mistakes: runs what `mistakes` lists against real servers, and gives back the sentence that a person reads."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click.testing
import httpx

from convert.hf_to_gguf import convert
from interns1_local.commands import interns1
from interns1_local.commands.own_server import own_server
from interns1_local.nano import CHECKPOINT
from tests.docs.conftest import Kit
from tests.docs.desk import ADDRESS
from tests.docs.mistakes import Mistake
from tests.store.hub_server import hub_server
from tests.store.registry_server import registry_server
from tests.tiny_internlm import tiny_internlm2

_NO_RDKIT = """
import importlib.util
_found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.startswith("rdkit") else _found(name, package)
"""
_MODELFILES = {
    "unknown": "FROM nano\nTEMPERATURE 0.7\n",
    "nofrom": "SYSTEM You are kind.\n",
    "open": 'FROM nano\nSYSTEM """You are kind.\n',
    "parameter": "FROM nano\nPARAMETER temprature 0.7\n",
    "nofile": "FROM ./none.gguf\n",
    "notgguf": "FROM ./not.gguf\n",
    "cut": "FROM ./cut.gguf\n",
    "other": "FROM ./reward.gguf\nFROM ./mmproj.gguf\n",
}
_KEY = "the-key"


@dataclass(frozen=True, slots=True)
class MistakeDesk:
    """The folder of the mistakes, the two servers (the second asks for a key and has no RDKit) and a registry."""

    folder: Path
    servers: Mapping[str, str]
    registry: str
    environ: Mapping[str, str]

    def make(self, mistake: Mistake) -> str:
        """What we say to it. An AssertionError if it is no mistake."""
        address = self.servers["locked" if mistake.where in ("locked", "no rdkit") else ""]
        made = mistake.made.replace("REGISTRY", self.registry)
        if made.startswith(("GET ", "POST ")):
            said = _ask(address, made)
        else:
            with ExitStack() as stack:
                _impair(mistake.where, stack)
                said = self._run(made, "127.0.0.1:9" if mistake.where == "no server" else address, mistake.where)
        return self._anonymous(said)

    def _run(self, line: str, address: str, where: str) -> str:
        words = shlex.split(line)
        settings = dict(word.split("=", 1) for word in words[: words.index("interns1")])
        if where == "no rdkit":
            settings["INTERNS1_API_KEY"] = _KEY
        elif where == "locked":
            settings.setdefault("INTERNS1_API_KEY", _KEY)
        environ = {**self.environ, "INTERNS1_HOST": address, **settings}
        with mock.patch.dict(os.environ, environ, clear=True), chdir(self.folder):
            done = click.testing.CliRunner().invoke(
                interns1, words[words.index("interns1") + 1 :], prog_name="interns1"
            )
        assert done.exit_code != 0, f"{line}: this is no mistake any more:\n{done.output}"
        assert done.exception is None or isinstance(done.exception, SystemExit), (line, done.exception)
        usage = [each for each in done.stderr.splitlines() if each.startswith("Try '")]
        return " ".join(["Error: " + done.stderr.rpartition("Error: ")[2].strip(), *usage])

    def _anonymous(self, text: str) -> str:
        for address in self.servers.values():
            text = text.replace(address, ADDRESS)
        text = text.replace("127.0.0.1:9,", f"{ADDRESS},").replace(self.registry, "registry.example.org")
        text = text.replace(f"{self.folder}/", "").replace(f"{self.folder.resolve()}/", "")
        # What Python and click say changes with their versions.
        text = re.sub(r" \(_ssl\.c:\d+\)", "", text)
        return re.sub(
            r"No such option:? '?([-\w]+)'?[. ].*?(--\w+)\W*(?=Try|$)", r"No such option \1. Did you mean \2? ", text
        )


@contextmanager
def mistake_desk(kit: Kit, folder: Path) -> Iterator[MistakeDesk]:
    """A desk with the files of the mistakes on it, in `folder`."""
    desk = kit.set_desk(folder / "desk")
    _write_files(desk.folder)
    hindered = folder / "without"
    hindered.mkdir()
    (hindered / "sitecustomize.py").write_text(_NO_RDKIT)
    with registry_server() as registry, hub_server(folder) as hub:
        locked = {
            **kit.environ,
            "INTERNS1_API_KEY": _KEY,
            "INTERNS1_MODELS": str(folder / "locked"),
            "INTERNS1_SMILES_DETECTION": "rdkit",
            "PYTHONPATH": os.pathsep.join([str(hindered), kit.environ["PYTHONPATH"]]),
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
        }
        with mock.patch.dict(os.environ, {"INTERNS1_API_KEY": _KEY}), own_server(locked) as client:
            client.post("/api/pull", {"model": "nano", "stream": False})
            servers = {"": kit.address, "locked": client.base_url.removeprefix("http://")}
            _create_models(f"http://{kit.address}", desk.folder)
            yield MistakeDesk(desk.folder, servers, registry.host, desk.environ)


def _ask(address: str, request: str) -> str:
    method, path, body = (*request.split(" ", 2), "")[:3]
    header = re.fullmatch(r"(\w+): (.*)", body)
    headers, body = ({header[1]: header[2]}, "") if header else ({}, body)
    with httpx.Client(base_url=f"http://{address}", trust_env=False, timeout=60) as client:
        answer = client.request(method, path, content=body or None, headers=headers)
    assert answer.status_code >= 400, f"{request}: this is no mistake any more: {answer.text}"
    try:
        error: Any = answer.json()["error"]
    except ValueError:
        error = answer.text
    return f"{answer.status_code}: {error['message'] if isinstance(error, dict) else error}"


def _impair(where: str, stack: ExitStack) -> None:
    """Take away what the mistake is about."""
    if where == "no torch":
        stack.enter_context(mock.patch.dict(sys.modules, {"torch": None}))
    elif where == "full disk":
        stack.enter_context(mock.patch("quant.gguf_output.os.pwrite", _raises(errno.ENOSPC, os.pwrite)))
    elif where == "no permission":
        stack.enter_context(mock.patch("quant.gguf_output.os.open", _raises(errno.EACCES, os.open)))


def _raises(number: int, before: Any) -> Any:
    """Fails with `number` where the output is concerned; everything else is left to `before`."""

    def fail(target: Any, *arguments: Any, **more: Any) -> Any:
        if isinstance(target, os.PathLike | str) and "out.gguf" not in str(target):
            return before(target, *arguments, **more)
        raise OSError(number, os.strerror(number))

    return fail


def _write_files(folder: Path) -> None:
    for name, text in _MODELFILES.items():
        (folder / f"{name}.Modelfile").write_text(text)
    (folder / "Modelfile").unlink(missing_ok=True)
    (folder / "Modelfile.good").write_text("FROM ./model-F16.gguf\n")
    (folder / "short.txt").write_text("")
    (folder / "not.gguf").write_text("This is not a GGUF file, whatever its name says." * 10)
    (folder / "cut.gguf").write_bytes((folder / "model-F16.gguf").read_bytes()[:200_000])
    (folder / "empty").mkdir()
    (folder / "gpt2").mkdir()
    (folder / "gpt2" / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    (folder / "gpt2" / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    shutil.copytree(CHECKPOINT, folder / "lacking")
    min((folder / "lacking").glob("*.safetensors")).unlink()
    convert(tiny_internlm2(folder / "tiny2", reward=True), folder / "reward.gguf", type="F16", jobs=1)


def _create_models(url: str, folder: Path) -> None:
    """`text` sees nothing, `reward` scores."""
    import ollama

    with ollama.Client(url) as client:
        for name, file in (("text", "model-F16.gguf"), ("reward", "reward.gguf")):
            client.create(model=name, files={file: client.create_blob(folder / file)})
