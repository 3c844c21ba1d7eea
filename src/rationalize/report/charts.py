"""Small SVG charts without a plotting library: labels stay text, the page's style sets fonts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

from markupsafe import Markup, escape

from rationalize.report.text import visible

COLOURS = tuple(f"var(--c{i})" for i in range(10))
"""Of the style sheet: distinct for most colour-blind readers, on a light and on a dark page."""

WIDTH, HEIGHT = 360, 220
_RIGHT, _TOP, _BOTTOM = 10, 20, 36
_DIGIT = 6.0  # width of a digit of a tick, in pixels


@dataclass(frozen=True)
class Scale:
    """How an axis shows the values of a metric."""

    low: float | None = None
    """The metric's bounds: no axis goes beyond them, unless a value does."""
    high: float | None = None
    percent: bool = False
    """A share, shown in per cent."""

    def of(self, value: float) -> float:
        """A value as the axis shows it."""
        return 100 * value if self.percent else value


def scale_of(fact: Mapping[str, Any]) -> Scale:
    """The scale of a metric of results.json."""
    return Scale(fact.get("low"), fact.get("high"), fact.get("percent", False))


class Point(NamedTuple):
    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """A line or cloud of one colour; points in the order of x."""

    name: str
    points: Sequence[Point]
    colour: str
    band: bool = False
    """Draw the intervals as a band instead of bars."""
    faint: bool = False


@dataclass(frozen=True)
class _Frame:
    """The ranges of x and y, mapped to pixels of the plot area."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @cached_property
    def left(self) -> float:
        """Where the plot begins: right of the longest number of the y axis."""
        return 10 + _DIGIT * max(len(number(v)) for v in ticks(self.y_low, self.y_high))

    def x(self, value: float) -> float:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return round(self.left + share * (WIDTH - self.left - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return round(HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM), 1)


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """One colour per name, the same in every chart of the page."""
    return {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys(names))}


def shades(count: int) -> list[str]:
    """`count` shades of one blue, the last the strongest."""
    strengths = [100 - 70 * (count - 1 - i) / max(1, count - 1) for i in range(count)]
    return [f"color-mix(in srgb, var(--c0) {s:.0f}%, var(--paper))" for s in strengths]


def line_chart(
    series: Sequence[Series], *, label: str, x_label: str, y_label: str = "",
    x_ticks: Mapping[float, str] | None = None, scale: Scale = Scale(),
) -> Markup:  # fmt: skip
    """Lines with their intervals, and markers where there are at most 12 points."""
    series = [replace(s, points=[_scaled(p, scale) for p in s.points]) for s in series]
    at_ticks = [Point(x, series[0].points[0].y) for x in x_ticks or ()]
    frame = _frame([*(p for s in series for p in s.points), *at_ticks], scale, bool(x_ticks))
    parts = [_axes(frame, x_label, y_label, x_ticks)]
    # bars of several series at one x are shifted apart
    barred = [s for s in series if not s.band and any(p.low is not None for p in s.points)]
    for s in series:
        shift = 3 * (barred.index(s) - (len(barred) - 1) / 2) if s in barred else 0.0
        parts.append(_intervals(frame, s, shift))
        path = " ".join(f"{frame.x(p.x)},{frame.y(p.y)}" for p in s.points)
        strength = ' stroke-opacity="0.55"' if s.faint else ""
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{s.colour}" '
            f'stroke-width="1.8"{strength}/>'
        )
        if len(s.points) <= 12:
            parts.append(_dots(frame, s.points, s.colour, 5.5, 0.6 if s.faint else 1.0))
    return svg(parts, label)


def charts_by_step(
    lines: Mapping[str, Sequence[Mapping[str, Any]]], quantities: Iterable[tuple[str, str, str]],
    x_label: str, scales: Mapping[str, Scale],
) -> dict[str, Any]:  # fmt: skip
    """A chart per quantity (key, name in the label, title) that a line has, and the legend."""
    colours, charts = colours_of(lines), []
    for key, quantity, title in quantities:
        having = {name: [r for r in rows if key in r] for name, rows in lines.items()}
        series = [
            Series(name, thinned([Point(r["step"], r[key]) for r in rows]), colours[name])
            for name, rows in having.items()
            if rows
        ]
        if series:
            label = f"{quantity} by {x_label}"
            scale = scales.get(key, Scale())
            chart = line_chart(series, label=label, x_label=x_label, scale=scale)
            shown = f"{title} %" if scale.percent else title
            charts.append({"title": shown, "svg": chart})
    return {"charts": charts, "legend": colours}


def scatter_chart(series: Sequence[Series], *, label: str, x_label: str, scale: Scale) -> Markup:
    """A cloud of dots per series."""
    series = [replace(s, points=[_scaled(p, scale) for p in s.points]) for s in series]
    frame = _frame([p for s in series for p in s.points], scale, False)
    parts = [_axes(frame, x_label, "", None)]
    parts += [_dots(frame, s.points, s.colour, 4.5, 0.45) for s in series]
    return svg(parts, label)


def stacked_bars(rows: Sequence[tuple[str, Sequence[int]]], *, label: str) -> Markup:
    """A bar per row, divided by its counts; the first is the darkest."""
    step, bar, left = 24, 17, 66
    parts = []
    for i, (name, counts) in enumerate(rows):
        top, at = 4 + i * step, float(left)
        parts.append(text(left - 6, top + 12.5, name, "end"))
        for shade, count in zip(reversed(shades(len(counts))), counts, strict=True):
            width = (WIDTH - left - _RIGHT) * count / max(1, sum(counts))
            parts.append(
                f'<rect x="{at:.1f}" y="{top}" width="{max(0.0, width - 1):.1f}" height="{bar}" '
                f'fill="{shade}"><title>{count}</title></rect>'
            )
            if width > 8 * len(str(count)):
                strong = shade in shades(len(counts))[len(counts) // 2 :]
                kind = "on-strong" if strong else "name"
                parts.append(text(at + width / 2, top + 12.5, str(count), "middle", kind))
            at += width
    return svg(parts, label, height=8 + step * len(rows))


def thinned(points: Sequence[Point], most: int = 200) -> list[Point]:
    """At most `most` points: the means of equal stretches of the series."""
    if len(points) <= most:
        return list(points)
    size = math.ceil(len(points) / most)
    stretches = [points[i : i + size] for i in range(0, len(points), size)]
    return [Point(sum(p.x for p in s) / len(s), sum(p.y for p in s) / len(s)) for s in stretches]


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two bounds: `ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]`."""
    # the least step of 1, 2, 2.5, 5 or 10 times a power of ten that gives at most `most` intervals
    raw = (high - low) / most
    scale = 10 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(i * step, 12) for i in range(first, math.floor(high / step + 1e-9) + 1)]


def _scaled(point: Point, scale: Scale) -> Point:
    low, high = (None if v is None else scale.of(v) for v in (point.low, point.high))
    return Point(point.x, scale.of(point.y), low, high)


def _frame(points: Sequence[Point], scale: Scale, pad_x: bool) -> _Frame:
    # intervals must fit too; padding keeps marks off the edge, but not beyond what is possible
    xs = [p.x for p in points]
    ys = [v for p in points for v in (p.y, p.low, p.high) if v is not None]
    x_low, x_high = _apart(min(xs), max(xs))
    y_low, y_high = _apart(min(ys), max(ys))
    x_pad = (x_high - x_low) * (0.06 if pad_x else 0.02)
    y_pad = (y_high - y_low) * 0.06
    y_from, y_to = within(y_low - y_pad, y_high + y_pad, scale, min(ys), max(ys))
    return _Frame(x_low - x_pad, x_high + x_pad, y_from, y_to)


def within(
    low: float, high: float, scale: Scale, least: float, most: float
) -> tuple[float, float]:  # fmt: skip
    """The ends of an axis, cut to the metric's bounds where no value (`least`, `most`) is outside.

    >>> within(-0.4, 0.6, Scale(0, 1), 0.0, 0.0)
    (0.0, 0.6)
    """
    if scale.low is not None:
        low = min(least, max(low, scale.of(scale.low)))
    if scale.high is not None:
        high = max(most, min(high, scale.of(scale.high)))
    return low, high


def _apart(low: float, high: float) -> tuple[float, float]:
    """The bounds, moved apart where they are too close for an axis."""
    if high - low > 1e-9 * max(1.0, abs(low), abs(high)):
        return low, high
    around = 0.5 * abs(low) or 0.5
    return low - around, high + around


def _axes(frame: _Frame, x_label: str, y_label: str, x_ticks: Mapping[float, str] | None) -> str:
    bottom, left, right = HEIGHT - _BOTTOM, frame.left, WIDTH - _RIGHT
    parts = []
    # y: grid lines and numbers
    for value in ticks(frame.y_low, frame.y_high):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(text(left - 5, y + 3.5, number(value), "end"))
    # x: ticks and their names
    shown = x_ticks or {v: number(v) for v in ticks(frame.x_low, frame.x_high)}
    for value, name in shown.items():
        x = frame.x(value)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(text(x, bottom + 15, name, "middle"))
    # the x axis, and the labels of both: that of y above its numbers, where it overlaps none
    parts.append(f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(text((left + right) / 2, HEIGHT - 5, x_label, "middle", "name"))
    if y_label:
        parts.append(text(0, 10, y_label, "start", "name"))
    return "".join(parts)


def _intervals(frame: _Frame, s: Series, shift: float) -> str:
    points = [(p.x, p.low, p.high) for p in s.points if p.low is not None and p.high is not None]
    if not points:
        return ""
    # a band needs two points; a single one gets a bar
    if s.band and len(points) > 1:
        upper = [f"{frame.x(x)},{frame.y(high)}" for x, _, high in points]
        lower = [f"{frame.x(x)},{frame.y(low)}" for x, low, _ in reversed(points)]
        outline = " ".join(upper + lower)
        return f'<polygon points="{outline}" fill="{s.colour}" fill-opacity="0.13"/>'
    lines = "".join(
        f"M{frame.x(x) + shift:.1f} {frame.y(low)}V{frame.y(high)}" for x, low, high in points
    )
    return f'<path d="{lines}" stroke="{s.colour}" stroke-width="1.3" stroke-opacity="0.8"/>'


def _dots(frame: _Frame, points: Sequence[Point], colour: str, size: float, opacity: float) -> str:
    """All dots as one path of zero-length round strokes, a tenth of the size of circles."""
    path = "".join(f"M{frame.x(p.x)} {frame.y(p.y)}h0" for p in points)
    return (
        f'<path d="{path}" stroke="{colour}" stroke-width="{size}" stroke-linecap="round" '
        f'stroke-opacity="{opacity}"/>'
    )


def number(value: float) -> str:
    if value and abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-").replace("-", "−")
    return f"{value:,.6g}".replace("-", "−")


def text(x: float, y: float, words: str, anchor: str, kind: str = "") -> str:
    name = f' class="{kind}"' if kind else ""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text{name} {place}>{escape(visible(words))}</text>"


def svg(parts: Iterable[str], label: str, height: int = HEIGHT) -> Markup:
    head = (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(visible(label))}" '
        'xmlns="http://www.w3.org/2000/svg">'
    )
    return Markup(head + "".join(parts) + "</svg>")
