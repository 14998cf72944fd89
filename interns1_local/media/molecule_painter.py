"""The process that draws molecules: reads one JSON request from stdin, writes a line of JSON for each SMILES.

A line has {"data": base64, "formula", "weight", "canonical"} or {"error": sentence}. It is written as soon as its
drawing is there, so that a molecule that this process dies of does not take those before it along.
"""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

from interns1_local.errors import BadRequest, InternS1Error
from interns1_local.media.child_limits import limit_this_process
from interns1_local.media.molecule_drawing import CPU_SECONDS, MAX_ATOMS, MEMORY, DrawingStyle
from interns1_local.tokenizer.molecules import MAX_DUMMY_ATOMS, MAX_LETTERS, can_search_rings


class Painter:
    """RDKit, and one style."""

    def __init__(self, style: DrawingStyle) -> None:
        from rdkit import Chem, rdBase  # type: ignore[import-not-found, unused-ignore]
        from rdkit.Chem import rdMolDescriptors  # type: ignore[import-not-found, unused-ignore]
        from rdkit.Chem.Draw import rdMolDraw2D  # type: ignore[import-not-found, unused-ignore]

        rdBase.DisableLog("rdApp.*")
        self._chem: Any = Chem
        self._draw: Any = rdMolDraw2D
        self._describe: Any = rdMolDescriptors
        self._style = style

    def paint(self, smiles: str) -> dict[str, Any]:
        """The file in base64, and facts. Raises BadRequest for what is no molecule, or too large a one."""
        molecule = self._molecule(smiles)
        return {
            "data": base64.b64encode(self._drawn(molecule)).decode("ascii"),
            "formula": self._describe.CalcMolFormula(molecule),
            "weight": round(self._describe._CalcMolWt(molecule), 3),
            "canonical": self._chem.MolToSmiles(molecule),
        }

    def _drawn(self, molecule: Any) -> bytes:
        style = self._style
        make = self._draw.MolDraw2DSVG if style.format == "svg" else self._draw.MolDraw2DCairo
        canvas = make(style.width, style.height) if style.bond is None else make(-1, -1)
        options = canvas.drawOptions()
        if style.bond is not None:
            options.scalingFactor = style.bond
        if style.dark:
            self._draw.SetDarkMode(options)
        ground = (0, 0, 0, 0) if style.ground is None else tuple(part / 255 for part in style.ground)
        options.setBackgroundColour(ground)
        self._draw.PrepareAndDrawMolecule(canvas, molecule)
        canvas.FinishDrawing()
        drawn = canvas.GetDrawingText()
        if style.format == "png":
            return bytes(drawn)
        # The prolog names an encoding of its own, and is not allowed inside a page.
        return str(drawn)[str(drawn).index("<svg") :].encode()

    def _molecule(self, smiles: str) -> Any:
        if len(smiles) > MAX_LETTERS:
            raise BadRequest(f"it has more than {MAX_LETTERS} letters")
        # After a space RDKit reads annotations, among them text to be drawn.
        molecule = None if len(smiles.split()) != 1 else self._chem.MolFromSmiles(smiles.strip(), sanitize=False)
        if molecule is None or not molecule.GetNumAtoms():
            raise BadRequest("it is not a valid SMILES")
        if molecule.GetNumAtoms() > MAX_ATOMS:
            raise BadRequest(f"it has more than {MAX_ATOMS} atoms")
        if smiles.count("*") > MAX_DUMMY_ATOMS or not can_search_rings(self._chem, molecule, smiles.count(".") + 1):
            raise BadRequest("its rings are too many to be laid out")
        molecule = self._chem.MolFromSmiles(smiles.strip())
        if molecule is None:
            raise BadRequest("it is not a possible molecule: its valences or aromatic rings do not fit")
        return molecule


def main() -> None:
    """One request."""
    limit_this_process(MEMORY, CPU_SECONDS, CPU_SECONDS + 1)
    request = json.load(sys.stdin.buffer)
    style = request["style"]
    ground = style.pop("ground")
    painter = Painter(DrawingStyle(**style, ground=None if ground is None else tuple(ground)))
    for smiles in request["smiles"]:
        sys.stdout.write(json.dumps(_answer(painter, smiles)) + "\n")
        sys.stdout.flush()


def _answer(painter: Painter, smiles: str) -> dict[str, Any]:
    try:
        return painter.paint(smiles)
    except InternS1Error as error:
        return {"error": str(error)}
    except (RuntimeError, ValueError):
        return {"error": "RDKit could not draw it"}
    except MemoryError:
        return {"error": "RDKit could not draw it within its memory"}


if __name__ == "__main__":
    main()
