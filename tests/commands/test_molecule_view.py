"""When the molecules of an answer are drawn, and what is said where they cannot be."""

from __future__ import annotations

import pytest

from interns1_local.commands import terminal_query, terminal_style
from interns1_local.commands.molecule_view import MoleculeView
from interns1_local.commands.terminal_query import TerminalAnswer
from interns1_local.media import molecule_drawing

ANSWER = "<SMILES>CCO</SMILES>, <SMILES>CCO</SMILES> and <SMILES>C(C</SMILES>"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that shows kitty's graphics."""
    monkeypatch.setattr(terminal_style, "shows_styles", lambda *_, **__: True)
    monkeypatch.setattr(terminal_query, "ask_terminal", lambda _: TerminalAnswer(kitty=True))


def test_each_molecule_once_and_only_what_can_be_drawn(terminal: None, capsys: pytest.CaptureFixture[str]) -> None:
    MoleculeView().show(ANSWER)
    written = capsys.readouterr().out
    assert written.count("\x1b_Ga=T") == 1
    assert written.endswith("\nCCO\n")


def test_without_rdkit_it_is_said_once_how_to_get_it(
    terminal: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(molecule_drawing, "find_spec", lambda _: None)
    view = MoleculeView()
    view.show("no molecule")
    view.show(ANSWER)
    view.show(ANSWER)
    assert capsys.readouterr().out.count('pip install "interns1-local[science]"') == 1


@pytest.mark.parametrize(("wish", "answer"), [("auto", TerminalAnswer()), ("off", TerminalAnswer(kitty=True))])
def test_nothing_is_written_where_nothing_is_shown(
    wish: str, answer: TerminalAnswer, terminal: None, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(terminal_query, "ask_terminal", lambda _: answer)
    MoleculeView(wish).show(ANSWER)
    assert capsys.readouterr().out == ""


def test_lines_are_dark_on_a_light_ground(terminal: None, monkeypatch: pytest.MonkeyPatch) -> None:
    styles: list[molecule_drawing.DrawingStyle] = []
    monkeypatch.setattr(molecule_drawing, "draw_molecules", lambda _, style: styles.append(style) or [])
    for ground in ((255, 255, 255), (20, 20, 20), None):
        monkeypatch.setattr(
            terminal_query, "ask_terminal", lambda _, ground=ground: TerminalAnswer(sixel=True, ground=ground)
        )
        MoleculeView().show(ANSWER)
    assert [(style.dark, style.ground) for style in styles] == [
        (False, (255, 255, 255)), (True, (20, 20, 20)), (True, (0, 0, 0)),
    ]  # fmt: skip
