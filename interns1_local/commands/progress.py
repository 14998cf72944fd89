"""Progress on stderr: bars on a terminal, one line for each new step otherwise."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

Advance = Callable[[str, int, int], None]


@contextmanager
def byte_bars() -> Iterator[Advance]:
    """A function (step, bytes done, bytes in all) to call as often as you like; a step with no bytes is just named."""
    if not sys.stderr.isatty():
        yield _plain_lines()
        return
    from rich.progress import TaskID

    with _bars() as bars:
        tasks: dict[str, TaskID] = {}
        named: set[str] = set()

        def advance(step: str, done: int, total: int) -> None:
            if total:
                if step not in tasks:
                    tasks[step] = bars.add_task(step, total=total)
                bars.update(tasks[step], completed=done, total=total)
            elif step not in named and step not in tasks:
                named.add(step)
                bars.console.print(step, markup=False, highlight=False)

        yield advance


def show_statuses(events: Iterable[dict[str, Any]]) -> None:
    """Show the statuses of /api/pull and /api/create until the last one."""
    with byte_bars() as advance:
        for event in events:
            if event.get("status"):
                advance(event["status"], int(event.get("completed") or 0), int(event.get("total") or 0))


@contextmanager
def conversion_bar(step: str) -> Iterator[Callable[[Any], None]]:
    """A callback for the progress of `convert` and `requantize`, shown as one bar called `step`."""
    with byte_bars() as advance:
        yield lambda progress: advance(step, progress.bytes_done, progress.bytes_total)


@contextmanager
def counting_bar(step: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A function (done, in all) for things that are counted, such as chunks of data, shown as one bar."""
    if not sys.stderr.isatty():
        lines = _plain_lines()
        yield lambda done, total: lines(f"{step} {total} {unit}", done, total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn(), TextColumn(unit)
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bars:
        task = bars.add_task(step, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


def _plain_lines() -> Advance:
    shown: set[str] = set()

    def advance(step: str, done: int, total: int) -> None:
        if step not in shown:
            shown.add(step)
            click.echo(step, err=True)

    return advance


def _bars() -> Bars:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=32),
        TaskProgressColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
