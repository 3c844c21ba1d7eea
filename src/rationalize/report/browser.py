"""The questions with the rationales of all methods side by side, as data for the page's script."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rationalize.answers import label
from rationalize.evaluation.baselines import MAJORITY
from rationalize.evaluation.metrics import ACCURACY, Metric, applicable
from rationalize.evaluation.tables import decimals, heading
from rationalize.records import Attempt, Question
from rationalize.text import clipped

LIMIT = 1000
"""Questions shown: the page stays at a few megabytes, which open at once."""
PAGE = 25


def browser_data(
    attempts: Mapping[str, Sequence[Attempt]], questions: Mapping[str, Question],
    metrics: Sequence[Metric], pair: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    """The data of the browser. Of several attempts of a method at a question, it shows the first of
    the lowest seed.

    A score is a number, null (undefined, sorted as the worst value) or "" (the method lacks the
    metric).
    """
    metrics = [m for m in metrics if m.name not in ("stated_accuracy", "parse_rate", "truncated")]
    scored = {method: {m.name for m in applicable(metrics, a)} for method, a in attempts.items()}
    shown = {method: first_of_each(a) for method, a in attempts.items() if method != MAJORITY}
    splits = {a.question_id: a.split for by_id in shown.values() for a in by_id.values()}
    asked = [questions[q] for q in questions if q in splits]
    methods = list(shown)
    return {
        "methods": methods, "metrics": [_metric(m) for m in metrics], "pair": list(pair),
        "page": PAGE, "left_out": max(0, len(asked) - LIMIT),
        "questions": [
            {
                **_question(q, splits[q.id]),
                "attempts": [
                    _attempt(shown[m][q.id], q, metrics, scored[m]) if q.id in shown[m] else None
                    for m in methods
                ],
            }
            for q in asked[:LIMIT]
        ],
    }  # fmt: skip


def first_of_each(attempts: Iterable[Attempt]) -> dict[str, Attempt]:
    """By question id the attempt that is shown: the first of the lowest seed."""
    first: dict[str, Attempt] = {}
    for attempt in attempts:
        if attempt.question_id not in first or attempt.seed < first[attempt.question_id].seed:
            first[attempt.question_id] = attempt
    return first


def _metric(m: Metric) -> dict[str, Any]:
    fact = m.facts()
    worst = m.worst if math.isfinite(m.worst) else None
    digits = 0 if m.name in ("accuracy", "length") else decimals(fact)
    return {"name": m.name, "title": heading(m.name, {}), "worst": worst, "digits": digits}


def _question(q: Question, split: str) -> dict[str, Any]:
    choices = [[clipped(f"{label(i)} {c}"), c == q.answer] for i, c in enumerate(q.choices or ())]
    return {
        "id": clipped(q.id), "split": split, "kind": q.kind or "",
        "context": clipped(q.context or ""), "question": clipped(q.question), "choices": choices,
        "gold": clipped(q.answer),
    }  # fmt: skip


def _attempt(
    attempt: Attempt, question: Question, metrics: Sequence[Metric], scored: set[str]
) -> dict[str, Any]:
    return {
        "rationale": clipped(attempt.rationale),
        "answer": None if attempt.prediction is None else clipped(attempt.prediction),
        "right": ACCURACY.value(attempt, question) == 1.0,
        "cut": attempt.finish == "length",
        "scores": [_score(m, attempt, question) if m.name in scored else "" for m in metrics],
    }


def _score(metric: Metric, attempt: Attempt, question: Question) -> float | None:
    score = metric.score(attempt, question)
    return None if score is None or not math.isfinite(score) else round(score, 4)
