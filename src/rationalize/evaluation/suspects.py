"""The attempts to read first: trained rewards score them high, held-out metrics do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rationalize.evaluation.diagnostics import average_ranks
from rationalize.evaluation.hacking import SURFACE, Case
from rationalize.evaluation.metrics import Metric, applicable
from rationalize.records import Attempt, Question

SUSPECTS = 10
"""Attempts listed: about as many as a reader looks at."""


@dataclass(frozen=True)
class Suspect:
    """An attempt that trained rewards rank above its rank by held-out metrics."""

    attempt: Attempt
    gap: float
    """Mean percentile by the trained rewards minus that by the held-out metrics, -1 to 1."""
    scores: Mapping[str, float | None]
    """Trained rewards, held-out metrics and surface properties."""


def suspects(
    case: Case, attempts: Sequence[Attempt], questions: Mapping[str, Question],
    metrics: Sequence[Metric], most: int = SUSPECTS,
) -> list[Suspect]:  # fmt: skip
    """At most `most` attempts, the largest gap first; none where only correctness was trained."""
    by_name = {m.name: m for m in applicable(metrics, attempts)}
    trained = [n for n in dict.fromkeys(case.trained) if n in by_name and n != "accuracy"]
    held_out = [n for n in case.held_out if n in by_name]
    if not trained or not attempts:
        return []

    def percentiles(names: Sequence[str]) -> np.ndarray:
        # mean over the metrics of the mid-rank percentile, (N,)
        values = [[by_name[n].value(a, questions[a.question_id]) for a in attempts] for n in names]
        ranks = [(average_ranks(np.array(v)) - 0.5) / len(attempts) for v in values]
        return np.mean(ranks, axis=0)

    gaps_N = percentiles(trained) - percentiles(held_out)
    surface = [name for name in dict.fromkeys(n for n, _ in SURFACE) if name in by_name]
    shown = [*trained, *held_out, *surface]
    return [
        Suspect(
            attempts[i], float(gaps_N[i]),
            {n: by_name[n].score(attempts[i], questions[attempts[i].question_id]) for n in shown},
        )
        for i in np.argsort(-gaps_N, kind="stable")[:most]
        if gaps_N[i] > 0
    ]  # fmt: skip
