"""Sizes, spans and moments read as Ollama writes them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from interns1_local.commands.format import format_bytes, format_moment, format_seconds, format_span


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 KB"), (1_500_000, "1.5 MB"), (12_999_999, "12 MB"),
     (4_683_087_332, "4.7 GB"), (2 * 10**12, "2 TB")],
)  # fmt: skip
def test_format_bytes(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (61, "About a minute"), (300, "5 minutes"),
     (3700, "About an hour"), (7200, "2 hours"), (86400 * 3, "3 days"), (86400 * 21, "3 weeks"),
     (86400 * 90, "3 months"), (86400 * 365 * 3, "3 years")],
)  # fmt: skip
def test_format_span(seconds: float, text: str) -> None:
    assert format_span(seconds) == text


@pytest.mark.parametrize(
    ("moment", "text"),
    [
        ("2026-01-01T12:05:00.123456789Z", "5 minutes from now"),
        ("2026-01-01T09:00:00+01:00", "4 hours ago"),
        ("2318-01-01T00:00:00Z", "Forever"),
        ("0001-01-01T00:00:00Z", "Never"),
        ("", "Never"),
    ],
)
def test_format_moment(moment: str, text: str) -> None:
    assert format_moment(moment, datetime(2026, 1, 1, 12, 0, 0, tzinfo=UTC)) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0123, "12.3ms"), (1.234, "1.23s"), (75.2, "1m15.2s"), (3661, "1h1m1s"), (2e-5, "20µs")]
)
def test_format_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text
