"""Checks that means hide: spread of a reward's scores, and correlations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rationalize.evaluation.metrics import Metric, applicable, score_column
from rationalize.records import Attempt, Question
from rationalize.signals.bins import rank_bins, value_bins

NARROW_CEILING = 0.05
"""Least difference between the mean scores of the best and the worst filled bin, as a share of the
reward's range."""
NARROW_SHARE = 0.9
"""Largest share of the attempts that one bin may hold."""
TOO_NARROW = "too narrow to condition on"


@dataclass(frozen=True)
class Spread:
    """How a reward's scores are spread over a pool."""

    filled: int
    """Bins that hold an attempt."""
    fullest: float
    """Share of the fullest bin."""
    ceiling: float
    """Mean score of the best filled bin minus that of the worst: the largest effect that its
    control tokens can show."""
    verdict: str
    """`ok` or `too narrow to condition on`."""
    worst: float = 0.0
    """What an undefined score counts as."""
    width: float = 1.0
    """The reward's range, or that of the scores where it is infinite."""


def spread(
    scores: Sequence[float | None], k: int, reward_range: tuple[float, float] = (0.0, 1.0),
    levels: Sequence[float] | None = None,
) -> Spread:  # fmt: skip
    """Spread of a reward's scores over a pool, and the verdict whether tokens can condition on it.

    Scores are binned as the pool would be: by value where the reward has `levels`, else by rank
    into `k` bins with ties together. A reward is too narrow when

    * fewer than two bins are filled, or
    * one bin holds more than 90 % of the attempts: the other tokens are hardly ever trained, or
    * the mean scores of the best and the worst filled bin differ by less than 5 % of the reward's
      range: even a policy that follows every token would show little. (For an infinite range, the
      range of the scores counts.)

    Raises `ValueError` without scores.
    """
    if not scores:
        raise ValueError("no scores to judge")
    # undefined scores count as the worst value, as they do in the pool
    raw_N = np.array([math.nan if s is None else s for s in scores], dtype=np.float64)
    defined = np.isfinite(raw_N)
    low, high = reward_range
    worst = low if math.isfinite(low) else (raw_N[defined].min() if defined.any() else 0.0)
    scores_N = np.where(defined, raw_N, worst)
    width = high - low if math.isfinite(high - low) else max(float(np.ptp(scores_N)), 1e-12)
    # bin 0 is the best
    bins_N = value_bins(scores_N.tolist(), levels) if levels else rank_bins(scores_N.tolist(), k)
    counts = np.bincount(bins_N)
    filled = np.flatnonzero(counts)
    ceiling = float(scores_N[bins_N == filled[0]].mean() - scores_N[bins_N == filled[-1]].mean())
    fullest = float(counts.max() / len(scores_N))
    ok = len(filled) > 1 and fullest <= NARROW_SHARE and ceiling >= NARROW_CEILING * width
    verdict = "ok" if ok else TOO_NARROW
    return Spread(len(filled), fullest, ceiling, verdict, float(worst), float(width))


@dataclass(frozen=True)
class Correlations:
    """Spearman correlations between columns; None as in `pearson`."""

    names: list[str]
    r: list[list[float | None]]
    n: int


def correlations(columns: Mapping[str, np.ndarray]) -> Correlations:
    """Rank correlations over the attempts where both columns are defined (NaN is undefined)."""
    names = list(columns)
    # of columns that are defined everywhere, ranks are the same beside any other such column
    whole = {name: average_ranks(x) for name, x in columns.items() if np.isfinite(x).all()}

    def correlation(a: str, b: str) -> float | None:
        if a in whole and b in whole:
            return pearson(whole[a], whole[b])
        return spearman(columns[a], columns[b])

    r = [[correlation(a, b) for b in names] for a in names]
    return Correlations(names, r, len(next(iter(columns.values()), [])))


def reward_correlations(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], metrics: Sequence[Metric]
) -> Correlations:
    """Rank correlations between accuracy, every reward and diagnostic, and length. A reward that
    follows length can be hacked by longer texts.
    """
    hidden = ("nrg", "stated_accuracy", "parse_rate", "truncated")
    shown = [m for m in applicable(metrics, attempts) if m.name not in hidden]
    return correlations({m.name: score_column(m, attempts, questions) for m in shown})


def spearman(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """Pearson's correlation of the average ranks; None as in `pearson`."""
    both = np.isfinite(x_N) & np.isfinite(y_N)
    return pearson(average_ranks(x_N[both]), average_ranks(y_N[both]))


def pearson(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """Pearson's correlation; None for fewer than three pairs or a constant side."""
    both = np.isfinite(x_N) & np.isfinite(y_N)
    x, y = x_N[both], y_N[both]
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    x, y = x - x.mean(), y - y.mean()
    return float(x @ y / math.sqrt((x @ x) * (y @ y)))


def average_ranks(x_N: np.ndarray) -> np.ndarray:
    """Rank from 1; equal values share their mean rank."""
    _, block, counts = np.unique(x_N, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[block]
