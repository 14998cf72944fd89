"""POST /api/molecules: the molecules, proteins and names of a text, the molecules drawn."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from interns1_local.errors import BadRequest
from interns1_local.media.molecule_drawing import HINT, Drawing, DrawingStyle, can_draw, draw_molecules
from interns1_local.server.errors import GoJSONResponse
from interns1_local.server.json_body import read_fields
from interns1_local.server.streaming import until_disconnect
from interns1_local.tokenizer.shown_science import find_science

MAX_TEXT = 200_000
MAX_DRAWN = 48
# Drawn together: what one of them costs too much time, the next group does not pay.
_GROUP = 8
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
    spans = await loop.run_in_executor(_THREADS, lambda: [found._asdict() for found in find_science(text)])
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
