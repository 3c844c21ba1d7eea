"""How much of a reward's variance lies between questions, and how much within them."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np


def intraclass_correlation(
    scores_N: Sequence[float] | np.ndarray, groups_N: Sequence[Hashable]
) -> float | None:
    """ICC(1) of scores in groups: the share of their variance that lies between the groups
    (Shrout and Fleiss 1979; groups of unequal size as in Donner 1986).

    Near 1, a bin of the pool says which question an attempt is at, not how good it is for it. Can
    be below 0 where attempts at one question differ more than those at others. None where no group
    has two scores, where there is one group, or without any variance.

    >>> intraclass_correlation([1.0, 1.0, 0.0, 0.0], ["a", "a", "b", "b"])
    1.0
    """
    scores = np.asarray(scores_N, dtype=np.float64)
    _, group_N = np.unique([str(g) for g in groups_N], return_inverse=True)
    sizes = np.bincount(group_N)
    n, k = len(scores), len(sizes)
    if k < 2 or n == k:
        return None
    means = np.bincount(group_N, scores) / sizes
    between = (sizes * (means - scores.mean()) ** 2).sum() / (k - 1)
    within = ((scores - means[group_N]) ** 2).sum() / (n - k)
    size = (n - (sizes**2).sum() / n) / (k - 1)  # the groups' effective size
    total = between + (size - 1) * within
    return float((between - within) / total) if total > 0 else None


def centred_within(
    scores_N: Sequence[float] | np.ndarray, groups_N: Sequence[Hashable]
) -> np.ndarray:
    """Each score minus the mean of its group: how an attempt stands among those at its question.

    Rounded, so that equal scores stay equal: else what is left of a mean would order them.

    >>> centred_within([0.6, 0.6, 0.6, 0.1, 0.3], "aaabb").tolist()
    [0.0, 0.0, 0.0, -0.1, 0.1]
    """
    scores = np.asarray(scores_N, dtype=np.float64)
    _, group_N = np.unique([str(g) for g in groups_N], return_inverse=True)
    centred = scores - (np.bincount(group_N, scores) / np.bincount(group_N))[group_N]
    return np.round(centred, 9) + 0.0  # no -0
