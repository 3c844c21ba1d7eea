"""Temperature: one scalar that makes a scorer's probabilities mean what they say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TEMPERATURES = np.geomspace(0.02, 20.0, 241)
"""The grid that is searched; a handful of held-out answers says no more."""


def fit_temperature(logits: Sequence[Sequence[float]], gold: Sequence[int]) -> float:
    """The T with the least `-mean log softmax(logits / T)[gold]`; rows may differ in length.

    Returns 1 for no rows. A uniform prior worth one answer keeps T finite when all rows are right.
    """
    if not logits:
        return 1.0
    losses = np.zeros(len(TEMPERATURES))
    smoothing = 0.5 / len(logits)
    for row, right in zip(logits, gold, strict=True):
        scaled = np.asarray(row)[None, :] / TEMPERATURES[:, None]  # (T, C)
        log_p = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)
        losses -= (1 - smoothing) * log_p[:, right] + smoothing * log_p.mean(1)
    return float(TEMPERATURES[losses.argmin()])
