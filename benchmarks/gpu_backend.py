"""Builds a GPU backend as a library of its own for the llama-cpp-python that is installed (docs/gpu.md).

`python -m benchmarks.gpu_backend vulkan` fetches the package's source, builds only the backend (some minutes), and
prints the variable that adds it: INTERNS1_BACKENDS. Nothing of what is installed is changed.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import sys
from pathlib import Path

from benchmarks.peers import DEFAULT_WORK, Peers, measure
from interns1_local.engine.backend_files import STAMP, STAMP_BYTES

# Name -> cmake's switch.
BACKENDS = {"vulkan": "GGML_VULKAN", "cuda": "GGML_CUDA", "hip": "GGML_HIP"}

_CMAKE_OPTIONS = (
    "-DCMAKE_BUILD_TYPE=Release -DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_CPU=OFF -DGGML_NATIVE=OFF "
    "-DGGML_OPENMP=OFF -DGGML_CCACHE=OFF -DCMAKE_SKIP_RPATH=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_COMMON=OFF "
    "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_SERVER=OFF "
    "-DLLAMA_BUILD_APP=OFF"
).split()

# Vulkan's headers before 1.3.272 (Debian 12 has 1.3.239) do not know the layers' settings, which ggml uses for
# validation alone. The structures are laid out as Vulkan's specification says.
_OLD_HEADERS = """\
#include <vulkan/vulkan_core.h>
#if defined(__cplusplus) && !defined(VK_EXT_layer_settings)
#include <vector>
namespace vk {
enum class LayerSettingTypeEXT { eBool32 = 0 };
struct LayerSettingEXT { const char *layer, *name; LayerSettingTypeEXT type; uint32_t count; const void *values; };
struct LayerSettingsCreateInfoEXT {
    LayerSettingsCreateInfoEXT(const std::vector<LayerSettingEXT> &all)
        : count(uint32_t(all.size())), settings(all.data()) {}
    uint32_t type = 1000496000; const void *next = nullptr; uint32_t count; const LayerSettingEXT *settings;
};
}
#endif
"""


def library_path(backend: str, work: Path = DEFAULT_WORK) -> Path:
    """Where the library of `backend` is put."""
    return work / "backends" / f"libggml-{backend}{'.dylib' if sys.platform == 'darwin' else '.so'}"


def build(backend: str, work: Path) -> Path:
    """Build `backend` for the installed package; its library."""
    folder = work / f"build-{backend}"
    folder.mkdir(parents=True, exist_ok=True)
    version = importlib.metadata.version("llama-cpp-python")
    stamp = folder / "stamp.c"
    stamp.write_text(f'__attribute__((used)) const char {STAMP}[{STAMP_BYTES}] = "{version}";\n')
    measure(["cc", "-c", "-fPIC", stamp, "-o", folder / "stamp.o"], folder / "stamp.log")
    options = [*_CMAKE_OPTIONS, f"-D{BACKENDS[backend]}=ON", f"-DCMAKE_MODULE_LINKER_FLAGS={folder / 'stamp.o'}"]
    if backend == "vulkan":
        (folder / "old_headers.h").write_text(_OLD_HEADERS)
        options.append(f"-DCMAKE_CXX_FLAGS=-include {folder / 'old_headers.h'}")
    run = Peers(work).build(f"ggml-{backend}", folder, options)
    target = library_path(backend, work)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    shutil.copyfile(next((folder / "bin").glob(f"libggml-{backend}.*")), partial)
    partial.replace(target)
    print(f"built in {run.seconds:.0f} s ({run.cpu_seconds:.0f} s of CPU)", flush=True)
    return target


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("--work", type=Path, default=DEFAULT_WORK, help="folder for the source and what is built")
    options = parser.parse_args()
    print(f"INTERNS1_BACKENDS={build(options.backend, options.work.absolute())}")


if __name__ == "__main__":
    main()
