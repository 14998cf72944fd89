"""How sizes, times and tables read, as Ollama's command line writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import click

_UNITS = (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3))
_YEAR = 365 * 24 * 3600


def format_bytes(count: int) -> str:
    """4683087332 -> `4.7 GB`; ten and more of a unit without decimals."""
    for unit, size in _UNITS:
        if count >= size:
            value = count / size
            return f"{int(value)} {unit}" if value >= 10 or value == int(value) else f"{value:.1f} {unit}"
    return f"{count} B"


def format_seconds(seconds: float) -> str:
    """1.234567 -> `1.23s`, 75.2 -> `1m15.2s`, 0.0123 -> `12.3ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.3g}ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g}µs"
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(seconds, 60)
    hours, minutes = divmod(int(minutes), 60)
    return f"{hours}h{minutes}m{rest:.0f}s" if hours else f"{minutes}m{rest:.1f}s"


def format_span(seconds: float) -> str:
    """A span of time as people say it: `4 minutes`, `About an hour`, `3 weeks`."""
    minutes, hours = int(seconds // 60), round(seconds / 3600)
    if seconds < 1:
        return "Less than a second"
    if seconds < 60:
        return "1 second" if int(seconds) == 1 else f"{int(seconds)} seconds"
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    for days, unit in ((14, "days"), (60, "weeks"), (730, "months")):
        if hours < days * 24:
            return f"{hours // {'days': 24, 'weeks': 24 * 7, 'months': 24 * 30}[unit]} {unit}"
    return f"{hours // (24 * 365)} years"


def format_moment(moment: str, now: datetime | None = None) -> str:
    """An RFC 3339 time, seen from now: `2 days ago`, `4 minutes from now`, `Forever`, `Never`."""
    when = parse_moment(moment)
    if when is None:
        return "Never"
    seconds = (when - (now or datetime.now(UTC))).total_seconds()
    if seconds > 20 * _YEAR:
        return "Forever"
    return f"{format_span(seconds)} from now" if seconds > 0 else f"{format_span(-seconds)} ago"


def parse_moment(text: str) -> datetime | None:
    """RFC 3339 with up to nanoseconds; None for Go's zero time and for what is no time."""
    import re

    try:
        when = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text))
    except ValueError:
        return None
    if when.year <= 1:
        return None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def echo_table(header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "") -> None:
    """Columns four spaces apart; an empty header leaves the header line out."""
    lines = [list(header), *rows] if header else [list(row) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell + " " * (width - _width(cell)) for cell, width in zip(line, widths, strict=True))
        click.echo((indent + "    ".join(cells)).rstrip())


def echo_json(value: Any) -> None:
    """`--json` on listings."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))


def _width(text: str) -> int:
    """Terminal columns: a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from prompt_toolkit.utils import get_cwidth

    return get_cwidth(text)
