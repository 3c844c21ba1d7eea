"""What means hide: can one condition on a reward, what does it go with, what looks wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rationalize.evaluation.metrics import Metric, applicable, score_column
from rationalize.records import Attempt, Question
from rationalize.signals.bins import rank_bins, value_bins

NARROW_CEILING = 0.05
"""Least gap between the best and the worst filled bin, as a share of the reward's range."""
NARROW_SHARE = 0.9
"""Largest share of the attempts that one bin may hold."""
TOO_NARROW = "too narrow to condition on"


@dataclass(frozen=True)
class Spread:
    """How a reward's scores are spread over a pool."""

    n: int
    undefined: float
    """Share of the scores that are undefined; they count as the worst of the range."""
    distinct: int
    at_best: float
    """Share at the top of the range (saturated)."""
    largest_tie: float
    """Share of the largest block of equal scores."""
    filled: int
    """Bins that hold an attempt."""
    fullest: float
    """Share of the fullest bin."""
    ceiling: float
    """Mean score of the best filled bin minus that of the worst: what perfect obedience shows."""
    verdict: str
    """`ok` or `too narrow to condition on`."""


def spread(
    scores: Sequence[float | None],
    k: int,
    reward_range: tuple[float, float] = (0.0, 1.0),
    levels: Sequence[float] | None = None,
) -> Spread:
    """Spread and verdict. Binned as the pool would be (by value where the reward has `levels`, else
    by rank into `k` bins, ties together), a reward is too narrow when

    * fewer than two bins are filled, or
    * one bin holds more than 90 % of the attempts: the other tokens are hardly ever trained, or
    * the mean scores of the best and the worst filled bin lie less than 5 % of the reward's range
      apart: even perfect obedience would hardly show. (The range found stands in for an infinite
      one.)
    """
    if not scores:
        raise ValueError("no scores to judge")
    given = np.array([math.nan if s is None else s for s in scores], dtype=np.float64)
    defined = np.isfinite(given)
    low, high = reward_range
    worst = low if math.isfinite(low) else (given[defined].min() if defined.any() else 0.0)
    array = np.where(defined, given, worst)
    width = high - low if math.isfinite(high - low) else max(float(np.ptp(array)), 1e-12)
    bins = value_bins(array.tolist(), levels) if levels else rank_bins(array.tolist(), k)
    counts = np.bincount(bins)
    filled = np.flatnonzero(counts)
    ceiling = float(array[bins == filled[0]].mean() - array[bins == filled[-1]].mean())
    _, ties = np.unique(array, return_counts=True)
    fullest = float(counts.max() / len(array))
    ok = len(filled) > 1 and fullest <= NARROW_SHARE and ceiling >= NARROW_CEILING * width
    return Spread(
        n=len(array), undefined=float(1 - defined.mean()), distinct=len(ties),
        at_best=float((array >= high).mean()), largest_tie=float(ties.max() / len(array)),
        filled=len(filled), fullest=fullest, ceiling=ceiling, verdict="ok" if ok else TOO_NARROW,
    )  # fmt: skip


def spread_verdict(
    scores: Sequence[float | None],
    k: int,
    reward_range: tuple[float, float] = (0.0, 1.0),
    levels: Sequence[float] | None = None,
) -> str:
    """`ok` or `too narrow to condition on`, by the rule of `spread`."""
    return spread(scores, k, reward_range, levels).verdict


@dataclass(frozen=True)
class Correlations:
    """Spearman correlations between columns; None where a side is constant or has fewer than 3
    pairs.
    """

    names: list[str]
    r: list[list[float | None]]
    n: int


def correlations(columns: Mapping[str, np.ndarray]) -> Correlations:
    """Rank correlations over the attempts at which both columns are defined (NaN is undefined)."""
    names = list(columns)
    r = [[spearman(columns[a], columns[b]) for b in names] for a in names]
    return Correlations(names, r, len(next(iter(columns.values()), [])))


def reward_correlations(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], metrics: Sequence[Metric]
) -> Correlations:
    """Between accuracy, every named score and length: what follows length can be hacked by it."""
    shown = [
        m for m in applicable(metrics, attempts) if m.name not in ("nrg", "parse_rate", "truncated")
    ]
    return correlations({m.name: score_column(m, attempts, questions) for m in shown})


def spearman(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """Pearson's correlation of the average ranks."""
    both = np.isfinite(x_N) & np.isfinite(y_N)
    return pearson(average_ranks(x_N[both]), average_ranks(y_N[both]))


def pearson(x_N: np.ndarray, y_N: np.ndarray) -> float | None:
    """None for fewer than three pairs or a constant side."""
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


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader of these results should know before believing them."""
    found = list(results.get("notes") or [])
    asked: dict[str, int] = {}  # fewest of any method, by split
    for entry in results["methods"].values():
        for split, cell in entry["splits"].items():
            n = cell["metrics"]["accuracy"]["n"]
            asked[split] = min(n, asked.get(split, n))
    found += [
        f"{split}: {n} questions only; intervals from so few are too narrow."
        for split, n in asked.items()
        if n < 50
    ]
    for method, entry in results["methods"].items():
        for split, cell in entry["splits"].items():
            found += [
                f"{method} on {split}: {text}" for text in _cell_warnings(cell, results["metrics"])
            ]
    found += _bin_warnings(results["bins"])
    found += _obedience_warnings(results["obedience"])
    return found


def _cell_warnings(cell: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    means = {name: row["mean"] for name, row in cell["metrics"].items()}
    repeated = cell.get("distinct_rationales")
    one = cell.get("one_choice") or {"label": "", "share": 0.0, "right": 0.0}
    checks = [
        (
            one["share"] > 0.9 > one["right"],
            f"{one['share']:.0%} of the replies answer {one['label']}, which is right "
            f"{one['right']:.0%} of the time: the answer does not follow the rationale.",
        ),
        (
            means.get("parse_rate", 1.0) < 0.9,
            f"an answer could be read from only {means.get('parse_rate', 1.0):.0%} of the replies; "
            "the rest count as wrong.",
        ),
        (
            means.get("truncated", 0.0) > 0.1,
            f"{means.get('truncated', 0.0):.0%} of the replies were cut at the length limit.",
        ),
        (
            means.get("length", 99.0) < 3,
            f"rationales have {means.get('length', 0.0):.1f} words on average; the diversity of "
            "so short a text is 1 by its formula.",
        ),
        (
            repeated is not None and repeated < 0.5,
            f"only {repeated or 0:.0%} of the rationales differ from one another.",
        ),
    ]
    found = [text for holds, text in checks if holds]
    for name, share in cell.get("undefined", {}).items():
        if share > 0.1:
            diagnostic = facts.get(name, {}).get("role") == "diagnostic"
            counted = "left out of its mean" if diagnostic else "worst value counted"
            found.append(f"{name} is undefined on {share:.0%} of the replies ({counted}).")
    for name, share in cell.get("out_of_range", {}).items():
        found.append(
            f"{name} leaves its declared range on {share:.1%} of the replies, so NRG is off."
        )
    return found


def _bin_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Bins of the last round that teach their token nothing."""
    found = []
    for (who, reward), row in {(_who(r), r["reward"]): r for r in rows}.items():
        counts = row["counts"]
        empty = [str(b) for b, count in enumerate(counts) if not count]
        if max(counts) > NARROW_SHARE * sum(counts):
            found.append(
                f"{who}: {max(counts) / sum(counts):.0%} of the pool share one bin of {reward}; "
                f"its scores are {TOO_NARROW}."
            )
        elif empty:
            found.append(
                f"{who}: ties in {reward} leave bin {', '.join(empty)} of its pool empty (0 is "
                "best); what has no attempt is never trained."
            )
    return found


def _obedience_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rewards whose best and worst token reach the same, in the last round measured."""
    last = {(_who(r), r["reward"]): r for r in rows if "gap" in r}
    found = []
    for (who, reward), row in last.items():
        gap = row["gap"]
        if gap["low"] <= 0 or gap["p"] >= 0.05:
            found.append(
                f"{who}: the {reward} token is not obeyed (best minus worst {gap['mean']:+.3f} "
                f"[{gap['low']:+.3f}, {gap['high']:+.3f}] on {row['split']})."
            )
    return found


def _who(row: Mapping[str, Any]) -> str:
    labels = [row.get(k) for k in ("method", "run", "seed")]
    return " ".join(str(label) for label in labels if label is not None) or "policy"
