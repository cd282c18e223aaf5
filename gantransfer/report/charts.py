"""Line charts as small SVG drawings with direct labels.

Colours are CSS variables (``--a``, ``--b``, ``--c`` for series, ``--soft`` for what is secondary), so that one
drawing serves light, dark and print. Every text is escaped here: names in a run are hostile text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from gantransfer.report.formatting import compact, finite, number

BUCKETS = 160  # points drawn of a long series: the mean of each bucket, and its range as a band
SPREAD = 15  # log axis where the largest value is this many times the smallest


@dataclass(frozen=True)
class Series:
    """One line: `points` are (x, y); `colour` names a CSS variable; `tips` are texts for the pointer; `dashed` tells
    two lines of one colour apart."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str = "a"
    tips: Sequence[str] = ()
    dashed: bool = False


@dataclass(frozen=True)
class Frame:
    """Size in px, margins, and the scales of one chart."""

    width: int
    height: int
    right: int
    low: float
    high: float
    log: bool
    x_high: float
    bottom: int
    left: int = 50
    top: int = 16

    def x(self, value: float) -> float:
        return self.left + (self.width - self.left - self.right) * value / self.x_high

    def y(self, value: float) -> float:
        low, high = (math.log10(self.low), math.log10(self.high)) if self.log else (self.low, self.high)
        part = ((math.log10(max(value, self.low)) if self.log else value) - low) / (high - low)
        return self.top + (self.height - self.top - self.bottom) * (1 - part)


def linear_ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round values (1, 2 or 5 times a power of ten apart) inside [low, high]."""
    if not high > low:
        return [low]
    power = 10 ** math.floor(math.log10((high - low) / count))
    step = min((m * power for m in (1, 2, 5, 10)), key=lambda s: abs((high - low) / s - count))
    return [step * i for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2, 5 in every decade; decades only where there are more than three."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    steps = (1,) if last - first > 3 else (1, 2, 5)
    ticks = [m * 10.0**e for e in range(first, last + 1) for m in steps]
    return [t for t in ticks if low * 0.999 <= t <= high * 1.001]


def line_chart(
    series: Sequence[Series],
    *,
    title: str,
    width: int = 1052,
    height: int = 340,
    rules: Sequence[tuple[str, float]] = (),
    best: tuple[float, float, str] | None = None,
    images: Callable[[float], float] | None = None,
) -> str:
    """Lines over iterations as an SVG string; empty when there is nothing to draw.

    rules: dashed horizontal lines (label, value). best: the point to mark, with its label. images: iterations
    to images shown, for the second scale under the first. The y axis is logarithmic where the values are
    positive and span a factor of 15 or more.
    """
    series = [replace(s, points=_clean(s.points)) for s in series]
    series = [s for s in series if s.points]
    if not series:
        return ""
    rules = [r for r in rules if finite(r[1])]
    frame = _frame(series, rules, width, height, images is not None)
    parts = [_axes(frame, images)]
    labels = []
    for name, value in rules:
        y = frame.y(value)
        parts.append(f'<path class="rule" d="M{frame.left} {y:.1f}H{width - frame.right}"/>')
        labels.append((y, name, "soft"))
    for line in series:
        parts.append(_line(frame, line))
        labels.append((frame.y(_buckets(line.points)[-1][1]), line.name, line.colour))
    if best is not None:
        parts.append(_best(frame, *best))
    parts += [
        f'<text x="{width - frame.right + 8}" y="{y + 4:.1f}" fill="var(--{colour})">{escape(name)}</text>'
        for y, name, colour in _apart(labels, frame)
    ]
    return svg(width, height, title, parts)


def svg(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    """An inline SVG element around `parts`, named `title` for screen readers."""
    head = f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}">'
    return f"{head}{''.join(parts)}</svg>"


def _clean(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return sorted((p for p in points if finite(p[0]) and finite(p[1]) and p[0] >= 0), key=lambda p: p[0])


def _frame(series: list[Series], rules: list[tuple[str, float]], width: int, height: int, two: bool) -> Frame:
    ys = [y for s in series for _, y in s.points] + [value for _, value in rules]
    low, high = min(ys), max(ys)
    log = low > 0 and high / low >= SPREAD
    if log:
        low, high = low / 1.25, high * 1.15
    else:
        low = 0.0 if 0 <= low < 0.5 * high else low
        room = 0.07 * (high - low) or 0.1 * abs(high) or 1.0
        low, high = low - (room if low else 0), high + room
    letters = max(len(name) for name in [s.name for s in series] + [name for name, _ in rules])
    x_high = max(x for s in series for x, _ in s.points) or 1
    return Frame(
        width,
        height,
        max(118 if width > 600 else 24, 14 + 7 * letters),
        low,
        high,
        log,
        x_high,
        46 if two else 30,
    )


def _axes(frame: Frame, images: Callable[[float], float] | None) -> str:
    right, base = frame.width - frame.right, frame.height - frame.bottom
    parts = []
    for tick in log_ticks(frame.low, frame.high) if frame.log else linear_ticks(frame.low, frame.high):
        y = frame.y(tick)
        parts.append(f'<path class="grid" d="M{frame.left} {y:.1f}H{right}"/>')
        place = f'x="{frame.left - 8}" y="{y + 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="tick" {place}>{compact(tick)}</text>')
    steps = linear_ticks(0, frame.x_high, 8 if frame.width > 600 else 4)
    for tick in steps:
        place = f'x="{frame.x(tick):.1f}" text-anchor="middle"'
        parts.append(f'<path class="axis" d="M{frame.x(tick):.1f} {base}v4"/>')
        parts.append(f'<text class="tick" {place} y="{base + 18}">{number(round(tick, 6))}</text>')
        if images is not None:
            parts.append(f'<text class="tick faint" {place} y="{base + 35}">{compact(images(tick))}</text>')
    parts.append(f'<path class="axis" d="M{frame.left} {base}H{right}"/>')
    if frame.width > 600:
        parts.append(f'<text class="tick" x="{right + 26}" y="{base + 18}">iterations</text>')
        if images is not None:
            parts.append(f'<text class="tick faint" x="{right + 26}" y="{base + 35}">images shown</text>')
    return "".join(parts)


def _buckets(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float, float]]:
    """(x, mean, smallest, largest) for at most 160 buckets of neighbouring points."""
    per = -(-len(points) // BUCKETS)
    groups = [points[i : i + per] for i in range(0, len(points), per)]
    return [
        (
            sum(x for x, _ in g) / len(g),
            sum(y for _, y in g) / len(g),
            min(y for _, y in g),
            max(y for _, y in g),
        )
        for g in groups
    ]


def _line(frame: Frame, line: Series) -> str:
    buckets = _buckets(line.points)
    parts = []
    if len(buckets) < len(line.points):
        upper = [f"{frame.x(x):.1f} {frame.y(high):.1f}" for x, _, _, high in buckets]
        lower = [f"{frame.x(x):.1f} {frame.y(low):.1f}" for x, _, low, _ in reversed(buckets)]
        parts.append(f'<path fill="var(--{line.colour})" opacity=".16" d="M{"L".join(upper + lower)}Z"/>')
    path = "L".join(f"{frame.x(x):.1f} {frame.y(mean):.1f}" for x, mean, _, _ in buckets)
    dashes = ' stroke-dasharray="7 4"' if line.dashed else ""
    parts.append(f'<path class="line" stroke="var(--{line.colour})"{dashes} d="M{path}"/>')
    for (x, y), tip in zip(line.points, line.tips, strict=False):
        spot = f'cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}"'
        parts.append(f'<circle {spot} r="2.5" fill="var(--{line.colour})"/>')
        parts.append(f'<circle {spot} r="9" fill="transparent"><title>{escape(tip)}</title></circle>')
    return "".join(parts)


def _best(frame: Frame, x: float, y: float, label: str) -> str:
    px, py = frame.x(x), frame.y(y)
    late = px > 0.6 * frame.width
    below = py + 26 < frame.height - frame.bottom - 4
    x, anchor = (px + 4, "end") if late else (px - 4, "start")
    place = f'x="{x:.1f}" y="{py + (23 if below else -14):.1f}" text-anchor="{anchor}"'
    ring = f'<circle cx="{px:.1f}" cy="{py:.1f}" r="6" class="best"/>'
    return f'{ring}<text class="halo" {place}>{escape(label)}</text>'


def _apart(labels: list[tuple[float, str, str]], frame: Frame) -> list[tuple[float, str, str]]:
    """Labels moved down, then up as a block, until no two stand closer than a line."""
    gap, placed = 15, []
    for y, name, colour in sorted(labels):
        placed.append((max(y, placed[-1][0] + gap if placed else y), name, colour))
    over = max(0.0, placed[-1][0] - (frame.height - frame.bottom - 4)) if placed else 0.0
    return [(y - over, name, colour) for y, name, colour in placed]
