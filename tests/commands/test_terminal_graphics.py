"""How a terminal says that it shows pictures, and the codes that pictures become."""

from __future__ import annotations

import base64
import os
import pty
import re
import subprocess
import sys
from collections.abc import Mapping
from itertools import product

import pytest
from PIL import Image

from interns1_local.commands.picture_codes import half_blocks, kitty, sixel
from interns1_local.commands.terminal_query import TerminalAnswer, read_answer
from tests.media.pictures import encoded

ASK = "from interns1_local.commands.terminal_query import ask_terminal; print(ask_terminal({}))"
WHITE = b"\x1b]11;rgb:ffff/ffff/ffff\x1b\\"


@pytest.mark.parametrize(
    ("answer", "environ", "expected"),
    [
        (b"", {}, TerminalAnswer()),
        (b"\x1b[?62;4;22c", {}, TerminalAnswer(sixel=True)),
        (b"\x1b[?1;2c", {}, TerminalAnswer()),
        (b"\x1b[?64;14;24c", {}, TerminalAnswer()),
        (WHITE + b"\x1b_Gi=31;OK\x1b\\\x1b[?62c", {}, TerminalAnswer(kitty=True, ground=(255, 255, 255))),
        (b"\x1b]11;rgb:1e/80/00\x07\x1b_Gi=31;EINVAL:no\x1b\\\x1b[?62c", {}, TerminalAnswer(ground=(30, 128, 0))),
        (b"typed\x1b[?4c", {"COLORFGBG": "0;15"}, TerminalAnswer(sixel=True, ground=(255, 255, 255))),
        (b"", {"COLORFGBG": "15;0"}, TerminalAnswer(ground=(0, 0, 0))),
    ],
)
def test_answers(answer: bytes, environ: Mapping[str, str], expected: TerminalAnswer) -> None:
    assert read_answer(answer, environ) == expected


@pytest.mark.parametrize(
    ("answers", "expected"),
    [(WHITE + b"\x1b[?62;4c", "sixel=True, ground=(255, 255, 255)"), (b"", "sixel=False, ground=None")],
)
def test_the_terminal_is_asked_and_never_waited_for_long(answers: bytes, expected: str) -> None:
    mine, theirs = pty.openpty()
    with subprocess.Popen([sys.executable, "-c", ASK], stdin=theirs, stdout=theirs) as process:
        os.close(theirs)
        written = b""
        while b"\x1b[c" not in written:
            written += os.read(mine, 1024)
        assert b"\x1b]11;?" in written
        os.write(mine, answers)
        while b")" not in written.partition(b"TerminalAnswer")[2].replace(b"255)", b""):
            written += os.read(mine, 1024)
        assert process.wait(20) == 0
    os.close(mine)
    assert expected in written.decode()


def test_a_pipe_is_not_asked() -> None:
    done = subprocess.run([sys.executable, "-c", ASK], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    assert done.stdout == b"TerminalAnswer(kitty=False, sixel=False, ground=None)\n"


def test_kitty_gets_the_file_in_pieces() -> None:
    png = bytes(range(256)) * 40
    codes = kitty(png)
    parts = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", codes)
    assert parts[0][0] == "a=T,f=100,q=2,m=1"
    assert [head for head, _ in parts[1:]] == ["m=1", "m=1", "m=0"]
    assert all(len(data) <= 4096 for _, data in parts)
    assert base64.b64decode("".join(data for _, data in parts)) == png


def test_sixel_is_the_picture() -> None:
    picture = Image.new("RGB", (13, 8), (0, 0, 0))
    for at in range(8):
        picture.putpixel((at, at), (255, 0, 0))
        picture.putpixel((12, at), (0, 0, 255))
    codes = sixel(encoded(picture))
    assert codes.startswith('\x1bPq"1;1;13;8')
    assert codes.endswith("\x1b\\")
    assert decode_sixel(codes).tobytes() == picture.tobytes()


def test_half_blocks_are_two_pixels_each() -> None:
    picture = Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    picture.putpixel((0, 0), (1, 2, 3, 255))
    picture.putpixel((2, 1), (4, 5, 6, 255))
    assert half_blocks(encoded(picture), 10) == "\x1b[0;38;2;1;2;3m▀\x1b[0m \x1b[0;38;2;4;5;6m▄\x1b[0m"


def decode_sixel(codes: str) -> Image.Image:
    head = re.match(r'\x1bPq"1;1;(\d+);(\d+)', codes)
    assert head is not None
    picture = Image.new("RGB", (int(head[1]), int(head[2])), (9, 9, 9))
    palette: dict[int, tuple[int, ...]] = {}
    column = row = colour = 0
    for part in re.finditer(r"#(\d+);2;(\d+);(\d+);(\d+)|#(\d+)|(?:!(\d+))?([?-~])|([$-])", codes[head.end() : -2]):
        if part[1]:
            palette[int(part[1])] = tuple(round(int(each) * 255 / 100) for each in part.group(2, 3, 4))
        elif part[5]:
            colour = int(part[5])
        elif part[8]:
            column, row = 0, row + (6 if part[8] == "-" else 0)
        else:
            count = int(part[6] or 1)
            for at, bit in product(range(count), range(6)):
                if (ord(part[7]) - 63) >> bit & 1:
                    picture.putpixel((column + at, row + bit), palette[colour])  # type: ignore[arg-type]
            column += count
    return picture
