"""How well a score ranks what people, or right and wrong answers, rank: AUROC over questions.

A `Target` says how often each rationale is on the better side of a pair and how often on the worse
one. Over all pairs of two different rationales i, j of weight `better_i * worse_j`,

    AUROC = sum weight * (1[s_i > s_j] + 1/2 * 1[s_i = s_j]) / sum weight

(Mann and Whitney 1947; Hanley and McNeil 1982), over all rationales together or, `within`, over the
pairs of one question. With three votes a rationale, k of them accepting, `better = k` and
`worse = 3 - k` make every single vote the thing to be predicted. A rationale is never paired with
itself: no score can tell two votes on one text apart.

Intervals are 95 % percentile bootstrap over questions, all rationales of a question together, the
same draws for every score: differences are paired. In a draw that holds a question several times a
rationale is not paired with its copies either.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from rationalize.bootstrap import percentiles, resample_counts

SAMPLES = 2000
"""Resamples of an interval."""

MEAN_OF_SETS = "mean of the sets"

Role = Literal["reward", "floor", "ceiling"]

_CELLS = 1 << 20
"""Resampled weights held at a time."""


@dataclass(frozen=True)
class Target:
    """What a score should rank: N rationales with weights on both sides of a pair."""

    better_N: np.ndarray
    """How often a rationale is the better one, at least 0."""
    worse_N: np.ndarray
    """How often it is the worse one."""
    within: bool = False
    """Only pairs of one question count."""
    ceilings: Mapping[str, np.ndarray] = field(default_factory=dict)
    """What scores made of the target itself reach, by name: shape (N,) or (N, 2), as in `auroc`."""


@dataclass(frozen=True)
class ScoredSet:
    """N rationales of Q questions, with the scores to test and the targets to test them on."""

    question_N: np.ndarray
    """The question's place, from 0 to Q - 1."""
    scores: Mapping[str, np.ndarray]
    """Name -> (N,), NaN where undefined; the floor's scores among them."""
    floor: Sequence[str]
    """Scores that any reward must beat."""
    targets: Mapping[str, Target]


def auroc(
    score_N: np.ndarray,
    target: Target,
    question_N: np.ndarray,
    counts_SQ: np.ndarray | None = None,
) -> np.ndarray:
    """AUROC in each resample, (S,); without `counts_SQ` of the questions as they are, (1,).

    `counts_SQ` is how often each resample holds each question. A score of shape (N, 2) has one
    value for a rationale on the better side of a pair and another on the worse side. Rationales
    whose score is not finite are left out; NaN where no pair remains.

    >>> votes = Target(better_N=np.array([3, 0, 1]), worse_N=np.array([0, 3, 2]))
    >>> auroc(np.array([0.9, 0.5, 0.5]), votes, np.arange(3))  # (9 + 6 + 3 * 1/2) / 18
    array([0.91666667])
    """
    score = np.asarray(score_N, dtype=np.float64)
    up, down = score.T if score.ndim == 2 else (score, score)
    defined = np.isfinite(up) & np.isfinite(down)
    up, down = np.where(defined, up, 0.0), np.where(defined, down, 0.0)
    better, worse = target.better_N * defined, target.worse_N * defined
    if counts_SQ is None:
        counts_SQ = np.ones((1, int(question_N.max()) + 1))
    sums = _within if target.within else _over_all
    wins, pairs = sums(up, down, better, worse, question_N, counts_SQ)
    return np.divide(wins, pairs, out=np.full(len(wins), np.nan), where=pairs > 0)


def others_votes(accepted_N: np.ndarray, votes_N: np.ndarray) -> np.ndarray:
    """The share of the OTHER votes that accept, for a vote that accepts and one that does not:
    shape (N, 2), NaN for single votes.

    Leaving one out of n votes, k of them accepting, leaves (k - 1) / (n - 1) where it accepts and
    k / (n - 1) where it does not. Its AUROC is what n - 1 other people reach who see the text.
    """
    k, others = np.asarray(accepted_N, dtype=float), np.asarray(votes_N, dtype=float) - 1
    # where k = 0 (or n) no vote accepts (or rejects): that value has no weight
    shares = np.stack([np.maximum(k - 1, 0), np.minimum(k, others)], axis=1)
    return np.where(others[:, None] > 0, shares / np.maximum(others, 1)[:, None], np.nan)


def agreement_rows(
    sets: Mapping[str, ScoredSet], *, samples: int = SAMPLES
) -> list[dict[str, Any]]:
    """A row per set, target and score, and with several sets their mean, each counting alike:

        {"set", "target", "score", "role": "reward" | "floor" | "ceiling", "mean", "low", "high",
         "n", "undefined", "sets", "floor", "difference": {"mean", "low", "high"} | None}

    `mean` is the AUROC, None where no pair is defined; `n` counts the rationales in pairs,
    `undefined` those among them without a score, which are left out. `difference` is a reward's
    AUROC minus that of `floor`, the score of the floor that is best on these very rationales, both
    on the rationales where both are defined. Choosing it here can only raise the floor.
    """
    tests = {name: _Tests(own, samples, seed) for seed, (name, own) in enumerate(sets.items())}
    rows = []
    targets = dict.fromkeys(t for own in sets.values() for t in own.targets)
    for target in targets:
        having = {name: own for name, own in tests.items() if target in own.of.targets}
        groups = {name: [own] for name, own in having.items()}
        if len(having) > 1:
            groups[MEAN_OF_SETS] = list(having.values())
        for name, group in groups.items():
            rows += [{"set": name, "target": target, **row} for row in _rows(group, target)]
    order = {name: i for i, name in enumerate([*sets, MEAN_OF_SETS])}
    return sorted(rows, key=lambda row: order[row["set"]])


class _Tests:
    """AUROCs of a set and their draws, each worked out once."""

    def __init__(self, of: ScoredSet, samples: int, seed: int) -> None:
        self.of = of
        self._counts = resample_counts(int(of.question_N.max()) + 1, samples, seed)
        self._known: dict[tuple[str, str, bytes], tuple[float, np.ndarray]] = {}

    def score(self, name: str, target: str) -> np.ndarray:
        return self.of.targets[target].ceilings.get(name, self.of.scores.get(name, np.empty(0)))

    def counted(self, target: str) -> np.ndarray:
        """Which rationales are in a pair of the target."""
        return in_pairs(self.of.targets[target], self.of.question_N)

    def reached(
        self, name: str, target: str, beside: str | None = None
    ) -> tuple[float, np.ndarray]:
        """A score's AUROC and its draws (S,), where `beside` is defined too."""
        score = self.score(name, target)
        if beside is not None:
            other = self.score(beside, target)
            score = np.where(np.isfinite(other), score, np.nan)
        key = name, target, np.packbits(_defined(score)).tobytes()
        if key not in self._known:
            own, at = self.of.targets[target], self.of.question_N
            draws = auroc(score, own, at, self._counts)
            self._known[key] = float(auroc(score, own, at)[0]), draws
        return self._known[key]

    def difference(self, a: str, b: str, target: str) -> tuple[float, np.ndarray]:
        """AUROC of a minus that of b, on the rationales where both are defined, and its draws."""
        (mean_a, draws_a), (mean_b, draws_b) = (
            self.reached(a, target, b),
            self.reached(b, target, a),
        )
        return mean_a - mean_b, draws_a - draws_b


def _rows(group: Sequence[_Tests], target: str) -> Iterator[dict[str, Any]]:
    """The rows of one target: of a set, or of the mean of several."""
    first = group[0].of
    ceilings = list(first.targets[target].ceilings)
    means = {f: _mean([t.reached(f, target) for t in group]) for f in first.floor}
    known = {f: own["mean"] for f, own in means.items() if own["mean"] is not None}
    best = max(known, key=lambda f: known[f]) if known else None
    for name in [*first.scores, *ceilings]:
        role: Role = "ceiling" if name in ceilings else "floor" if name in first.floor else "reward"
        counted = [t.counted(target) for t in group]
        defined = [_defined(t.score(name, target)) for t in group]
        difference = None
        if role == "reward" and best is not None:
            difference = _mean([t.difference(name, best, target) for t in group])
        yield {
            "score": name,
            "role": role,
            **_mean([t.reached(name, target) for t in group]),
            "n": sum(int(c.sum()) for c in counted),
            "undefined": sum(int((c & ~d).sum()) for c, d in zip(counted, defined, strict=True)),
            "sets": len(group),
            "floor": best if difference else None,
            "difference": difference,
        }


def _mean(values: Sequence[tuple[float, np.ndarray]]) -> dict[str, float | None]:
    """Mean over sets and its interval; None where it is undefined in one of them."""
    mean = float(np.mean([value for value, _ in values]))
    draws = np.mean([own for _, own in values], axis=0)
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
    """All ordered pairs (i, j), i != j, of rationales of one question."""
    order = np.argsort(question_N, kind="stable")
    starts = np.flatnonzero(np.diff(question_N[order])) + 1
    groups = np.split(order, starts)
    i = np.concatenate([np.repeat(own, len(own)) for own in groups])
    j = np.concatenate([np.tile(own, len(own)) for own in groups])
    return i[i != j], j[i != j]


def in_pairs(target: Target, question_N: np.ndarray) -> np.ndarray:
    """Whether a rationale has another one to be compared with, (N,)."""
    better, worse = target.better_N, target.worse_N
    if not target.within:
        above, below = better.sum() - better, worse.sum() - worse
        return (better * below > 0) | (worse * above > 0)
    i, j = same_question_pairs(question_N)
    paired = better[i] * worse[j] > 0
    found = np.zeros(len(better), dtype=bool)
    found[i[paired]] = found[j[paired]] = True
    return found


def _within(up, down, better, worse, question, counts_SQ):
    """Weighted wins and pairs inside questions, (S,) each."""
    i, j = same_question_pairs(question)
    weight = better[i] * worse[j]
    n = counts_SQ.shape[1]
    wins_Q = np.bincount(question[i], weight * _beats(up[i], down[j]), n)
    pairs_Q = np.bincount(question[i], weight, n)
    both = counts_SQ.astype(np.float64) @ np.stack([wins_Q, pairs_Q], axis=1)
    return both[:, 0], both[:, 1]


def _over_all(up, down, better, worse, question, counts_SQ):
    """Weighted wins and pairs over all rationales, (S,) each, less those with themselves.

    For each rationale on the better side, the weight below its score is read off the running sum
    over the sorted worse side, halfway through its ties.
    """
    n = counts_SQ.shape[1]
    own = better * worse
    own_QW = np.stack(
        [np.bincount(question, own * _beats(up, down), n), np.bincount(question, own, n)], axis=1
    )
    ups, downs = np.flatnonzero(better), np.flatnonzero(worse)
    downs = downs[np.argsort(down[downs], kind="stable")]
    first, last = (np.searchsorted(down[downs], up[ups], side) for side in ("left", "right"))
    sums = []
    rows = max(1, _CELLS // max(1, len(question)))
    for start in range(0, len(counts_SQ), rows):
        counts = counts_SQ[start : start + rows].astype(np.float64)
        weight_up = counts[:, question[ups]] * better[ups]
        weight_down = counts[:, question[downs]] * worse[downs]
        below = np.pad(weight_down.cumsum(axis=1), ((0, 0), (1, 0)))
        wins = (weight_up * (below[:, first] + below[:, last])).sum(axis=1) / 2
        pairs = weight_up.sum(axis=1) * below[:, -1]
        sums.append(np.stack([wins, pairs], axis=1) - counts**2 @ own_QW)
    both = np.concatenate(sums)
    return both[:, 0], both[:, 1]
