"""Markdown on a terminal: what is seen, and that it does not depend on how the answer was cut into pieces."""

from __future__ import annotations

import random

import pytest

from interns1_local.commands.latex_text import latex_to_text
from interns1_local.commands.markdown_stream import MarkdownStream
from tests.commands.screen import Screen

ROWS = 24
# (Markdown, the lines of the screen in 40 columns, something that its styled lines hold)
CASES: dict[str, tuple[str, list[str], str]] = {
    "emphasis": ("a **b c** *d* ***e*** ~~f~~ __g__", ["a b c d e f g"], "1:b c| |3:d"),
    "not emphasis": ("2*3*4, a * b * c, snake_case_name, **open", ["2*3*4, a * b * c, snake_case_name,", "**open"], ""),
    "nested": ("**a *b* `c*`**", ["a b c*"], "1;3:b"),
    "code": ("use `x = \"**y**\"` and ``a`b``", ['use x = "**y**" and a`b'], "1;36:x"),
    "heading": ("# One *two*\n### Three ###x", ["One two", "Three ###x"], "1;4:One"),
    "hash": ("#hashtag\n####### seven", ["#hashtag", "####### seven"], ""),
    "list": (
        "- one is long enough to be wrapped to the next line\n  - two\n* three\n1. four\n10) five",
        ["• one is long enough to be wrapped to", "  the next line", "  ◦ two", "• three", "1. four", "10) five"],
        "",
    ),
    "quote": ("> quoted *text*", ["│ quoted text"], "2:│"),
    "rule": ("a\n\n---\n* * *\nb", ["a", "", "─" * 40, "─" * 40, "b"], ""),
    "paragraphs": ("one\n\ntwo\n\n\n", ["one", "", "two"], ""),
    "link": ("see [the *page*](https://a.org/x_(y)), <b>", ["see the page (https://a.org/x_(y)), <b>"], "4:the"),
    "no link": ("C[C@H](N)C(=O)O [a] [b](c) ![d](e)", ["C[C@H](N)C(=O)O [a] [b](c) ![d](e)"], ""),
    "science": (
        "<SMILES>F/C=C\\[C@H](*)`_*x*</SMILES> H<sub>2</sub>O <FASTA>MK_L_</FASTA>",
        ["<SMILES>F/C=C\\[C@H](*)`_*x*</SMILES> H₂O", "<FASTA>MK_L_</FASTA>"],
        "32:F/C=C\\[C@H](*)`_*x*",
    ),
    "bonds": ("F/C=C\\F and F/C=C\\(F)", ["F/C=C\\F and F/C=C\\(F)"], ""),
    "open display": ("$$x\na_b\n\n**c** US$1 or A$", ["  x", "  a_b", "", "c US$1 or A$"], "1:c"),
    "blank beginning": ("\n\n\none\n\n\ntwo", ["one", "", "", "two"], ""),
    "math": ("$E = mc^2$, \\(\\alpha\\), $5 and $6", ["E = mc², α, $5 and $6"], "3:E = mc²"),
    "display": ("so\n$$\nx^2 \\\\ y\n$$\n\\[ z \\]\n$$w$$.\nend", ["so", "  x²", "  y", "  z", "  w", "end"], "3:x²"),
    "code block": (
        "```python\ndef f():\n    return 1  # x\n\n```\nafter",
        ["```python", "def f():", "    return 1  # x", "", "```", "after"],
        "94;49:def",
    ),
    "code as it is": ("~~~\n**a** | b\n# c\n```\n~~~", ["~~~", "**a** | b", "# c", "```", "~~~"], ""),
    "open code block": ("```\n`` x", ["```", "`` x"], ""),
    "long code line": (
        "```c\nint " + "a" * 50 + ";\n```",
        ["```c", "int " + "a" * 36, "a" * 14 + ";", "```"],
        "96;49:int",
    ),
    "table": (
        "| a | **b** | c |\n|:--|--:|:-:|\n| 1 | 2 |\n| 咖啡因 | 22222 | x\\|y | z |\nafter",
        ["a           b   c", "──────  ─────  ───", "1           2", "咖啡因  22222  x|y", "after"],
        "1:    b",
    ),
    "wide table": (
        "| name | remark |\n|---|---|\n| one | this remark is too long for one line of it |",
        ["name  remark", "────  " + "─" * 33, "one   this remark is too long for one", "      line of it"],
        "",
    ),
    "no table": ("| a | b |\nc", ["| a | b |", "c"], ""),
    "half a table": ("| a | b |", ["| a | b |"], ""),
    "chinese": (
        "这是**一段**很长的中文文字，用来检查换行是不是正确的。",
        ["这是一段很长的中文文字，用来检查换行是不", "是正确的。"],
        "1:一",
    ),
    "controls": ("a\x1b[2Jb\x9b1mc\rd\x07\u202ee", ["a[2Jb1mcde"], ""),
}  # fmt: skip


def shown(pieces: list[str], columns: int = 40, rows: int = ROWS) -> Screen:
    screen = Screen(columns)
    written: list[str] = []
    stream = MarkdownStream(written.append, lambda: (columns, rows))
    for piece in pieces:
        stream.feed(piece)
    stream.close()
    screen.write("".join(written))
    return screen


@pytest.mark.parametrize("name", CASES)
def test_what_is_seen(name: str) -> None:
    text, lines, part = CASES[name]
    screen = shown([text])
    assert screen.lines() == [*lines, ""]
    assert part in "\n".join(screen.styled())


@pytest.mark.parametrize("name", CASES)
def test_every_split_gives_the_same_screen(name: str) -> None:
    text = CASES[name][0]
    whole = shown([text]).styled()
    for cut in range(1, len(text)):
        assert shown([text[:cut], text[cut:]]).styled() == whole, f"cut at {cut}: {text[:cut]!r}"
    assert shown(list(text)).styled() == whole


def test_all_of_them_in_one_answer_in_random_pieces() -> None:
    chance = random.Random(7)
    text = "\n\n".join(case[0] for name, case in CASES.items() if name != "open code block")
    whole = shown([text]).styled()
    for _ in range(10):
        cuts = sorted(chance.sample(range(len(text)), 60))
        assert shown([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]).styled() == whole


def test_text_appears_before_its_line_is_complete() -> None:
    written: list[str] = []
    stream = MarkdownStream(written.append, lambda: (40, ROWS))
    for piece, seen in (
        ("- one tw", "• one"),
        ("o ", "• one two"),
        ("**three", "• one two"),
        ("** ", "• one two three"),
    ):
        stream.feed(piece)
        screen = Screen(40)
        screen.write("".join(written))
        assert screen.lines() == [seen]


def test_a_table_higher_than_the_screen_goes_on_below() -> None:
    rows = [f"| {number} | {'x' * number} |" for number in range(1, 12)]
    text = "\n".join(["| n | text |", "|---|---|", *rows])
    lines = shown([text], rows=8).lines()
    assert [line.split() for line in lines if line][2:] == [[str(n), "x" * n] for n in range(1, 12)]


def test_colours_are_left_out_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    styled = "\n".join(shown(["**b** `c`\n```python\ndef f(): pass\n```\n|a|\n|-|\n|`x`|"]).styled())
    assert "1:b" in styled
    assert not any(f"3{colour}" in styled for colour in range(1, 8))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (r"\frac{1}{2}\alpha^2 + \sqrt{x_1}", "1/2α² + √x₁"),
        (r"\frac{a+b}{c}", "(a+b)/c"),
        (r"\int_0^\infty e^{-x^2}\,dx = \frac{\sqrt{\pi}}{2}", "∫₀^∞ e^(-x²) dx = √π/2"),
        (r"\mathrm{H_2O} \rightarrow \text{water}", "H₂O → water"),
        (r"\left( x \right) \in \mathbb{R}", "( x ) ∈ ℝ"),
        (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", "a = b\nc = d"),
        (r"90^\circ, \unknown{x}, 5\%", r"90°, \unknownx, 5%"),
        ("{" * 100 + "x", "{" * 79 + "x"),
        (r"a^", "a^"),
        ("", ""),
    ],
)
def test_latex(source: str, text: str) -> None:
    assert latex_to_text(source) == text
