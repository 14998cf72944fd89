"""The peers that benchmarks measure: llama.cpp's own converter and tools, built from llama-cpp-python's sdist.

Everything is put into a folder outside the repository and made once.
"""

from __future__ import annotations

import importlib.metadata
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from interns1_local.engine import amx

DEFAULT_WORK = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "interns1_local" / "benchmarks"

_CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_NATIVE=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF "
    "-DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_BUILD_APP=OFF"
).split()

# The converter knows a vocabulary by its hash and refuses every other. Ours is split as Qwen2's, so it is told so;
# nothing else of it is changed.
_CONVERTER = """
import runpy, sys
script = sys.argv[1]
sys.path.insert(0, script.rsplit("/", 1)[0])
sys.path.insert(1, script.rsplit("/", 1)[0] + "/gguf-py")
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
sys.argv = sys.argv[1:]
runpy.run_path(script, run_name="__main__")
"""


@dataclass(frozen=True, slots=True)
class Run:
    """What a command took: seconds of wall clock and of CPU, and the peak of resident memory in bytes."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int

    def __add__(self, other: Run) -> Run:
        """One after the other."""
        cpu = self.cpu_seconds + other.cpu_seconds
        return Run(self.seconds + other.seconds, cpu, max(self.peak_bytes, other.peak_bytes))


def measure(command: Sequence[object], log: Path) -> Run:
    """Run a command to its end; what it prints goes to `log`, and is shown when it fails."""
    started = time.perf_counter()
    with open(log, "wb") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT)
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except KeyboardInterrupt:
            process.kill()
            process.wait()
            raise
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))}\nended with {process.returncode}:\n{log.read_text()[-3000:]}")
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


class Peers:
    """llama.cpp's source and the tools built from it, under `work`."""

    def __init__(self, work: Path) -> None:
        self.work = work
        version = importlib.metadata.version("llama-cpp-python")
        self._source = work / f"llama_cpp_python-{version}" / "vendor" / "llama.cpp"
        self._version = version

    def tool(self, name: str) -> Path:
        """The program `name` of llama.cpp, built if it is not there."""
        build = self.work / f"build-{self._version}"
        program = build / "bin" / name
        if not program.exists():
            self.build(name, build, [*_CMAKE_OPTIONS, *amx.flags(os.environ.get("CXX", "c++")).split()])
        return program

    def build(self, target: str, folder: Path, options: Sequence[str]) -> Run:
        """Build `target` of llama.cpp in `folder` with cmake's `options`."""
        self._fetch_source()
        print(f"building {target} for llama-cpp-python {self._version} in {folder}", flush=True)
        generator = ["-G", "Ninja"] if shutil.which("ninja") else []
        log = self.work / f"build-{target}.log"
        configured = measure(["cmake", *generator, "-S", self._source, "-B", folder, *options], log)
        command = ["cmake", "--build", folder, "--target", target, "--parallel", os.cpu_count() or 1]
        return configured + measure(command, log)

    def convert(self, checkpoint: Path, output: Path, type: str, *, mmproj: bool = False) -> Run:
        """convert_hf_to_gguf.py --outtype `type`."""
        self._fetch_source()
        wrapper = self.work / "peer_convert.py"
        wrapper.write_text(_CONVERTER)
        script = self._source / "convert_hf_to_gguf.py"
        options = ["--outfile", output, "--outtype", type, *(["--mmproj"] if mmproj else [])]
        return measure([sys.executable, wrapper, script, checkpoint, *options], self.work / "peer_convert.log")

    def quantize(self, source: Path, output: Path, type: str, threads: int) -> Run:
        """llama-quantize."""
        program = self.tool("llama-quantize")
        return measure([program, source, output, type, str(threads)], self.work / "peer_quantize.log")

    def _fetch_source(self) -> None:
        if self._source.is_dir():
            return
        self.work.mkdir(parents=True, exist_ok=True)
        print(f"fetching the source of llama-cpp-python {self._version}", flush=True)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", self.work]
        measure([*pip, f"llama-cpp-python=={self._version}"], self.work / "fetch.log")
        archive = next(self.work.glob("llama_cpp_python-*.tar.gz"))
        with tarfile.open(archive) as tar:
            tar.extractall(self.work, filter="data")


def ours(arguments: Sequence[object], log: Path) -> Run:
    """`interns1` with `arguments`."""
    return measure([sys.executable, "-m", "interns1_local.commands", *arguments], log)


def own_peak_bytes() -> int:
    """This process's own peak, below which a child's cannot be measured."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
