"""The rules of the house: who may import whom, no cycles, small files and functions, light imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("quant", "convert", "interns1_local")
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

# Rooms of interns1_local, highest first; a file imports only from rows below its own.
ROWS = [
    {"commands"},
    {"api"},
    {"server"},
    {"generation"},
    {"runners"},
    {"store", "chat", "tokenizer", "media", "engine", "nano", "reference"},
    {"config", "child_python"},
    {"addresses"},
    {"errors"},
]
EXTRA_EDGES = {
    # The worker is the one place where token ids and the model meet.
    "interns1_local.store.create": {"convert", "quant"},
    "interns1_local.store.create_files": {"convert", "quant"},
    "interns1_local.store.adapter": {"convert", "quant"},
    "interns1_local.store.nano": {"nano", "convert", "quant"},
    "interns1_local.store.shards": {"quant"},
    "interns1_local.store.download": {"quant"},
    "interns1_local.store.sidecars": {"convert", "quant"},
    "interns1_local.store.mmproj_repair": {"quant"},
    "interns1_local.engine.vision_order": {"quant"},
    # How far RDKit can be trusted with a molecule is one rule, for reading and for drawing.
    "interns1_local.media.molecule_painter": {"tokenizer"},
    "interns1_local.runners.vision_file": {"quant"},
    "interns1_local.runners.model_spec": {"quant"},
    "interns1_local.runners.model_shape": {"quant"},
    "interns1_local.runners.known_shapes": {"quant"},
}
FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "core", "base", "manager", "misc"}


def python_files() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def checked_files() -> list[Path]:
    return python_files() + [p for folder in ("tests", "benchmarks") for p in sorted((ROOT / folder).rglob("*.py"))]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@lru_cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports_of(path: Path, *, top_level: bool = False) -> set[str]:
    """Modules of ours that a file imports (everywhere, or at module level only)."""
    tree = tree_of(path)
    nodes = tree.body if top_level else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    modules = {module_name(p) for p in python_files()}
    return {name for name in found if name in modules and name.split(".")[0] in PACKAGES} - {module_name(path)}


def room(module: str) -> str:
    """`interns1_local.chat.template` -> `chat`; `quant.codec` -> `quant`."""
    parts = module.split(".")
    return parts[1] if parts[0] == "interns1_local" and len(parts) > 1 else parts[0]


def row(name: str) -> int:
    return next(i for i, rooms in enumerate(ROWS) if name in rooms)


def allowed(module: str, target: str) -> bool:
    here, there = room(module), room(target)
    if here == there or target == "interns1_local":
        return True
    if module.startswith("interns1_local"):
        if here == "commands" or there in EXTRA_EDGES.get(module, ()):
            return True
        if here == "interns1_local":
            return module == "interns1_local"
        return there not in ("quant", "convert") and row(here) < row(there)
    return module.startswith("convert") and target.startswith("quant")


def test_imports_follow_the_rows() -> None:
    wrong = [
        f"{module_name(path)} -> {target}"
        for path in python_files()
        for target in sorted(imports_of(path))
        if not allowed(module_name(path), target)
    ]
    assert not wrong, "\n".join(wrong)


def test_the_judge_is_independent() -> None:
    """`reference` shares no code with what it judges, and nothing but `interns1 verify` loads it."""
    for path in python_files():
        module, ours = module_name(path), imports_of(path)
        if room(module) == "reference":
            used = {room(target) for target in ours} - {"interns1_local"}
            assert used <= {"reference", "errors"}, f"{module} uses {sorted(used)}"
        elif any(room(target) == "reference" for target in ours):
            assert module.startswith("interns1_local.commands.verify"), f"{module} uses the reference"


def test_no_import_cycles() -> None:
    graph = {module_name(path): imports_of(path, top_level=True) for path in python_files()}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module in done:
            return
        for target in graph.get(module, ()):
            # A package's own __init__ may gather its parts.
            if not module.startswith(target + "."):
                visit(target, (*trail, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_files_and_functions_stay_small() -> None:
    large = [
        f"{path.relative_to(ROOT)}: {count} lines"
        for path in checked_files()
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_FILE_LINES
    ]
    for path in checked_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
                length = node.end_lineno - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    large.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines")
    assert not large, "\n".join(large)


def test_names_say_something() -> None:
    vague = [str(p.relative_to(ROOT)) for p in python_files() if {p.stem, p.parent.name} & FORBIDDEN_NAMES]
    assert not vague


def test_every_module_says_what_it_owns() -> None:
    silent = [
        module_name(p)
        for p in python_files()
        if p.read_text(encoding="utf-8").strip() and not ast.get_docstring(tree_of(p))
    ]
    assert not silent


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("interns1_local", {"torch", "llama_cpp", "numpy", "transformers"}),
        ("interns1_local.commands", {"torch", "llama_cpp", "numpy", "transformers", "starlette", "prompt_toolkit"}),
        ("interns1_local.server.app", {"torch", "llama_cpp", "transformers"}),
        ("interns1_local.api", {"torch", "llama_cpp", "transformers", "uvicorn", "click"}),
        ("convert.hf_to_gguf", {"torch", "llama_cpp", "transformers"}),
    ],
)
def test_imports_stay_light(module: str, heavy: set[str]) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert not heavy & set(loaded.stdout.split())


def test_llama_cpp_has_one_door() -> None:
    doors = {
        module_name(path)
        for path in python_files()
        for node in ast.walk(tree_of(path))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "llama_cpp" and not node.level)
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "llama_cpp" for alias in node.names))
    }
    assert doors == {"interns1_local.engine.native"}
