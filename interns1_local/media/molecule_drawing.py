"""Drawings of molecules: SMILES in, SVG or PNG out, made by RDKit in a process with limits of time and memory.

A SMILES comes from a model or from anywhere: one of a hundred letters can take RDKit hours or all memory. So a child
process draws, a list at a time, and what it dies of costs only that one drawing.
"""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal

from interns1_local import child_python
from interns1_local.errors import BadRequest
from interns1_local.media.recently_used import RecentlyUsed

HINT = 'drawings of molecules need RDKit: pip install "interns1-local[science]"'
MAX_SMILES = 64
MAX_PIXELS = 2000
# Of one child process; the first is its CPU time, the second the clock, on a busy machine.
CPU_SECONDS = 5
SECONDS = 20.0
MEMORY = 2**30
# RDKit's layout of a molecule with more atoms than this is a ball of wool.
MAX_ATOMS = 500

_REMEMBERED_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True)
class DrawingStyle:
    """How molecules are drawn. `width` and `height` are pixels; the ground is transparent unless `ground` is given.

    With `bond`, the pixels of a bond, a drawing is as large as its molecule, whatever `width` and `height` are. `dark`
    chooses light lines for a dark ground. `ground` is red, green and blue, 0 to 255.
    """

    format: Literal["svg", "png"] = "svg"
    width: int = 250
    height: int = 200
    dark: bool = False
    ground: tuple[int, int, int] | None = None
    bond: int | None = None

    def __post_init__(self) -> None:
        if self.format not in ("svg", "png"):
            raise BadRequest(f"a drawing's format must be svg or png; it is {self.format!r}")
        if not (20 <= self.width <= MAX_PIXELS and 20 <= self.height <= MAX_PIXELS):
            raise BadRequest(
                f"a drawing's width and height must be 20 to {MAX_PIXELS}; they are {self.width}x{self.height}"
            )


@dataclass(frozen=True, slots=True)
class Drawing:
    """`data` is a PNG file or SVG text in UTF-8 (one `<svg>` element, no prolog); None where `error` says why.

    Beside a drawing stand the molecule's formula, its weight in g/mol, and its canonical SMILES.
    """

    smiles: str
    data: bytes | None
    error: str = ""
    formula: str = ""
    weight: float = 0.0
    canonical: str = ""


def can_draw() -> bool:
    """Whether RDKit is installed."""
    return find_spec("rdkit") is not None


def draw_molecules(smiles: Sequence[str], style: DrawingStyle | None = None) -> list[Drawing]:
    """One drawing for each SMILES, in order; made once for each style, and remembered.

    Blocks up to SECONDS for each one that hangs. Raises BadRequest for more than MAX_SMILES or without RDKit.
    """
    style = style or DrawingStyle()
    if len(smiles) > MAX_SMILES:
        raise BadRequest(f"at most {MAX_SMILES} molecules are drawn at once; there are {len(smiles)}")
    if not can_draw():
        raise BadRequest(HINT)
    drawn = {text: _REMEMBERED.get((text, style)) for text in smiles}
    missing = [text for text, drawing in drawn.items() if drawing is None]
    while missing:
        for made in _draw_some(missing, style):
            drawn[made.smiles] = made
            _REMEMBERED.put((made.smiles, style), made)
            missing.remove(made.smiles)
    return [drawing for text in smiles if (drawing := drawn[text]) is not None]


def _draw_some(smiles: Sequence[str], style: DrawingStyle) -> list[Drawing]:
    """At least one drawing: what one child gets done. What it died of is tried alone before it counts as failed."""
    request = json.dumps({"smiles": smiles, "style": asdict(style)}).encode()
    drawings = []
    with _start() as process:
        timer = threading.Timer(SECONDS, process.kill)
        timer.start()
        try:
            assert process.stdin is not None and process.stdout is not None
            with suppress(BrokenPipeError):
                process.stdin.write(request)
                process.stdin.close()
            for text, line in zip(smiles, process.stdout, strict=False):
                drawings.append(_drawing(text, line))
        finally:
            timer.cancel()
            process.kill()
    return drawings or [Drawing(smiles[0], None, "RDKit could not draw it within its time and memory")]


def _drawing(smiles: str, line: bytes) -> Drawing:
    try:
        answer: dict[str, Any] = json.loads(line)
    except ValueError:
        return Drawing(smiles, None, "the drawing process was interrupted")
    if "data" not in answer:
        return Drawing(smiles, None, answer["error"])
    facts = {name: answer[name] for name in ("formula", "weight", "canonical")}
    return Drawing(smiles, base64.b64decode(answer["data"]), **facts)


def _start() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        child_python.command("interns1_local.media.molecule_painter"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_python.environment(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1"),
        # Ctrl-C in a terminal is for the one who waits for the drawings.
        start_new_session=True,
    )


def _size(drawing: Drawing) -> int:
    return 200 + 4 * len(drawing.smiles) + len(drawing.data or b"")


_REMEMBERED: RecentlyUsed[tuple[str, DrawingStyle], Drawing] = RecentlyUsed(_REMEMBERED_BYTES, _size)
