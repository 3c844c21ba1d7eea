"""Krippendorff's alpha: agreement of any number of annotators, some of whom left units out.

    alpha = 1 - D_o / D_e

(Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability"), where D_o is the disagreement
within units and D_e the one expected of the same values in random units: 1 is perfect agreement, 0
is chance. Disagreement of two categories is 1 (nominal) or grows with the values between them
(ordinal).
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from rationalize.bootstrap import percentiles, resample_counts

Level = Literal["nominal", "ordinal"]
MISSING = -1
"""Value of a unit that an annotator left out."""


def coincidences(values_AU: np.ndarray, categories: int) -> np.ndarray:
    """How often two annotators gave categories c and k to a unit, (U, K, K): each unit's pairs of
    values, divided by one less than its number of values. 0 for a unit with fewer than two values.
    """
    values = np.asarray(values_AU)
    counts_UK = np.stack([(values == k).sum(axis=0) for k in range(categories)], axis=1)
    pairs_UKK = counts_UK[:, :, None] * counts_UK[:, None, :].astype(np.float64)
    pairs_UKK -= counts_UK[:, :, None] * np.eye(categories)  # no value is paired with itself
    others_U = counts_UK.sum(axis=1) - 1
    return pairs_UKK * (others_U > 0)[:, None, None] / np.maximum(others_U, 1)[:, None, None]


def alpha_of(coincidences_SKK: np.ndarray, level: Level = "nominal") -> np.ndarray:
    """Alpha of S matrices of coincidences, (S,); NaN where all values are of one category."""
    n_SK = coincidences_SKK.sum(axis=2)
    n_S = n_SK.sum(axis=1)
    difference_SKK = _difference(n_SK, level)
    observed_S = (coincidences_SKK * difference_SKK).sum(axis=(1, 2))
    expected_S = (n_SK[:, :, None] * n_SK[:, None, :] * difference_SKK).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected_S > 0, 1 - (n_S - 1) * observed_S / expected_S, np.nan)


def alpha(values_AU: np.ndarray, categories: int, level: Level = "nominal") -> float:
    """Alpha of the values that A annotators gave to U units: 0 to `categories` - 1, or `MISSING`.

    NaN where no unit has two values, or where all values are of one category.

    >>> round(alpha(np.array([[0, 1, 0, 1], [0, 1, 1, 1]]), 2), 3)  # o_01 = 1, n = (3, 5)
    0.533
    """
    return float(alpha_of(coincidences(values_AU, categories).sum(axis=0)[None], level)[0])


def alpha_interval(
    values_AU: np.ndarray, question_U: np.ndarray, categories: int, level: Level = "nominal", *,
    samples: int = 2000, seed: int = 0,
) -> tuple[float, float]:  # fmt: skip
    """95 % percentile bootstrap interval of alpha over questions; `question_U`: each unit's, from
    0. NaN where no resample has an alpha. Annotators are not drawn: copies of one would agree with
    themselves.
    """
    each_UKK = coincidences(values_AU, categories)
    counts_SU = resample_counts(int(question_U.max()) + 1, samples, seed)[:, question_U]
    flat = counts_SU.astype(np.float64) @ each_UKK.reshape(len(each_UKK), -1)
    draws = alpha_of(flat.reshape(-1, categories, categories), level)
    draws = draws[np.isfinite(draws)]
    return percentiles(draws) if len(draws) else (float("nan"), float("nan"))


def _difference(n_SK: np.ndarray, level: Level) -> np.ndarray:
    """Squared difference of every two categories, (S, K, K)."""
    samples, categories = n_SK.shape
    if level == "nominal":
        return np.broadcast_to(1.0 - np.eye(categories), (samples, categories, categories))
    # ordinal: the values from the middle of one category to the middle of the other
    middle_SK = n_SK.cumsum(axis=1) - n_SK / 2
    return (middle_SK[:, :, None] - middle_SK[:, None, :]) ** 2
