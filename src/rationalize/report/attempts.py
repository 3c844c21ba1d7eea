"""Sections on several attempts per question: coverage of the training questions, PPO update by
update, and choosing among attempts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rationalize.report.charts import (
    Point,
    Scale,
    Series,
    charts_by_step,
    colours_of,
    line_chart,
)

ROLLOUT_KEYS = {
    "score": "score S",
    "correctness": "share right",
    "consistency": "consistency",
    "plausibility": "plausibility",
    "diversity": "diversity",
    "reward_model": "reward model",
    "kl": "KL to the reference, nats a reply",
    "without_signal": "questions without signal",
    "explained_variance": "explained variance of the value head",
    "length": "tokens a reply",
}
ROLLOUT_SCALES = {
    "correctness": Scale(0.0, 1.0, percent=True), "without_signal": Scale(0.0, 1.0, percent=True),
    "consistency": Scale(-1.0, 1.0), "plausibility": Scale(0.0, 1.0),
    "diversity": Scale(0.0, 1.0), "kl": Scale(low=0.0), "explained_variance": Scale(high=1.0),
    "length": Scale(low=0.0),
}  # fmt: skip

Rows = Sequence[Mapping[str, Any]]


def rollouts(rows: Rows) -> dict[str, Any] | None:
    """A chart per quantity of the replies of PPO, GRPO and GDPO, with a line per run."""
    if not rows:
        return None
    runs: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if "without_signal" in row:  # stored as a count
            row = {**row, "without_signal": row["without_signal"] / row["questions"]}
        runs.setdefault(row["method"], []).append(row)
    quantities = [(key, title, title) for key, title in ROLLOUT_KEYS.items()]
    return charts_by_step(runs, quantities, "update", ROLLOUT_SCALES)


def coverage(rows: Rows) -> list[list[str]]:
    """A row per pass of the model over all training questions."""
    return [
        [
            str(row["method"]),
            str(row["questions"]),
            str(row["attempts"]),
            f"{row['pass_rate']:.1%}",
            f"{row['solved']:.1%}",
            f"{row['with_signal']:.1%} ({row['expected_signal']:.1%} expected)",
            f"{row['unparsed']:.1%}",
            f"{row['kept']} + {row['hinted']} hinted",
            ", ".join(f"{n} {why}" for why, n in row["rejected"].items()) or "none",
        ]
        for row in rows
    ]


def votes(rows: Rows) -> dict[str, Any] | None:
    """A chart per method: accuracy by the number of attempts, with a line per rule of choice."""
    if not rows:
        return None
    colours = colours_of(row["rule"] for row in rows)
    charts = []
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        series = [
            Series(
                rule,
                [Point(float(r["k"]), r["mean"], r["low"], r["high"]) for r in of_method
                 if r["rule"] == rule],
                colours[rule], band=True,
            )
            for rule in dict.fromkeys(r["rule"] for r in of_method)
        ]  # fmt: skip
        ticks = {float(r["k"]): str(r["k"]) for r in of_method}
        svg = line_chart(
            series, label=f"accuracy of {method} by attempts", x_label="attempts k",
            y_label="accuracy %", x_ticks=ticks, scale=Scale(0.0, 1.0, percent=True),
        )  # fmt: skip
        charts.append({"title": method, "svg": svg})
    return {"charts": charts, "legend": colours}
