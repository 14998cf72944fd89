"""Drawings of molecules: what is drawn, what is refused, and that a hostile one hurts nobody else."""

from __future__ import annotations

import io
import xml.etree.ElementTree as ElementTree

import pytest
from PIL import Image

from interns1_local.errors import BadRequest
from interns1_local.media import molecule_drawing
from interns1_local.media.molecule_drawing import DrawingStyle, draw_molecules

ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
# A cage of 25 fused rings; and hydrogens on a cage, which RDKit folds in first.
CAGE = "C1" + "".join(f"C%{ring}" for ring in range(10, 35)) + "C1" + "".join(f"C%{ring}" for ring in range(34, 9, -1))


def test_svg_is_one_element_with_nothing_that_acts() -> None:
    [drawing] = draw_molecules([ASPIRIN], DrawingStyle(width=300, height=150))
    assert drawing.data is not None
    assert drawing.data.startswith(b"<svg")
    svg = ElementTree.fromstring(drawing.data.decode())
    assert (svg.attrib["width"], svg.attrib["height"]) == ("300px", "150px")
    assert {element.tag.rpartition("}")[2] for element in svg.iter()} <= {"svg", "rect", "path", "ellipse", "text"}
    assert not any("href" in name or name.startswith("on") for each in svg.iter() for name in each.attrib)


def test_png_has_the_ground_that_was_asked_for() -> None:
    grounds = {None: (0, 0, 0, 0), (1, 2, 3): (1, 2, 3, 255)}
    for ground, expected in grounds.items():
        [drawing] = draw_molecules([ASPIRIN], DrawingStyle("png", 200, 100, ground=ground))
        assert drawing.data is not None
        picture = Image.open(io.BytesIO(drawing.data)).convert("RGBA")
        assert picture.size == (200, 100)
        assert picture.getpixel((0, 0)) == expected


def test_dark_lines_are_light() -> None:
    def brightest(dark: bool) -> int:
        [drawing] = draw_molecules(["CCCCCC"], DrawingStyle("png", 200, 100, dark=dark))
        assert drawing.data is not None
        picture = Image.open(io.BytesIO(drawing.data)).convert("RGBA")
        return max(max(pixel[:3]) for pixel in picture.get_flattened_data() if pixel[3] == 255)

    assert brightest(dark=False) < 100 < 200 < brightest(dark=True)


@pytest.mark.parametrize(
    ("smiles", "error"),
    [
        ("CC(", "it is not a valid SMILES"),
        ("", "it is not a valid SMILES"),
        ("CC |$<script>;R$|", "it is not a valid SMILES"),
        ("C(C)(C)(C)(C)C", "it is not a possible molecule: its valences or aromatic rings do not fit"),
        ("C" * 20_000, "it has more than 10000 letters"),
        ("C" * 600, "it has more than 500 atoms"),
        (CAGE, "its rings are too many to be laid out"),
    ],
)
def test_what_cannot_be_drawn_says_why(smiles: str, error: str) -> None:
    bad, good = draw_molecules([smiles, "CCO"])
    assert (bad.data, bad.error) == (None, error)
    assert good.data


def test_what_the_child_dies_of_costs_one_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(molecule_drawing, "SECONDS", 0.0)
    first, second = draw_molecules(["CCN", "CCCN"])
    assert first.error == second.error == "RDKit could not draw it within its time and memory"


def test_a_drawing_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    [first] = draw_molecules(["CCCO"])
    monkeypatch.setattr(molecule_drawing, "_start", lambda: pytest.fail("drawn again"))
    assert draw_molecules(["CCCO", "CCCO"]) == [first, first]


def test_bad_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadRequest, match="width and height must be 20 to 2000; they are 3000x10"):
        DrawingStyle(width=3000, height=10)
    with pytest.raises(BadRequest, match="at most 64 molecules are drawn at once; there are 65"):
        draw_molecules(["C"] * 65)
    monkeypatch.setattr(molecule_drawing, "find_spec", lambda name: None)
    with pytest.raises(BadRequest, match=r'pip install "interns1-local\[science\]"'):
        draw_molecules(["C"])
