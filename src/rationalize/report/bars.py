"""What stands first on the page: bars of the headline metrics, and a forest plot of differences.

Each row has its name above its mark, so that long names fit a phone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from markupsafe import Markup

from rationalize.evaluation.metrics import ACCURACY, STATED_ACCURACY
from rationalize.evaluation.tables import (
    cells_of,
    differences,
    heading,
    show,
    show_interval,
)
from rationalize.evaluation.verdicts import status_of
from rationalize.report.charts import Scale, number, scale_of, svg, text, ticks, within
from rationalize.text import one_line

WIDTH = 360
_SIDE, _ROW, _AXIS = 6, 32, 22
_NAME = 34  # characters of a row's name
COLOURS = {"above": "var(--good)", "below": "var(--bad)", "level": "var(--level)"}
SIGNS = {"above": "▲", "below": "▼", "level": "="}
"""Beside the colours, for readers who do not see them."""


class Mark(NamedTuple):
    """A row of a chart: a value with its interval."""

    name: str
    shown: str
    """The numbers in words, at the right."""
    mean: float
    low: float
    high: float
    colour: str
    ring: float | None = None
    """A second value, marked by a ring."""


def _mark(
    name: str, shown: str, row: Mapping[str, Any], scale: Scale, colour: str
) -> Mark:  # fmt: skip
    mean, low, high = (scale.of(row[key]) for key in ("mean", "low", "high"))
    return Mark(one_line(name), shown, mean, low, high, colour)


def bars(results: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """A chart per headline metric (accuracy, NRG, every reward), with a bar per method."""
    facts, cells = results["metrics"], cells_of(results, split)
    charts = []
    for metric, fact in facts.items():
        rows = {m: c["metrics"][metric] for m, c in cells.items() if metric in c["metrics"]}
        if fact["role"] == "diagnostic" or not rows:
            continue
        scale = scale_of(fact)
        marks = [
            _mark(m, show_interval(row, fact), row, scale, "var(--c0)") for m, row in rows.items()
        ]
        if metric == ACCURACY.name:
            marks = [_with_stated(mark, cells[m], fact) for mark, m in zip(marks, rows)]
        title = heading(metric, fact)
        drawn = _rows(marks, _bounds(marks, scale), f"{title} by method", bar=True)
        charts.append({"title": title, "svg": drawn})
    return charts


def forest(results: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """A chart per headline metric, with a row per comparison: its difference and interval."""
    facts, compared = results["metrics"], differences(results, split)
    charts = []
    for metric, fact in facts.items():
        rows = {pair: of[metric] for pair, of in compared.items() if metric in of}
        if fact["role"] == "diagnostic" or not rows:
            continue
        scale = Scale(percent=fact.get("percent", False))
        marks = []
        for (a, b), row in rows.items():
            status = status_of(row)
            shown = f"{SIGNS[status]} {show(row['mean'], fact, sign=True)}"
            marks.append(_mark(f"{a} − {b}", shown, row, scale, COLOURS[status]))
        points = bool(fact.get("percent")) or metric == "nrg"
        title = heading(metric, fact).removesuffix(" %") + (", points" if points else "")
        drawn = _rows(marks, _bounds(marks, scale), f"differences in {title}", bar=False)
        charts.append({"title": title, "svg": drawn})
    return charts


def _with_stated(mark: Mark, cell: Mapping[str, Any], fact: Mapping[str, Any]) -> Mark:
    """Accuracy's mark with that of any stated answer, where the two readings differ."""
    row = cell["metrics"].get(STATED_ACCURACY.name)
    if row is None or show(row["mean"], fact) == mark.shown.split()[0]:
        return mark
    shown = f"{mark.shown}, stated {show(row['mean'], fact)}"
    return mark._replace(shown=shown, ring=scale_of(fact).of(row["mean"]))


def _bounds(marks: Sequence[Mark], scale: Scale) -> tuple[float, float]:
    """The ends of the axis: zero and all intervals, and a little more where that is possible."""
    values = [v for m in marks for v in (m.low, m.mean, m.high, m.ring) if v is not None]
    least, most = min(0.0, *values), max(0.0, *values)
    if least == most:
        most = least + 1.0
    pad = 0.05 * (most - least)
    low = least - pad if least < 0 else 0.0
    high = most + pad if most > 0 else 0.0
    return within(low, high, scale, least, most)


def _rows(marks: Sequence[Mark], ends: tuple[float, float], label: str, *, bar: bool) -> Markup:
    low, high = ends

    def x(value: float) -> float:
        return round(_SIDE + (value - low) / (high - low) * (WIDTH - 2 * _SIDE), 1)

    bottom = _ROW * len(marks)
    # the axis: grid lines, their numbers, and a stronger line at zero
    parts = []
    for tick in ticks(low, high):
        kind = "axis" if tick == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{x(tick)}" x2="{x(tick)}" y1="0" y2="{bottom}"/>')
        anchor = "start" if x(tick) < 20 else "end" if x(tick) > WIDTH - 20 else "middle"
        parts.append(text(x(tick), bottom + 14, number(tick), anchor))
    for i, mark in enumerate(marks):
        top = _ROW * i
        y = top + 22
        name = mark.name if len(mark.name) <= _NAME else mark.name[: _NAME - 1] + "…"
        parts.append(text(_SIDE, top + 12, name, "start", "name halo"))
        parts.append(text(WIDTH - _SIDE, top + 12, mark.shown, "end", "name halo"))
        if bar:
            left, right = sorted((x(0.0), x(mark.mean)))
            parts.append(
                f'<rect x="{left}" y="{y - 5}" width="{right - left:.1f}" height="10" '
                f'fill="{mark.colour}" fill-opacity="0.55"/>'
            )
        whisker = f"M{x(mark.low)} {y}H{x(mark.high)}"
        whisker += "".join(f"M{x(end)} {y - 3.5}v7" for end in (mark.low, mark.high))
        colour = "var(--ink)" if bar else mark.colour
        parts.append(f'<path d="{whisker}" stroke="{colour}" stroke-width="1.6"/>')
        if mark.ring is not None:
            place = f'cx="{x(mark.ring)}" cy="{y}" r="4"'
            parts.append(f'<circle {place} fill="var(--paper)" stroke="{colour}"/>')
        if not bar:
            parts.append(f'<circle cx="{x(mark.mean)}" cy="{y}" r="4" fill="{colour}"/>')
    listed = "; ".join(f"{m.name} {m.shown}" for m in marks)
    return svg(parts, f"{label}: {listed}", height=bottom + _AXIS)
