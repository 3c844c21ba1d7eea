"""Checks that means hide: spread of a reward's scores, correlations, warnings about results."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rationalize.answers import MARKER
from rationalize.evaluation.baselines import BETTER_READING, reads_base_better
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


def warnings(results: Mapping[str, Any]) -> list[str]:
    """What a reader should know before believing these results, in sentences, worst first.

    The page and the terminal print the same ones.
    """
    texts: list[str] = []
    fewest: dict[str, int] = {}  # questions of the method with the fewest, by split
    for entry in results["methods"].values():
        for split, cell in entry["splits"].items():
            n = cell["metrics"]["accuracy"]["n"]
            fewest[split] = min(n, fewest.get(split, n))
    for method, entry in results["methods"].items():
        for split, cell in entry["splits"].items():
            texts += [
                f"{method} on {split}: {text}" for text in _cell_warnings(cell, results["metrics"])
            ]
    if reads_base_better(results["comparisons"]):
        texts.append(BETTER_READING)
    texts += _bin_warnings(results["bins"])
    texts += _obedience_warnings(results["obedience"])
    texts += [
        f"{split}: {n} questions only; intervals from so few are too narrow."
        for split, n in fewest.items()
        if n < 50
    ]
    return [*texts, *(results.get("notes") or [])]


def few_parsed(cell: Mapping[str, Any]) -> str:
    """A sentence where few replies have our form of an answer; "" where most have."""
    parsed = cell["metrics"].get("parse_rate", {"mean": 1.0})["mean"]
    stated = cell.get("stated", 0.0)  # absent in results of earlier versions
    if parsed >= 0.9:
        return ""
    if stated - parsed < 0.1:
        return (
            f"an answer could be read from only {parsed:.0%} of the replies; the rest count as "
            "wrong."
        )
    return (
        f"only {parsed:.0%} of the replies have the form `{MARKER} ..`, though {stated:.0%} state "
        "an answer: read stated accuracy too."
    )


def _cell_warnings(cell: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    means = {name: row["mean"] for name, row in cell["metrics"].items()}
    distinct = cell.get("distinct_rationales")
    top = cell.get("one_choice") or {"label": "", "share": 0.0, "right": 0.0}
    unread = few_parsed(cell)
    checks = [
        (bool(unread), unread),
        (
            top["share"] > 0.9 > top["right"],
            f"{top['share']:.0%} of the replies answer {top['label']}, which is right "
            f"{top['right']:.0%} of the time: the answer does not follow the rationale.",
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
            distinct is not None and distinct < 0.5,
            f"only {distinct or 0:.0%} of the rationales differ from one another.",
        ),
    ]
    texts = [text for holds, text in checks if holds]
    for name, share in cell.get("undefined", {}).items():
        if share > 0.1:
            diagnostic = facts.get(name, {}).get("role") == "diagnostic"
            counted = "left out of its mean" if diagnostic else "worst value counted"
            texts.append(f"{name} is undefined on {share:.0%} of the replies ({counted}).")
    for name, share in cell.get("out_of_range", {}).items():
        texts.append(
            f"{name} leaves its declared range on {share:.1%} of the replies, so NRG is off."
        )
    return texts


def _bin_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Bins of the last round whose control token learns nothing."""
    texts = []
    for (who, reward), row in {(_who(r), r["reward"]): r for r in rows}.items():
        counts = row["counts"]
        empty = [str(b) for b, count in enumerate(counts) if not count]
        if max(counts) > NARROW_SHARE * sum(counts):
            texts.append(
                f"{who}: {max(counts) / sum(counts):.0%} of the pool share one bin of {reward}; "
                f"its scores are {TOO_NARROW}."
            )
        elif empty:
            texts.append(
                f"{who}: ties in {reward} leave bin {', '.join(empty)} of its pool empty (0 is "
                "best); the token of an empty bin is never trained."
            )
    return texts


def _obedience_warnings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rewards whose best and worst token do not differ in effect, in the last round measured."""
    last = {(_who(r), r["reward"]): r for r in rows if "gap" in r}
    return [
        f"{who}: the {reward} token is not obeyed (best minus worst {gap['mean']:+.3f} "
        f"[{gap['low']:+.3f}, {gap['high']:+.3f}] on {row['split']})."
        for (who, reward), row in last.items()
        if (gap := row["gap"])["low"] <= 0 or gap["p"] >= 0.05
    ]


def _who(row: Mapping[str, Any]) -> str:
    labels = [row.get(k) for k in ("method", "run", "seed")]
    return " ".join(str(label) for label in labels if label is not None) or "policy"
