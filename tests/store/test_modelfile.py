"""The Modelfile's grammar: values, quotes, comments, errors with lines, and the way back to text."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from interns1_local.errors import BadRequest
from interns1_local.store.modelfile import Command, Modelfile, from_parts, parse, render


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("FROM nano", [("from", "", "nano")]),
        ("from nano\n", [("from", "", "nano")]),
        ("\ufeffFROM nano\r\nSYSTEM hi\r\n", [("from", "", "nano"), ("system", "", "hi")]),
        ("# c\n  # d\nFROM x # not a comment\n", [("from", "", "x # not a comment")]),
        ('FROM x\nSYSTEM """\nA "b"\n# c\n"""\n', [("from", "", "x"), ("system", "", '\nA "b"\n# c\n')]),
        ('FROM x\nSYSTEM "a\nb"', [("from", "", "x"), ("system", "", "a\nb")]),
        ('FROM x\nTEMPLATE """{{ x }}"""', [("from", "", "x"), ("template", "", "{{ x }}")]),
        ('FROM x\nSYSTEM ""', [("from", "", "x"), ("system", "", "")]),
        ("FROM x\nPARAMETER stop <|im_end|>", [("from", "", "x"), ("parameter", "stop", "<|im_end|>")]),
        ('FROM x\nPARAMETER stop " a "', [("from", "", "x"), ("parameter", "stop", " a ")]),
        ("FROM x\nMESSAGE user hello there", [("from", "", "x"), ("message", "user", "hello there")]),
        ("FROM ./a.gguf\nFROM ./b.gguf", [("from", "", "./a.gguf"), ("from", "", "./b.gguf")]),
        ("FROM x\u200b\n", [("from", "", "x")]),
        ("FROM x\nREQUIRES 0.14.0\nPARSER p\nRENDERER r\nADAPTER a\nDRAFT d",
         [("from", "", "x"), ("requires", "", "0.14.0"), ("parser", "", "p"), ("renderer", "", "r"),
          ("adapter", "", "a"), ("draft", "", "d")]),
    ],
)  # fmt: skip
def test_parse(text: str, expected: list[tuple[str, str, str]]) -> None:
    commands = parse(text).commands
    assert [(command.name, command.key, command.value) for command in commands] == expected
    again = parse(render(Modelfile(commands))).commands
    assert [(command.name, command.key, command.value) for command in again] == expected


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_marks(encoding: str) -> None:
    assert parse("FROM nano\nSYSTEM 你好".encode(encoding)).last("system") == "你好"


COMMAND_ERROR = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", "renderer", "parser", '
    '"parameter", "message", or "requires"'
)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line: a Modelfile names a model or a file, as in FROM ./model.gguf"),
        ("SYSTEM hi", "no FROM line: a Modelfile names a model or a file, as in FROM ./model.gguf"),
        ("FROM x\nFROB y", f"(line 2): {COMMAND_ERROR}; 'FROB' is none of them"),
        ("FROM\n", f"(line 1): {COMMAND_ERROR}; 'FROM' has no value after it"),
        ("\n\n123 y", f"(line 3): {COMMAND_ERROR}; '123' is none of them"),
        ("FROM x\nMESSAGE wizard y", '(line 2): message role must be one of "system", "user", or "assistant"'),
        ('FROM x\nSYSTEM """a\nb', 'unexpected EOF: a quoted value is not closed; it begins on line 2 with """'),
        ('FROM x\nSYSTEM "', 'unexpected EOF: a quoted value is not closed; it begins on line 2 with "'),
        ("FROM x\nPARAMETER frob 1", "unknown parameter 'frob'"),
        ("FROM x\nPARAMETER num_ctx lots", "invalid int value [lots]; a whole number is expected"),
        ("FROM x\nPARAMETER top_p a", "invalid float value [a]; a number is expected"),
        ("FROM x\nPARAMETER use_mmap a", "invalid bool value [a]"),
        ("FROM x\nREQUIRES soon", "requires must be a valid semver (e.g. 0.14.0)"),
        ("FROM x\nPARAMETER think maybe",
         'invalid think value: "maybe" (must be "high", "medium", "low", "max", true, or false)'),
    ],
)  # fmt: skip
def test_errors(text: str, message: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(text)
    assert str(caught.value) == message


def test_parameters() -> None:
    text = (
        "FROM x\nPARAMETER num_ctx 4096\nPARAMETER temperature 0.7\nPARAMETER stop a\nPARAMETER stop b\n"
        "PARAMETER use_mmap true\nPARAMETER think false\nPARAMETER mirostat 2\nPARAMETER num_ctx 8192"
    )
    expected: dict[str, Any] = {
        "num_ctx": 8192, "temperature": 0.7, "stop": ["a", "b"], "use_mmap": True, "think": False,
    }  # fmt: skip
    assert parse(text).parameters == expected
    assert parse(render(from_parts("x", parameters=expected))).parameters == expected


def test_written_as_ollama_writes_it() -> None:
    modelfile = from_parts(
        "/blobs/sha256-1",
        template="a\nb",
        system='say "x"\n',
        parameters={"stop": ["<|im_end|>"], "temperature": 1.0},
        messages=[{"role": "user", "content": "hi"}],
        licenses=["MIT"],
    )
    assert render(modelfile) == (
        'FROM /blobs/sha256-1\nTEMPLATE "a\nb"\nSYSTEM """say "x"\n"""\nPARAMETER stop <|im_end|>\n'
        "PARAMETER temperature 1\nLICENSE MIT\nMESSAGE user hi\n"
    )


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet=st.characters(exclude_categories=("Cs",), exclude_characters='"\r')))
def test_any_text_survives(text: str) -> None:
    commands = (Command("from", "x"), Command("system", text))
    assert parse(render(Modelfile(commands))).last("system") == text
