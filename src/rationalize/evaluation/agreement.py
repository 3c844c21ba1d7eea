"""AUROC: how well a score ranks rationales that votes or right and wrong answers have ranked.

A `Target` says how often each rationale is the better one of a pair and how often the worse one.
Over all pairs of two different rationales i, j with weight `better_i * worse_j`,

    AUROC = sum weight * (1[s_i > s_j] + 1/2 * 1[s_i = s_j]) / sum weight

(Mann and Whitney 1947; Hanley and McNeil 1982), either over all pairs or, with `within`, over pairs
of the same question. With three votes per rationale, of which k accept, `better = k` and
`worse = 3 - k` make each single vote a label to predict. A rationale is never paired with itself,
because a score cannot separate two votes on one text.

Intervals are 95 % percentile bootstrap over questions; a question is drawn with all its rationales.
Every score uses the same draws, so differences are paired. In a draw that holds a question several
times, a rationale is not paired with its own copies either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rationalize.bootstrap import percentiles, resample_counts

SAMPLES = 2000
"""Bootstrap resamples per interval."""

MEAN_OF_SETS = "mean of the sets"

Role = Literal["reward", "floor", "ceiling"]
"""What a row of agreement.json is about; `floor` is a baseline."""

_CELLS = 1 << 20
"""Resampled weights held in memory at a time."""


@dataclass(frozen=True)
class Target:
    """The ranking that a score should reproduce: weights of N rationales on each side of a pair."""

    better_N: np.ndarray
    """How often a rationale is the better one, at least 0."""
    worse_N: np.ndarray
    """How often it is the worse one, at least 0."""
    within: bool = False
    """Compare rationales of the same question only."""
    ceilings: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Scores computed from the target itself, by name: shape (N,) or (N, 2), as in `auroc`."""


@dataclass(frozen=True)
class ScoredSet:
    """N rationales of Q questions, with the scores to test and the targets to test them on."""

    question_N: np.ndarray
    """Index of the rationale's question, from 0 to Q - 1."""
    scores: Mapping[str, np.ndarray]
    """Name -> (N,), NaN where undefined; the baselines included."""
    baselines: Sequence[str]
    """Names of the scores that a reward must beat."""
    targets: Mapping[str, Target]


def auroc(
    score_N: np.ndarray, target: Target, question_N: np.ndarray,
    counts_SQ: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """AUROC in each of S resamples, (S,); without `counts_SQ`, on the questions themselves, (1,).

    `counts_SQ` is how often each resample holds each question. A score of shape (N, 2) gives a
    rationale one value on the better side of a pair and another on the worse side. Rationales with
    a non-finite score are left out. The result is NaN where no pair remains.

    >>> votes = Target(better_N=np.array([3, 0, 1]), worse_N=np.array([0, 3, 2]))
    >>> auroc(np.array([0.9, 0.5, 0.5]), votes, np.arange(3))  # (9 + 6 + 3 * 1/2) / 18
    array([0.91666667])
    """
    score = np.asarray(score_N, dtype=np.float64)
    up, down = score.T if score.ndim == 2 else (score, score)  # as the better, as the worse: (N,)
    # an undefined score gets weight 0; its value only has to be a number
    defined = np.isfinite(up) & np.isfinite(down)
    up, down = np.where(defined, up, 0.0), np.where(defined, down, 0.0)
    better, worse = target.better_N * defined, target.worse_N * defined
    if counts_SQ is None:
        counts_SQ = np.ones((1, int(question_N.max()) + 1))
    sums = _within if target.within else _over_all
    wins, pairs = sums(up, down, better, worse, question_N, counts_SQ)
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def others_votes(accepted_N: np.ndarray, votes_N: np.ndarray) -> np.ndarray:
    """Leave-one-out score of a vote: the share of the other votes that accept, shape (N, 2).

    With k of n votes accepting, it is (k - 1) / (n - 1) for a vote that accepts (first column) and
    k / (n - 1) for one that rejects (second column); NaN where n = 1. Its AUROC is what n - 1 other
    people who read the text reach.
    """
    k, others = np.asarray(accepted_N, dtype=float), np.asarray(votes_N, dtype=float) - 1
    # with k = 0 no vote accepts, with k = n none rejects: that column then has no weight in a pair
    shares = np.stack([np.maximum(k - 1, 0), np.minimum(k, others)], axis=1)
    return np.where(others[:, None] > 0, shares / np.maximum(others, 1)[:, None], np.nan)


def agreement_rows(
    sets: Mapping[str, ScoredSet], *, samples: int = SAMPLES
) -> list[dict[str, Any]]:
    """A row per set, target and score; with several sets also their unweighted mean:

        {"set", "target", "score", "role": "reward" | "floor" | "ceiling", "mean", "low", "high",
         "n", "undefined", "sets", "floor", "difference": {"mean", "low", "high"} | None}

    `mean` is the AUROC, None where no pair is defined. `n` counts the rationales in pairs,
    `undefined` those of them without a score, which are left out. `floor` names the baseline that
    is best on these same rationales; choosing it here can only raise it. `difference` is a reward's
    AUROC minus that baseline's, both on the rationales where both are defined.
    """
    tests = {
        name: _Aurocs(scored, samples, seed) for seed, (name, scored) in enumerate(sets.items())
    }
    rows = []
    targets = dict.fromkeys(target for scored in sets.values() for target in scored.targets)
    for target in targets:
        tested = {name: test for name, test in tests.items() if target in test.of.targets}
        groups = {name: [test] for name, test in tested.items()}
        if len(tested) > 1:
            groups[MEAN_OF_SETS] = list(tested.values())
        for name, group in groups.items():
            rows += [{"set": name, "target": target, **row} for row in _rows(group, target)]
    order = {name: i for i, name in enumerate([*sets, MEAN_OF_SETS])}
    return sorted(rows, key=lambda row: order[row["set"]])


class _Aurocs:
    """AUROCs of one set with their bootstrap draws, each computed once."""

    def __init__(self, of: ScoredSet, samples: int, seed: int) -> None:
        self.of = of
        self._counts = resample_counts(int(of.question_N.max()) + 1, samples, seed)
        self._computed: dict[tuple[str, str, bytes], tuple[float, np.ndarray]] = {}

    def score(self, name: str, target: str) -> np.ndarray:
        return self.of.targets[target].ceilings.get(name, self.of.scores.get(name, np.empty(0)))

    def mean_and_draws(
        self, name: str, target: str, beside: str | None = None
    ) -> tuple[float, np.ndarray]:
        """A score's AUROC and its draws (S,), on the rationales where `beside` is defined too."""
        score = self.score(name, target)
        if beside is not None:
            other = self.score(beside, target)
            score = np.where(np.isfinite(other), score, np.nan)
        # the score and which of its values count decide the result
        key = name, target, np.packbits(_defined(score)).tobytes()
        if key not in self._computed:
            weights, question_N = self.of.targets[target], self.of.question_N
            draws = auroc(score, weights, question_N, self._counts)
            self._computed[key] = float(auroc(score, weights, question_N)[0]), draws
        return self._computed[key]

    def difference(self, a: str, b: str, target: str) -> tuple[float, np.ndarray]:
        """AUROC of a minus that of b, on the rationales where both are defined, and its draws."""
        mean_a, draws_a = self.mean_and_draws(a, target, b)
        mean_b, draws_b = self.mean_and_draws(b, target, a)
        return mean_a - mean_b, draws_a - draws_b


def _rows(group: Sequence[_Aurocs], target: str) -> Iterator[dict[str, Any]]:
    """The rows of one target: of one set, or of the mean of several."""
    first = group[0].of
    baselines, ceilings = first.baselines, list(first.targets[target].ceilings)
    # the best baseline, which every reward is compared with
    intervals = {
        name: _mean([test.mean_and_draws(name, target) for test in group]) for name in baselines
    }
    means = {name: row["mean"] for name, row in intervals.items() if row["mean"] is not None}
    best = max(means, key=lambda name: means[name]) if means else None
    for name in [*first.scores, *ceilings]:
        role: Role = "ceiling" if name in ceilings else "floor" if name in baselines else "reward"
        paired = [in_pairs(test.of.targets[target], test.of.question_N) for test in group]
        defined = [_defined(test.score(name, target)) for test in group]
        difference = None
        if role == "reward" and best is not None:
            difference = _mean([test.difference(name, best, target) for test in group])
        yield {
            "score": name, "role": role,
            **_mean([test.mean_and_draws(name, target) for test in group]),
            "n": sum(int(p.sum()) for p in paired),
            "undefined": sum(int((p & ~d).sum()) for p, d in zip(paired, defined, strict=True)),
            "sets": len(group), "floor": best if difference else None, "difference": difference,
        }  # fmt: skip


def _mean(values: Sequence[tuple[float, np.ndarray]]) -> dict[str, float | None]:
    """Mean over sets and its interval; None where one of the sets has no AUROC."""
    mean = float(np.mean([value for value, _ in values]))
    draws = np.mean([draws_S for _, draws_S in values], axis=0)
    draws = draws[np.isfinite(draws)]  # a draw may lack pairs
    if not np.isfinite(mean) or not len(draws):
        return {"mean": None, "low": None, "high": None}
    low, high = percentiles(draws)
    return {"mean": mean, "low": low, "high": high}


def _defined(score: np.ndarray) -> np.ndarray:
    finite = np.isfinite(score)
    return finite if finite.ndim == 1 else finite.all(axis=1)


def _beats(up: np.ndarray, down: np.ndarray) -> np.ndarray:
    return (up > down) + 0.5 * (up == down)


def same_question_pairs(question_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All ordered pairs (i, j), i != j, of rationales of the same question."""
    order = np.argsort(question_N, kind="stable")
    starts = np.flatnonzero(np.diff(question_N[order])) + 1
    groups = np.split(order, starts)
    i = np.concatenate([np.repeat(group, len(group)) for group in groups])
    j = np.concatenate([np.tile(group, len(group)) for group in groups])
    return i[i != j], j[i != j]


def in_pairs(target: Target, question_N: np.ndarray) -> np.ndarray:
    """Whether a rationale has another one to compare with, (N,)."""
    better, worse = target.better_N, target.worse_N
    if not target.within:
        above, below = better.sum() - better, worse.sum() - worse
        return (better * below > 0) | (worse * above > 0)
    i, j = same_question_pairs(question_N)
    paired = better[i] * worse[j] > 0
    members = np.zeros(len(better), dtype=bool)
    members[i[paired]] = members[j[paired]] = True
    return members


def _within(up, down, better, worse, question, counts_SQ):
    """Weighted wins and pairs inside questions, (S,) each."""
    i, j = same_question_pairs(question)
    weight = better[i] * worse[j]
    n = counts_SQ.shape[1]
    wins_Q = np.bincount(question[i], weight * _beats(up[i], down[j]), n)
    pairs_Q = np.bincount(question[i], weight, n)
    # a question drawn c times counts c times, not c * c: copies of a question form no pairs
    sums = counts_SQ.astype(np.float64) @ np.stack([wins_Q, pairs_Q], axis=1)  # (S, 2)
    return sums[:, 0], sums[:, 1]


def _over_all(up, down, better, worse, question, counts_SQ):
    """Weighted wins and pairs over all rationales, (S,) each, less those with themselves.

    For each rationale on the better side, the weight below its score is read off the running sum
    over the sorted worse side, halfway through its ties.
    """
    # what a rationale paired with itself adds, by question: wins and pairs, (Q, 2)
    n = counts_SQ.shape[1]
    itself = better * worse
    itself_QW = np.stack(
        [np.bincount(question, itself * _beats(up, down), n), np.bincount(question, itself, n)],
        axis=1,
    )
    # B rationales with weight on the better side, W on the worse side, these sorted by score
    ups, downs = np.flatnonzero(better), np.flatnonzero(worse)
    downs = downs[np.argsort(down[downs], kind="stable")]
    first, last = (np.searchsorted(down[downs], up[ups], side) for side in ("left", "right"))
    chunks = []
    rows = max(1, _CELLS // max(1, len(question)))
    for start in range(0, len(counts_SQ), rows):
        counts = counts_SQ[start : start + rows].astype(np.float64)
        weight_up = counts[:, question[ups]] * better[ups]  # (rows, B)
        weight_down = counts[:, question[downs]] * worse[downs]  # (rows, W)
        below = np.pad(weight_down.cumsum(axis=1), ((0, 0), (1, 0)))  # (rows, W + 1)
        wins = (weight_up * (below[:, first] + below[:, last])).sum(axis=1) / 2
        pairs = weight_up.sum(axis=1) * below[:, -1]
        # c copies of a question pair each of its rationales with itself c * c times
        chunks.append(np.stack([wins, pairs], axis=1) - counts**2 @ itself_QW)
    sums = np.concatenate(chunks)  # (S, 2)
    return sums[:, 0], sums[:, 1]
