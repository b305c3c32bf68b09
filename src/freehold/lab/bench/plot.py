"""Line plots as SVG, made of text alone. Pure.

Series differ by colour, dash and mark. A plot has a title and a description for those who cannot
see it; the page puts the same numbers into a table beside it.
"""

from __future__ import annotations

import html
import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

Point = tuple[float, float]

_WIDTH, _HEIGHT = 640, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 70, 20, 44, 52
_DASHES = ("", "7 4", "2 4", "10 3 2 3")
_COLOURS = 6


@dataclass(frozen=True)
class Series:
    name: str
    points: tuple[Point, ...]
    marked: bool = True


@dataclass(frozen=True)
class Plot:
    """``ticks``: where the horizontal axis says what. None: round numbers from zero."""

    title: str
    description: str
    across: str
    upwards: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...] | None = None


def text(value: str) -> str:
    """Any text, safe between tags and within quotes; control characters are left out."""
    shown = "".join(c for c in value if unicodedata.category(c) not in ("Cc", "Cs"))
    return html.escape(shown, quote=True)


def round_steps(top: float, about: int = 5) -> tuple[float, ...]:
    """From zero in about so many round steps to the first that is no less than ``top``."""
    if not top > 1e-9 or not math.isfinite(top):
        return (0.0, 1.0)
    size = 10 ** math.floor(math.log10(top / about))
    step = next(each * size for each in (1, 2, 2.5, 5, 10) if each * size * about >= top * 0.999)
    count = math.ceil(top / step - 1e-9)
    return tuple(step * number for number in range(count + 1))


def svg(plot: Plot, name: str) -> str:
    """``name`` makes the ids of this plot the only ones of their kind on a page."""
    upwards = round_steps(max((y for each in plot.series for _, y in each.points), default=0.0))
    farthest = max((x for each in plot.series for x, _ in each.points), default=0.0)
    numbers = round_steps(farthest)
    ticks = plot.ticks or tuple((step, f"{step:g}") for step in numbers)
    low = min(0.0, *(x for x, _ in ticks)) if plot.ticks is None else ticks[0][0]
    frame = _Frame(low, max(ticks[-1][0], low + 1e-9), upwards[-1])
    parts = [
        f'<svg role="img" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'aria-labelledby="{name}-title {name}-desc">',
        f'<title id="{name}-title">{text(plot.title)}</title>',
        f'<desc id="{name}-desc">{text(plot.description)}</desc>',
        *_grid(frame, ticks, upwards),
        _label(_LEFT + frame.width / 2, _HEIGHT - 10, plot.across, "middle"),
        _label(_LEFT, _TOP - 8, plot.upwards, "start"),
        *(_line(frame, each, place) for place, each in enumerate(plot.series)),
        *_legend(plot.series),
        "</svg>",
    ]
    return "\n".join(parts)


@dataclass(frozen=True)
class _Frame:
    """From values to places. A single tick stands in the middle."""

    low: float
    high: float
    top: float

    @property
    def width(self) -> float:
        return _WIDTH - _LEFT - _RIGHT

    @property
    def height(self) -> float:
        return _HEIGHT - _TOP - _BOTTOM

    def x(self, value: float) -> float:
        if self.high - self.low < 1e-6:
            return _LEFT + self.width / 2
        return _LEFT + self.width * (value - self.low) / (self.high - self.low)

    def y(self, value: float) -> float:
        return _TOP + self.height * (1 - value / self.top)


def _label(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _grid(frame: _Frame, ticks: Sequence[tuple[float, str]], upwards: Sequence[float]) -> list[str]:
    parts = []
    for step in upwards:
        y = frame.y(step)
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + frame.width}" '
            f'y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_label(_LEFT - 8, y + 4, f"{step:,g}", "end"))
    for place, words in ticks:
        parts.append(_label(frame.x(place), _TOP + frame.height + 18, words, "middle"))
    return parts


def _line(frame: _Frame, series: Series, place: int) -> str:
    points = [(frame.x(x), frame.y(y)) for x, y in series.points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    marks = (_mark(x, y, place) for x, y in points) if series.marked else ()
    return (
        f'<g class="s{place % _COLOURS}"><polyline points="{path}" '
        f'stroke-dasharray="{_DASHES[place % len(_DASHES)]}"/>{"".join(marks)}</g>'
    )


def _mark(x: float, y: float, place: int) -> str:
    """A circle, a square, a triangle or a diamond."""
    match place % 4:
        case 0:
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>'
        case 1:
            return f'<rect x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8"/>'
        case 2:
            return f'<path d="M{x:.1f} {y - 5:.1f}l5 9h-10z"/>'
        case _:
            return f'<path d="M{x:.1f} {y - 6:.1f}l5 6-5 6-5-6z"/>'


def _legend(series: Sequence[Series]) -> list[str]:
    parts = []
    room = (_WIDTH - _LEFT - _RIGHT) / max(1, len(series))
    for place, each in enumerate(series):
        x = _LEFT + place * room
        mark = _mark(x + 14, 14, place) if each.marked else ""
        dash = _DASHES[place % len(_DASHES)]
        parts.append(
            f'<g class="s{place % _COLOURS}"><polyline points="{x:.1f},14 {x + 28:.1f},14" '
            f'stroke-dasharray="{dash}"/>{mark}</g>' + _label(x + 34, 18, each.name, "start")
        )
    return parts
