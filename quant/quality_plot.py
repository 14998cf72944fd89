"""A plot of models by size and distance from their base, as an SVG document."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape, quoteattr

WIDTH, HEIGHT = 800, 500
LEFT, RIGHT, TOP, BOTTOM = 96, 32, 56, 64
# Where a distance of nothing is drawn: below the scale, which as a logarithm has no place for it.
ZERO_BAND = 28

_LETTER, _LINE = 6.6, 15.0  # of labels, in pixels: the mean width of a letter, the height of a line
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#222}.title{font-size:15px;font-weight:600}.tick{fill:#666}"
    ".grid{stroke:#e4e4e4}.axis{stroke:#888}.point{fill:#0b62a4}"
)


@dataclass(frozen=True, slots=True)
class Point:
    """A model: its label, its full name, the bytes of its files, its mean KL in nats (0 and less count as none)."""

    label: str
    name: str
    n_bytes: int
    kl: float


def draw(points: Sequence[Point], title: str) -> str:
    """Bytes from left to right, mean KL upwards in powers of ten. Names must hold no control characters."""
    scale = _Scale(points)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
        ' role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>',
        _text(LEFT, 30, title, "title"),
        *_axes(scale),
        *_marks(points, scale),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


class _Scale:
    """From bytes and KL to pixels."""

    def __init__(self, points: Sequence[Point]) -> None:
        logs = [math.log10(point.kl) for point in points if point.kl > 0]
        self.decades = range(math.floor(min(logs, default=0.0)), math.ceil(max(logs, default=0.0)) + 1)
        if len(self.decades) < 2:
            self.decades = range(self.decades.start - 1, self.decades.stop)
        self.has_zero = any(point.kl <= 0 for point in points)
        self.lowest = HEIGHT - BOTTOM - (ZERO_BAND if self.has_zero else 0)
        largest = max((point.n_bytes for point in points), default=0)
        self.step = _round_step(max(largest / 6, 1.0))
        self.end = self.step * (largest // self.step + 1)

    def x(self, n_bytes: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * n_bytes / self.end

    def y(self, kl: float) -> float:
        if kl <= 0:
            return HEIGHT - BOTTOM
        share = (math.log10(kl) - self.decades.start) / (self.decades.stop - 1 - self.decades.start)
        return self.lowest - (self.lowest - TOP) * share


def _axes(scale: _Scale) -> Iterator[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    unit, size = next((u, s) for u, s in (("GB", 1e9), ("MB", 1e6), ("KB", 1e3), ("bytes", 1)) if scale.end >= s)
    for index in range(round(scale.end / scale.step) + 1):
        x = scale.x(index * scale.step)
        yield _line(x, TOP, x, bottom, "grid")
        yield _text(x, bottom + 20, f"{index * scale.step / size:g}", "tick", "middle")
    for decade in scale.decades:
        y = scale.y(10.0**decade)
        yield _line(LEFT, y, right, y, "grid")
        yield _text(LEFT - 10, y + 4, f"10{str(decade).translate(_SUPERSCRIPT)}", "tick", "end")
    if scale.has_zero:
        yield _text(LEFT - 10, bottom + 4, "0", "tick", "end")
    yield _line(LEFT, bottom, right, bottom, "axis")
    yield _line(LEFT, TOP, LEFT, bottom, "axis")
    yield _text((LEFT + right) / 2, HEIGHT - 18, f"size in {unit}", "", "middle")
    yield f'<g transform="translate(26 {(TOP + bottom) / 2:.1f}) rotate(-90)">'
    yield _text(0, 0, "mean KL divergence, nats a token", "", "middle")
    yield "</g>"


def _marks(points: Sequence[Point], scale: _Scale) -> Iterator[str]:
    """A dot and a label each; a label that would lie on a dot or on another label moves down."""
    dots = [(scale.x(point.n_bytes), scale.y(point.kl)) for point in points]
    taken = [(x - 6, x + 6, y + 4) for x, y in dots]
    for point in sorted(points, key=lambda point: scale.y(point.kl)):
        x, y = scale.x(point.n_bytes), scale.y(point.kl)
        yield f'<circle class="point" cx="{x:.1f}" cy="{y:.1f}" r="5">'
        yield f"<title>{escape(f'{point.name}: {point.n_bytes} bytes, mean KL {point.kl:.3g}')}</title></circle>"
        width = _LETTER * len(point.label)
        to_left = x + 10 + width > WIDTH - 4 and x - 10 - width > 0
        start = x - 10 - width if to_left else x + 10
        baseline = y - 6 if point.kl <= 0 else y + 4
        while any(start < right and left < start + width and abs(baseline - at) < _LINE for left, right, at in taken):
            baseline += _LINE / 3
        taken.append((start, start + width, baseline))
        yield _text(x - 10 if to_left else x + 10, baseline, point.label, "label", "end" if to_left else "start")


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 5, 10, 20, ... that is not below `least`."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= least * (1 - 1e-9))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class={quoteattr(kind)} x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class={quoteattr(kind)} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
