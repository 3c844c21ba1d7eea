"""Section on hacking: the verdict on each trained stage, its evidence, the attempts to read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

from rationalize.evaluation.hacking import SURFACE, Case, cases, judge
from rationalize.evaluation.suspects import Suspect, suspects
from rationalize.evaluation.tables import NONE, heading, show, show_interval
from rationalize.records import Question
from rationalize.report.browser import first_of_each
from rationalize.report.charts import Point, Series, colours_of, line_chart
from rationalize.report.material import Material
from rationalize.text import clipped, visible

CALLED = {"hacked": "hacked", "no sign": "no sign of hacking", "unknown": "cannot tell"}


def anchor(section: str, metric: str = "") -> str:
    """The id of a section, or of a metric's chart in it."""
    return f"{section}-{re.sub(r'[^a-z0-9]+', '-', metric.lower())}" if metric else section


def hacking(material: Material) -> dict[str, Any] | None:
    """The section's data; None where results do not record which rewards were trained.

    Suspects are linked, so only attempts that the page's browser shows can be listed.
    """
    results, attempts, questions = material.results, material.of_first, material.questions
    metrics = material.metrics
    trained = cases(results, attempts, questions, metrics)
    if not trained:
        return None
    stages = [_stage(case, i) for i, case in enumerate(trained)]
    lists, ids = [], {q["id"] for q in material.browser["questions"]}
    for method in dict.fromkeys(case.method for case in trained):
        case = next(case for case in trained if case.method == method)
        shown_attempts = first_of_each(attempts.get(method, [])).values()
        linked = [a for a in shown_attempts if clipped(a.question_id) in ids]
        if listed := suspects(case, linked, questions, metrics):
            shown = [_suspect(s, questions, results["metrics"]) for s in listed]
            lists.append({"method": method, "rows": shown})
    return {"stages": stages, "suspects": lists, "split": material.first}


def _stage(case: Case, index: int) -> dict[str, Any]:
    verdict = judge(case)
    reasons = [
        {"text": text, "evidence": [{"text": e.text, "href": f"#{anchor(e.section, e.metric)}"}
                                    for e in evidence]}
        for text, evidence in verdict.reasons
    ]  # fmt: skip
    # trained rewards, held-out metrics and surface properties that were measured by round
    surface = dict.fromkeys(name for name, _ in SURFACE)
    named = dict.fromkeys([*case.trained, *case.held_out, *surface, "distinct_rationales"])
    return {
        "id": f"hacking-{index}", "name": f"{case.method} ({case.stage})",
        "hacked": verdict.status == "hacked", "called": CALLED[verdict.status],
        "reasons": reasons, "notes": verdict.notes,
        "rows": [_row(case, name) for name in named if name in case.moves], "chart": _chart(case),
    }  # fmt: skip


def _row(case: Case, name: str) -> dict[str, str]:
    move, fact = case.moves[name], case.facts.get(name, {})
    role = "trained" if name in case.trained else "surface"
    if name in case.held_out and name not in case.trained:
        role = "held-out"
    r = case.correlation(name, "length") if name != "length" else None
    return {
        "name": heading(name, fact), "role": role, "first": _interval(move.first, fact),
        "last": _interval(move.last, fact),
        "moved": {1: "rose", -1: "fell", 0: "not shown"}[move.direction],
        "with_length": NONE if r is None else f"{r:+.2f}".replace("-", "−"),
    }  # fmt: skip


def _interval(row: Mapping[str, Any], fact: Mapping[str, Any]) -> str:
    return show_interval(row, fact) if "low" in row else show(row["mean"], fact)


def _chart(case: Case) -> Any:
    """Trained rewards and held-out metrics on one scale: change in standard errors of the mean."""
    names = [n for n in dict.fromkeys([*case.trained, *case.held_out]) if n in case.moves]
    colours = colours_of(names)
    series, ticks = [], {}
    for name in names:
        # the unit is the largest standard error of any round
        widths = [r["high"] - r["low"] for r in case.rounds[name] if "low" in r]
        error = max(widths, default=0.0) / (2 * 1.96)
        if error == 0:
            continue
        first = case.rounds[name][0]["mean"]
        points = [
            Point(float(i), (r["mean"] - first) / error) for i, r in enumerate(case.rounds[name])
        ]
        ticks = {float(i): f"{r['round']:g}" for i, r in enumerate(case.rounds[name])}
        series.append(Series(name, points, colours[name], faint=name not in case.trained))
    if not series:
        return None
    title = "trained rewards (strong) and held-out metrics (faint)"
    svg = line_chart(
        series, label=f"{title} by round, {case.stage}", x_label="round",
        y_label="change, in standard errors", x_ticks=ticks if len(ticks) <= 12 else None,
    )  # fmt: skip
    legend = {s.name.replace("_", " "): s.colour for s in series}
    return {"charts": [{"title": title, "svg": svg}], "legend": legend}


def _suspect(
    suspect: Suspect, questions: Mapping[str, Question], facts: Mapping[str, Any]
) -> dict[str, Any]:
    a = suspect.attempt
    link = {"id": visible(clipped(a.question_id)), "split": visible(a.split)}
    scores = [f"{heading(n, facts[n])} {show(v, facts[n])}" for n, v in suspect.scores.items()]
    return {
        "href": "#" + urlencode(link), "rationale": clipped(a.rationale, 400),
        "question": clipped(questions[a.question_id].question, 200), "scores": ", ".join(scores),
        "gap": f"{suspect.gap:+.2f}".replace("-", "−"),
    }  # fmt: skip
