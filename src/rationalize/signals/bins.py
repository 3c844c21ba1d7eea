"""Quantisation of rewards into control bins; bin 0 is best.

Quark (arXiv 2205.13636) sorts the whole pool by score and cuts it into K equal parts; MaRio (arXiv
2311.02805) does so for each reward by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Ties = Literal["together", "released"]


def rank_bins(
    scores_N: Sequence[float] | np.ndarray, k: int, ties: Ties = "together"
) -> np.ndarray:
    """Bin of each score by its rank over all N, descending.

    `together`: equal scores share the bin `floor(k * rank of their first / N)`; some stay empty.
    `released`: stable order, `N // k` scores a bin, the remainder in the worst bin; ties are split
    by position and with `N < k` every score gets the worst bin, as in the released Quark and MaRio
    code.
    """
    scores = np.asarray(scores_N, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"scores must be one-dimensional, found shape {scores.shape}")
    if k < 1:
        raise ValueError(f"the number of bins must be at least 1, found {k}")
    if np.isnan(scores).any():
        raise ValueError(
            "scores hold NaN; replace an undefined score by the worst value of its range"
        )
    n = len(scores)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    if ties == "together":
        ascending = np.sort(-scores)
        first_rank = np.searchsorted(ascending, -scores, side="left")
        return (k * first_rank) // n
    order = np.argsort(-scores, kind="stable")
    bins = np.full(n, k - 1, dtype=np.int64)
    size = n // k
    if size:
        bins[order] = np.minimum(np.arange(n) // size, k - 1)
    return bins


def value_bins(scores_N: Sequence[float] | np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Bin of each score by its value; `levels` lists the discrete values, best first."""
    scores = np.asarray(scores_N, dtype=np.float64)
    match = scores[:, None] == np.asarray(levels, dtype=np.float64)[None, :]
    if not match.any(axis=1).all():
        stray = sorted(set(scores[~match.any(axis=1)].tolist()))[:3]
        raise ValueError(f"scores {stray} are none of the declared levels {list(levels)}")
    return match.argmax(axis=1)


def bin_counts(bins_N: np.ndarray, k: int) -> list[int]:
    """How many attempts each bin holds; an empty bin cannot be learned, nor asked for."""
    return np.bincount(bins_N, minlength=k).tolist()
