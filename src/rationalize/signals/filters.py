"""Masks of the attempts that a learner may use."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence

import numpy as np


def keep_above(
    scores: Mapping[str, Sequence[float | None] | np.ndarray],
    thresholds: Mapping[str, float],
    n: int,
) -> np.ndarray:
    """Mask (n,) of the attempts with `score >= threshold` for every reward in `thresholds`; None,
    an undefined score, reaches no threshold.
    """
    keep = np.ones(n, dtype=bool)
    for name, threshold in thresholds.items():
        keep &= np.asarray(scores[name], dtype=np.float64) >= threshold  # None is NaN
    return keep


def first_of_each(keys: Sequence[Hashable]) -> np.ndarray:
    """Mask (N,) of the first attempt of every key, e.g. `(question_id, completion)`."""
    first: dict[Hashable, int] = {}
    for i, key in enumerate(keys):
        first.setdefault(key, i)
    return np.array([first[key] == i for i, key in enumerate(keys)], dtype=bool)
