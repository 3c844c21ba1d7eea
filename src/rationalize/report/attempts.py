"""Sections on several attempts per question: coverage of the training questions, PPO update by
update, and choosing among attempts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rationalize.report.charts import Point, Series, charts_by_step, colours_of, line_chart

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

Rows = Sequence[Mapping[str, Any]]


def rollouts(rows: Rows) -> dict[str, Any] | None:
    """A chart per quantity of the replies of PPO, GRPO and GDPO, with a line per run."""
    if not rows:
        return None
    runs = {row["method"]: [r for r in rows if r["method"] == row["method"]] for row in rows}
    return charts_by_step(runs, [(k, title, title) for k, title in ROLLOUT_KEYS.items()], "update")


def coverage(rows: Rows) -> list[dict[str, str]]:
    """A row per pass of the model over all training questions."""
    return [
        {
            "method": str(row["method"]),
            "questions": str(row["questions"]),
            "attempts": str(row["attempts"]),
            "right": f"{row['pass_rate']:.1%}",
            "solved": f"{row['solved']:.1%}",
            "signal": f"{row['with_signal']:.1%} ({row['expected_signal']:.1%} expected)",
            "unparsed": f"{row['unparsed']:.1%}",
            "kept": f"{row['kept']} + {row['hinted']} hinted",
            "rejected": ", ".join(f"{n} {why}" for why, n in row["rejected"].items()) or "none",
        }
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
            y_label="accuracy", x_ticks=ticks,
        )  # fmt: skip
        charts.append({"title": method, "svg": svg})
    return {"charts": charts, "legend": colours}
