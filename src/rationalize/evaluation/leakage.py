"""Leakage-adjusted simulatability: what rationales tell a reader beyond the answer itself (Hase et
al. 2020, arXiv 2010.04119).

Attempts with a defined `simulatability` form two groups: those whose rationale states their own
answer (`prediction_leak` is 1), and the others.

    adjusted = (mean over the leaking attempts + mean over the others) / 2

A writer therefore gains nothing by leaking more often. The number is undefined where either group
is empty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rationalize.evaluation.intervals import resampled_means
from rationalize.records import Attempt

SCORE, LEAK = "simulatability", "prediction_leak"
GROUPS = ("open", "leaking", "adjusted")
"""Rationales that do not name their answer, those that do, and the mean of both means."""


def leakage_adjusted(
    attempts: Sequence[Attempt], *, samples: int = 10_000, seed: int = 0
) -> dict[str, dict[str, Any] | None] | None:
    """`mean`, `low`, `high` and `n` attempts of each of `GROUPS`; None for an empty group, and None
    as a whole where no attempt has both scores.

    Intervals are 95 % percentile bootstrap over questions; a draw without attempts of a group is
    left out.
    """
    scored = [
        (a.question_id, a.rewards[SCORE], int(a.rewards[LEAK] or 0))
        for a in attempts
        if a.rewards.get(SCORE) is not None and a.rewards.get(LEAK) is not None
    ]
    if not scored:
        return None
    index = {q: i for i, q in enumerate(dict.fromkeys(q for q, _, _ in scored))}
    # questions by groups: open, leaking
    sums_QG, counts_QG = np.zeros((len(index), 2)), np.zeros((len(index), 2))
    for q, score, leak in scored:
        sums_QG[index[q], leak] += score or 0.0
        counts_QG[index[q], leak] += 1
    means = _means(sums_QG.sum(0), counts_QG.sum(0))
    # both are divided by the questions drawn: the ratio is the same, (samples, 3)
    draws = _means(*(
        np.stack([resampled_means(v_Q, samples=samples, seed=seed) for v_Q in by_QG.T], axis=-1)
        for by_QG in (sums_QG, counts_QG)
    ))  # fmt: skip
    n_open, n_leaking = counts_QG.sum(0).astype(int).tolist()
    sizes = (n_open, n_leaking, n_open + n_leaking)
    return {g: _row(means[i], draws[:, i], sizes[i]) for i, g in enumerate(GROUPS)}


def shown(row: Mapping[str, Any] | None) -> str:
    """`0.250 [0.100, 0.400] (n = 20)`, or `undefined`."""
    if row is None:
        return "undefined"
    mean, low, high = (f"{row[key]:.3f}" for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}] (n = {row['n']})"


def _means(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Means of both groups (.., 2) and their mean (.., 3); NaN where a group is empty."""
    means = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    return np.concatenate([means, means.mean(-1, keepdims=True)], axis=-1)


def _row(mean: float, draws: np.ndarray, n: int) -> dict[str, Any] | None:
    if np.isnan(mean):
        return None
    low, high = np.quantile(draws[~np.isnan(draws)], [0.025, 0.975])
    return {"mean": float(mean), "low": float(low), "high": float(high), "n": n}
