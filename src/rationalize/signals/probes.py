"""What a linear score of given features could order: Bradley-Terry on frozen features.

    minimise over w:  mean over questions of mean over pairs of -log sigmoid(w (x_i - x_j))
                      + ridge / 2 |w|^2

Each question is ordered by a probe that was fitted to the others, in folds.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FOLDS = 5
RIDGE = 0.1
"""On features of deviation 1 over all attempts, divided by the square root of their number."""
STEPS = 12
"""Newton steps; the loss is convex and smooth."""


def cross_fitted_margins(
    differences_Q: Sequence[np.ndarray], groups: Sequence[Sequence[int]] | None = None, *,
    folds: int = FOLDS, ridge: float = RIDGE, seed: int = 0,
) -> list[np.ndarray]:  # fmt: skip
    """Per question the margins (P,) of its pairs under a probe that saw none of them.

    `differences_Q`: per question the features of the better attempt less those of the worse one,
    (P, d) for its pairs. `groups`: positions of questions that ask the same, which fall in one fold
    (each by itself). Raises ValueError for fewer than two groups.
    """
    groups = groups or [[q] for q in range(len(differences_Q))]
    count = len(groups)
    if count < 2:
        raise ValueError(f"{count} questions; expected 2 at least, to fit on one and order another")
    order = np.random.default_rng(seed).permutation(count) % min(folds, count)
    fold_Q = np.zeros(len(differences_Q), dtype=int)
    for group, fold in zip(groups, order, strict=True):
        fold_Q[list(group)] = fold
    margins: list[np.ndarray] = [np.zeros(0)] * len(differences_Q)
    for fold in range(fold_Q.max() + 1):
        w_d = bradley_terry_probe(
            [differences_Q[q] for q in np.flatnonzero(fold_Q != fold).tolist()], ridge
        )
        for q in np.flatnonzero(fold_Q == fold).tolist():
            margins[q] = differences_Q[q] @ w_d
    return margins


def bradley_terry_probe(differences_Q: Sequence[np.ndarray], ridge: float = RIDGE) -> np.ndarray:
    """The weights (d,) that minimise the loss above, by Newton's method."""
    x_Pd = np.concatenate(differences_Q).astype(np.float64)
    # a question counts once, however many pairs it has
    weight_P = np.concatenate([np.full(len(x), 1 / len(x)) for x in differences_Q])
    weight_P /= len(differences_Q)
    w_d = np.zeros(x_Pd.shape[1])
    for _ in range(STEPS):
        missing_P = 1 / (1 + np.exp(np.clip(x_Pd @ w_d, -30, 30)))  # 1 - sigmoid(margin)
        gradient_d = -(x_Pd.T @ (weight_P * missing_P)) + ridge * w_d
        curvature_P = weight_P * missing_P * (1 - missing_P)
        hessian_dd = (x_Pd * curvature_P[:, None]).T @ x_Pd + ridge * np.eye(len(w_d))
        step_d = np.linalg.solve(hessian_dd, gradient_d)
        w_d = w_d - step_d
        if np.abs(step_d).max() < 1e-8:
            break
    return w_d
