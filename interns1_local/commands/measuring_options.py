"""What `imatrix`, `quality` and `verify` share: the options of a measurement, and the texts that it reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import click

from interns1_local.errors import BadRequest

Command = Callable[..., Any]

_OPTIONS = (
    click.option(
        "--data",
        type=click.Path(path_type=Path),
        multiple=True,
        required=True,
        metavar="FILE",
        help="What to measure with; may be given again.",
    ),
    click.option(
        "--chunk",
        type=click.IntRange(min=16),
        default=512,
        show_default=True,
        metavar="N",
        help="Tokens read at a time, as one context.",
    ),
    click.option(
        "--chunks", type=click.IntRange(min=1), metavar="MAX", help="Read at most MAX chunks of all data together."
    ),
    click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Threads (default: one for each core)."),
)


def measuring_options(command: Command) -> Command:
    """Add the options, in this order, after those that stand above."""
    return reduce(lambda decorated, option: option(decorated), reversed(_OPTIONS), command)


def check_files(paths: Iterable[Path]) -> None:
    """What can be known to fail is said before hours of computing."""
    for path in paths:
        if not path.is_file():
            raise click.ClickException(f"there is no file {path}")


def read_text(path: Path, advice: str = "convert it first") -> str:
    """The text of a UTF-8 file, without the mark that may begin it."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRequest(f"{path} is not UTF-8 text: byte {error.start} cannot be read; {advice}") from None
