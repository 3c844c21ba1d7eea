"""Intervals for votes that vary in two ways: by the question asked and by the person who answers.

The pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1:2): a resample draws as many
questions and, independently, as many annotators with replacement; a vote counts as often as its
question was drawn times its annotator was drawn. It says how a number would vary with other
questions *and* other people, and is slightly too wide rather than too narrow.
"""

from __future__ import annotations

import numpy as np

from rationalize.bootstrap import CELLS, percentiles, resample_counts
from rationalize.evaluation.intervals import Interval, rule_of_three

SAMPLES = 2000
"""Resamples per interval."""


def two_way_sums(
    columns_VC: np.ndarray, question_V: np.ndarray, annotator_V: np.ndarray, *,
    samples: int = SAMPLES, seed: int = 0,
) -> np.ndarray:  # fmt: skip
    """Sums of C columns over V votes in each of S resamples, (S, C).

    `question_V` and `annotator_V` are whose vote it is, as indices from 0. A study with one
    annotator resamples questions alone.
    """
    counts_SQ = resample_counts(int(question_V.max()) + 1, samples, seed)
    counts_SA = resample_counts(int(annotator_V.max()) + 1, samples, seed + 1)
    rows = max(1, CELLS // len(question_V))
    sums = []
    for start in range(0, samples, rows):
        part = slice(start, start + rows)
        weights = counts_SQ[part, question_V].astype(np.float64) * counts_SA[part, annotator_V]
        sums.append(weights @ columns_VC)  # (rows, C)
    return np.concatenate(sums)


def two_way_mean(
    value_V: np.ndarray, question_V: np.ndarray, annotator_V: np.ndarray, *,
    low: float = 0.0, high: float = 1.0, samples: int = SAMPLES, seed: int = 0,
) -> Interval:  # fmt: skip
    """Mean of the votes' values, which lie from `low` to `high`, and its 95 % interval; `n` counts
    questions.

    Resamples that hold none of the votes are left out. Where all values are equal, the rule of
    three widens the interval (`intervals.rule_of_three`). Raises `ValueError` without votes.
    """
    value, question, annotator = (np.asarray(v) for v in (value_V, question_V, annotator_V))
    if not len(value):
        raise ValueError("a mean over votes needs at least one vote")
    _, question = np.unique(question, return_inverse=True)  # those that were voted on
    _, annotator = np.unique(annotator, return_inverse=True)
    columns_VC = np.stack([value.astype(np.float64), np.ones(len(value))], axis=1)
    sums = two_way_sums(columns_VC, question, annotator, samples=samples, seed=seed)
    drawn = sums[:, 1] > 0
    ends = percentiles(sums[drawn, 0] / sums[drawn, 1])
    mean = float(value.mean())
    return rule_of_three(Interval(mean, *ends, int(question.max()) + 1), low, high)
