"""POST /api/molecules: the molecules, proteins and names of a text, the molecules drawn."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.errors import BadRequest
from interns1_local.media.molecule_drawing import HINT, Drawing, DrawingStyle, can_draw, draw_molecules
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import read_fields
from interns1_local.server.streaming import until_disconnect
from interns1_local.tokenizer.fasta import find_sequences
from interns1_local.tokenizer.smiles import accepts_by_rules, find_molecules

MAX_TEXT = 200_000
MAX_DRAWN = 48
# Drawn together: what one of them costs too much time, the next group does not pay.
_GROUP = 8
_TAG = re.compile(r"<(/?)(SMILES|SELFIES|IUPAC|FASTA|MOLFORMULA)>")
_STYLE = DrawingStyle(bond=25)
# A molecule that hangs holds a thread for seconds; the requests of others do not wait for it.
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="molecules")


async def molecules(request: Request) -> Response:
    """`{text}` -> `{spans: [{kind, start, end, value, tagged, svg, formula, weight, canonical | error}], hint}`.

    Places are in characters (code points), tags included. Only molecules are drawn; `hint` says how to get drawings
    where there are none.
    """
    fields = await read_fields(request, "MoleculesRequest")
    text = fields.text("text")
    if len(text) > MAX_TEXT:
        raise BadRequest(f"the text has {len(text)} characters; the limit is {MAX_TEXT}")
    return GoJSONResponse(await until_disconnect(request, _read(text)))


async def _read(text: str) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    spans = await loop.run_in_executor(_THREADS, lambda: list(find_science(text)))
    names = list(dict.fromkeys(span["value"] for span in spans if span["kind"] == "smiles"))
    if names and not can_draw():
        return {"spans": spans, "hint": HINT}
    drawn: dict[str, dict[str, Any]] = {}
    for start in range(0, min(len(names), MAX_DRAWN), _GROUP):
        group = names[start : min(start + _GROUP, MAX_DRAWN)]
        found = await loop.run_in_executor(_THREADS, draw_molecules, group, _STYLE)
        drawn |= {drawing.smiles: _fields(drawing) for drawing in found}
    left_out = {"error": f"only the first {MAX_DRAWN} molecules of a text are drawn"}
    for span in spans:
        if span["kind"] == "smiles":
            span |= drawn.get(span["value"], left_out)
    return {"spans": spans}


def _fields(drawing: Drawing) -> dict[str, Any]:
    if drawing.data is None:
        return {"error": drawing.error}
    return {
        "svg": drawing.data.decode(),
        "formula": drawing.formula,
        "weight": drawing.weight,
        "canonical": drawing.canonical,
    }


def find_science(text: str) -> Iterator[dict[str, Any]]:
    """The tagged and the found notation of a text, in order: kind, place (in characters, tags included), value."""
    position = 0
    for start, end, kind, value in _tagged(text):
        yield from _untagged(text, position, start)
        if value:
            yield {"kind": kind, "start": start, "end": end, "value": value, "tagged": True}
        position = end
    yield from _untagged(text, position, len(text))


def _tagged(text: str) -> Iterator[tuple[int, int, str, str]]:
    """One pass: a tag that is never closed costs nothing."""
    opened: re.Match[str] | None = None
    for found in _TAG.finditer(text):
        if not found.group(1):
            opened = found
        elif opened is not None and opened.group(2) == found.group(2):
            value = text[opened.end() : found.start()].strip()
            yield opened.start(), found.end(), found.group(2).lower(), value
            opened = None


def _untagged(text: str, start: int, end: int) -> Iterator[dict[str, Any]]:
    piece = text[start:end]
    # Bold in Markdown, where a molecule could have two bare atoms, which none that people write has.
    plain = piece.replace("**", "  ")
    spans = [("smiles", *span) for span in find_molecules(plain, accepts_by_rules)]
    spans += [("fasta", *span) for span in find_sequences(piece) if not _overlaps(span, spans)]
    for kind, first, last in sorted(spans, key=lambda span: span[1]):
        place = {"start": start + first, "end": start + last}
        yield {"kind": kind, **place, "value": piece[first:last], "tagged": False}


def _overlaps(span: tuple[int, int], others: Sequence[tuple[str, int, int]]) -> bool:
    return any(span[0] < last and first < span[1] for _, first, last in others)
