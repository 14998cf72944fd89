"""Every command explains itself, loads little, and an unknown one is met with a hint."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys

import click
import pytest

from interns1_local import __version__
from interns1_local.commands import COMMANDS, interns1
from tests.commands.conftest import Invoke


def command_lines(text: str) -> list[list[str]]:
    """The words of each `interns1 ...` in the examples, up to where the shell takes over or an explanation begins."""
    found = []
    for line in re.findall(r"(interns1 .*)", text):
        words = shlex.shlex(re.split(r" {3,}", line)[0].replace(')"', ""), posix=True, punctuation_chars=True)
        words.whitespace_split = True
        found.append(list(itertools.takewhile(lambda word: word not in (">", "|", "&", "&&", ";"), words)))
    return found


@pytest.mark.parametrize("name", [*COMMANDS, "ls", "start"])
def test_help_has_an_example(name: str, invoke: Invoke) -> None:
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert "Example" in result.output
    assert f"interns1 {'list' if name == 'ls' else 'serve' if name == 'start' else name}" in result.output


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_parse(name: str, invoke: Invoke) -> None:
    """Each line is a command line that the command takes: its options exist, and their values are of their types."""
    examples = command_lines(invoke(name, "--help").output.partition("Example")[2])
    assert [words for words in examples if words[1] == name], "an example of the command itself"
    for _, command, *arguments in examples:
        found = interns1.get_command(click.Context(interns1), command)
        assert found is not None, command
        found.make_context(command, arguments)


def test_interns1_alone_lists_the_commands(invoke: Invoke) -> None:
    output = invoke().output
    assert [name for name in COMMANDS if f"\n  {name} " not in output] == []
    assert output.count("\n  interns1 ") + output.count("\n    interns1 ") == 3


def test_version(invoke: Invoke) -> None:
    assert invoke("--version").output == f"interns1 version is {__version__}\n"


@pytest.mark.parametrize(("typed", "hint"), [("lst", "did you mean 'list'?"), ("zzz", "'interns1 --help' lists")])
def test_unknown_command(typed: str, hint: str, invoke: Invoke) -> None:
    result = invoke(typed)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"Error: unknown command '{typed}'")
    assert hint in result.stderr


def test_help_loads_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from interns1_local.commands import COMMANDS, interns1\n"
        "for name in COMMANDS: interns1.get_command(None, name)\n"
        "heavy = {'httpx', 'rich', 'prompt_toolkit', 'numpy', 'starlette', 'llama_cpp', 'torch', 'PIL'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
