"""Quantise rewards into control bins; bin 0 is best.

Quark (arXiv 2205.13636) sorts the whole pool by score and cuts it into K quantiles; MaRio (arXiv
2311.02805) does so for each reward separately.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Ties = Literal["together", "released"]


def rank_bins(
    scores_N: Sequence[float] | np.ndarray, k: int, ties: Ties = "together"
) -> np.ndarray:
    """Bin (N,) of each score by its rank among all N, highest score first.

    `together`: tied scores share the bin `floor(k * rank / N)` of the first of them; a bin can be
    empty. `released`: `N // k` scores per bin, the remainder in the worst bin. Ties are split by
    position, and with `N < k` every score is in the worst bin, as in the released code of Quark and
    MaRio. Raises `ValueError` for NaN.
    """
    scores = np.asarray(scores_N, dtype=np.float64)
    if scores.ndim != 1:
        raise ValueError(f"scores must be one-dimensional, found shape {scores.shape}")
    if k < 1:
        raise ValueError(f"the number of bins must be at least 1, found {k}")
    if np.isnan(scores).any():
        raise ValueError(
            "scores contain NaN; replace an undefined score by the worst value of its range"
        )
    n = len(scores)
    if n == 0:
        return np.zeros(0, dtype=np.int64)
    if ties == "together":
        # side="left": tied scores get the rank of the first of them
        first_rank_N = np.searchsorted(np.sort(-scores), -scores, side="left")
        return (k * first_rank_N) // n
    # released: by position in the stable order, so ties can cross a boundary
    order = np.argsort(-scores, kind="stable")
    bins = np.full(n, k - 1, dtype=np.int64)
    size = n // k
    if size:
        bins[order] = np.minimum(np.arange(n) // size, k - 1)
    return bins


def value_bins(scores_N: Sequence[float] | np.ndarray, levels: Sequence[float]) -> np.ndarray:
    """Bin (N,) of each score by its value; `levels` lists the discrete values, best first.

    Raises `ValueError` for a score that is not among them.
    """
    scores = np.asarray(scores_N, dtype=np.float64)
    match = scores[:, None] == np.asarray(levels, dtype=np.float64)[None, :]  # (N, levels)
    if not match.any(axis=1).all():
        unknown = sorted(set(scores[~match.any(axis=1)].tolist()))[:3]
        raise ValueError(f"scores {unknown} are not among the declared levels {list(levels)}")
    return match.argmax(axis=1)
