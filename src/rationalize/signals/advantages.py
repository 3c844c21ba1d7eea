"""Advantages of attempts against the others at the same question: GRPO's, and GDPO's.

    GRPO   R = sum_k w_k r_k;                    A = (R - mean R) / (std R + eps)
    GDPO   A_k = (r_k - mean r_k) / (std r_k + eps);   S = sum_k w_k A_k;
           A = (S - mean over all S) / (std over all S + eps)

Means and deviations are over the attempts at one question, GDPO's last ones over all attempts
(GRPO: arXiv 2402.03300, section 4.1; GDPO: arXiv 2601.05242). Deviations are unbiased.

A sum of rewards forgets which of them were won: with two binary rewards and two attempts, winning
one and winning both give GRPO's attempt the same advantage. GDPO tells them apart.

Axes: `P` questions, `G` attempts at each. Scores are (P, G) per reward, without NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

Scores = Mapping[str, np.ndarray]
"""Reward -> scores (P, G)."""
Scale = Literal["group", "batch", "none"]
"""Whose standard deviation GRPO divides by: the question's attempts, all attempts, or none (Dr.
GRPO, arXiv 2503.20783).
"""

EPSILON = 1e-4
"""Added to every standard deviation; TRL's."""
_EQUAL = 1e-8
"""Scores that differ by no more are equal."""


def grpo_advantages(
    scores: Scores, weights: Mapping[str, float], *, scale: Scale = "group", eps: float = EPSILON
) -> np.ndarray:
    """GRPO's advantages (P, G): the weighted sum of the rewards, normalised within each question.

    A reward that `weights` does not name weighs 1. Raises `ValueError` for NaN, and for scores that
    are not (P, G) with at least two attempts each.

    >>> grpo_advantages({"right": np.array([[0.0, 1.0]])}, {}, eps=0.0).round(5).tolist()
    [[-0.70711, 0.70711]]
    """
    sums_PG = _weighted_sum(_checked(scores), weights)
    if scale == "group":
        return _normalised(sums_PG, eps)
    centred_PG = sums_PG - sums_PG.mean(axis=1, keepdims=True)
    return centred_PG / (sums_PG.std(ddof=1) + eps) if scale == "batch" else centred_PG


def gdpo_advantages(
    scores: Scores, weights: Mapping[str, float], *, eps: float = EPSILON
) -> np.ndarray:
    """GDPO's advantages (P, G): each reward normalised within each question by itself, then their
    weighted sum over all attempts, so that its size does not grow with the number of rewards.

    Weights and errors are as in `grpo_advantages`.
    """
    sums_PG = summed_advantages(scores, weights, eps=eps)
    if not np.ptp(sums_PG) > _EQUAL:
        return np.zeros_like(sums_PG)
    return (sums_PG - sums_PG.mean()) / (sums_PG.std(ddof=1) + eps)


def summed_advantages(
    scores: Scores, weights: Mapping[str, float], *, eps: float = EPSILON
) -> np.ndarray:
    """GDPO's sum (P, G) of advantages per reward, before it is normalised over all attempts."""
    advantages = {name: _normalised(r_PG, eps) for name, r_PG in _checked(scores).items()}
    return _weighted_sum(advantages, weights)


def conditioned(
    scores: Scores, conditions: Mapping[str, Mapping[str, float]],
    worst: Mapping[str, float] | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Scores in which an easy reward counts only where the harder ones are met.

    `conditions` maps an easy reward to thresholds of harder ones. Where one of these is below its
    threshold, the easy reward's score becomes its `worst` (0 where that names none). Thresholds
    are compared with scores as they were given, not with conditioned ones.

    >>> scores = {"short": np.array([[1.0, 0.8]]), "right": np.array([[0.0, 1.0]])}
    >>> conditioned(scores, {"short": {"right": 1.0}})["short"].tolist()
    [[0.0, 0.8]]
    """
    floors, counted = worst or {}, dict(scores)
    for easy, thresholds in conditions.items():
        met_PG = np.ones(scores[easy].shape, dtype=bool)
        for hard, least in thresholds.items():
            met_PG &= scores[hard] >= least
        counted[easy] = np.where(met_PG, scores[easy], floors.get(easy, 0.0))
    return counted


def spreads(scores_PG: np.ndarray) -> np.ndarray:
    """Mask (P,) of the questions whose attempts do not all have the same score."""
    return np.ptp(scores_PG, axis=1) > _EQUAL


def _normalised(scores_PG: np.ndarray, eps: float) -> np.ndarray:
    """`(r - mean) / (std + eps)` within each question; 0 where it has no spread."""
    spread_P1 = spreads(scores_PG)[:, None]
    centred_PG = scores_PG - scores_PG.mean(axis=1, keepdims=True)
    std_P1 = scores_PG.std(axis=1, ddof=1, keepdims=True)
    return np.where(spread_P1, centred_PG / np.where(spread_P1, std_P1 + eps, 1.0), 0.0)


def _weighted_sum(parts: Scores, weights: Mapping[str, float]) -> np.ndarray:
    return np.sum([weights.get(name, 1.0) * part_PG for name, part_PG in parts.items()], axis=0)


def _checked(scores: Scores) -> dict[str, np.ndarray]:
    """The scores as float64 arrays of one shape."""
    arrays = {name: np.asarray(scores_PG, np.float64) for name, scores_PG in scores.items()}
    shapes = {array.shape for array in arrays.values()}
    if len(shapes) != 1 or len(shape := shapes.pop()) != 2 or shape[1] < 2:
        found = {name: array.shape for name, array in arrays.items()}
        raise ValueError(
            f"scores have the shapes {found}; expected (questions, attempts), the same for every "
            "reward, with at least 2 attempts"
        )
    if any(np.isnan(array).any() for array in arrays.values()):
        raise ValueError(
            "scores contain NaN; replace an undefined score by the worst value of its range"
        )
    return arrays
