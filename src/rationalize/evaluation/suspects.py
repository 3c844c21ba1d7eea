"""The attempts to read first: what the trained rewards praise and the yardsticks do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rationalize.evaluation.diagnostics import average_ranks
from rationalize.evaluation.hacking import SURFACE, Case
from rationalize.evaluation.metrics import Metric, applicable
from rationalize.records import Attempt, Question

SUSPECTS = 10
"""Attempts listed: as many as a reader looks at."""


@dataclass(frozen=True)
class Suspect:
    """An attempt that the trained rewards praise and the yardsticks do not."""

    attempt: Attempt
    gap: float
    """Mean percentile by the trained rewards minus mean percentile by the yardsticks, -1 to 1."""
    scores: Mapping[str, float | None]
    """Trained rewards, yardsticks and surface properties."""


def suspects(
    case: Case, attempts: Sequence[Attempt], questions: Mapping[str, Question],
    metrics: Sequence[Metric], most: int = SUSPECTS,
) -> list[Suspect]:  # fmt: skip
    """The attempts that trained rewards rank highest above what yardsticks say of them; none where
    no reward but correctness was trained and scored.
    """
    of = {m.name: m for m in applicable(metrics, attempts)}
    trained = [n for n in dict.fromkeys(case.trained) if n in of and n != "accuracy"]
    held = [n for n in case.yardsticks if n in of]
    if not trained or not attempts:
        return []

    def percentiles(names: Sequence[str]) -> np.ndarray:
        values = [[of[n].value(a, questions[a.question_id]) for a in attempts] for n in names]
        ranks = [(average_ranks(np.array(v)) - 0.5) / len(attempts) for v in values]
        return np.mean(ranks, axis=0)

    gaps = percentiles(trained) - percentiles(held)
    shown = [*trained, *held, *(s for s in dict.fromkeys(n for n, _ in SURFACE) if s in of)]
    return [
        Suspect(
            attempts[i], float(gaps[i]),
            {n: of[n].score(attempts[i], questions[attempts[i].question_id]) for n in shown},
        )
        for i in np.argsort(-gaps, kind="stable")[:most]
        if gaps[i] > 0
    ]  # fmt: skip
