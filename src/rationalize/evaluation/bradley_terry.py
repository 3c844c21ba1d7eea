"""The Bradley-Terry model: strengths of methods from who was preferred to whom.

    P(i is preferred to j) = 1 / (1 + exp(s_j - s_i))

(Bradley and Terry 1952), fitted by Hunter's MM algorithm (2004, Annals of Statistics 32:1). A tie
is half a win for each.
"""

from __future__ import annotations

import numpy as np

HALF = 0.5
"""Wins that each side of every compared pair is given beforehand: a method that never lost keeps a
finite strength (Haldane 1956).
"""


def bradley_terry(
    wins_SKK: np.ndarray, *, steps: int = 2000, tolerance: float = 1e-10
) -> np.ndarray:
    """Strengths s of K methods in each of S tables, (S, K), of mean 0: natural logarithms of odds.

    `wins_SKK[s, i, j]` is how often i was preferred to j, ties as halves. Methods must be connected
    by comparisons, and none may have won or lost all of its comparisons (see `HALF`): its strength
    has no finite value, and the last step's is returned.

    >>> bradley_terry(np.array([[[0.0, 3.0], [1.0, 0.0]]])).round(4)  # log(3 / 1) apart
    array([[ 0.5493, -0.5493]])
    """
    games_SKK = wins_SKK + wins_SKK.swapaxes(1, 2)
    won_SK = np.maximum(wins_SKK.sum(axis=2), 1e-12)
    odds_SK = np.ones(won_SK.shape)
    moving = np.arange(len(odds_SK))  # tables that have not converged
    for _ in range(steps):
        odds = odds_SK[moving]
        both = odds[:, :, None] + odds[:, None, :]
        fitted = won_SK[moving] / np.maximum((games_SKK[moving] / both).sum(axis=2), 1e-12)
        fitted /= np.exp(np.log(fitted).mean(axis=1, keepdims=True))
        odds_SK[moving] = fitted
        moving = moving[np.abs(np.log(fitted / odds)).max(axis=1) > tolerance]
        if not len(moving):
            break
    return np.log(odds_SK)


def with_halves(wins_SKK: np.ndarray) -> np.ndarray:
    """The wins with `HALF` for each side of every pair that was compared in the table."""
    compared = (wins_SKK + wins_SKK.swapaxes(1, 2)) > 0
    return wins_SKK + HALF * compared
