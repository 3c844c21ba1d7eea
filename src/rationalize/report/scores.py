"""Sections on the scores of the first split's attempts: correlations, and score against length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rationalize.evaluation.diagnostics import reward_correlations
from rationalize.evaluation.metrics import LENGTH, Metric, applicable, score_column
from rationalize.evaluation.tables import NONE, heading
from rationalize.records import Attempt, Question
from rationalize.report.charts import (
    Point,
    Series,
    colours_of,
    scale_of,
    scatter_chart,
)
from rationalize.report.material import Material

SCATTER_POINTS = 150
"""Most dots of a method in a scatter chart."""


def correlations(material: Material) -> dict[str, Any] | None:
    """Per method, the rank correlations between accuracy, the scores and length."""
    tables = []
    for method, of_method in material.of_first.items():
        matrix = reward_correlations(of_method, material.questions, material.metrics)
        if len(matrix.names) > 2:
            rows = [[_shaded(r) for r in row] for row in matrix.r]
            names = [heading(n, {}) for n in matrix.names]
            tables.append({"method": method, "names": names, "rows": rows, "n": matrix.n})
    return {"tables": tables, "split": material.first} if tables else None


def against_length(material: Material) -> dict[str, Any] | None:
    """A chart per reward: score against length of the attempts of the two methods compared."""
    attempts, questions, metrics = material.of_first, material.questions, material.metrics
    colours = colours_of(m for m in reversed(material.pair) if m in attempts)
    charts = []
    for metric in metrics:
        if metric.role != "reward":
            continue
        series = [
            Series(name, _cloud(metric, attempts[name], questions), colours[name])
            for name in colours
            if metric in applicable(metrics, attempts[name])
        ]
        series = [s for s in series if s.points]
        if series:
            fact = metric.facts()
            label = f"{metric.name} against length"
            chart = scatter_chart(series, label=label, x_label="words", scale=scale_of(fact))
            charts.append({"title": heading(metric.name, fact), "svg": chart})
    if not charts:
        return None
    return {"charts": charts, "legend": colours, "split": material.first}


def _cloud(
    metric: Metric, attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> list[Point]:
    # every n-th attempt, so that a cloud has at most SCATTER_POINTS dots
    some = attempts[:: max(1, -(-len(attempts) // SCATTER_POINTS))]
    x, y = score_column(LENGTH, some, questions), score_column(metric, some, questions)
    defined = np.isfinite(y)
    return [Point(float(a), float(b)) for a, b in zip(x[defined], y[defined], strict=True)]


def _shaded(r: float | None) -> dict[str, str]:
    """A correlation and its colour: blue for positive, orange for negative."""
    if r is None:
        return {"text": NONE, "colour": "transparent"}
    hue = "0 98 168" if r > 0 else "200 80 10"
    colour = f"rgb({hue} / {min(0.45, abs(r) / 2):.2f})"
    return {"text": f"{r:+.2f}".replace("-", "−"), "colour": colour}
