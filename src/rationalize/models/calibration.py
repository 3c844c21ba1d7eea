"""Temperature scaling: one scalar that calibrates a scorer's probabilities."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TEMPERATURES = np.geomspace(0.02, 20.0, 241)
"""The grid that is searched. A few held-out answers do not justify a finer one."""


def at_the_edge(temperature: float) -> bool:
    """Whether a temperature is the grid's highest: the logits say nothing of the answer, so that
    the flattest distribution fits held-out answers best.
    """
    return temperature >= TEMPERATURES[-1]


def fit_temperature(logits: Sequence[Sequence[float]], gold: Sequence[int]) -> float:
    """The temperature that minimises `-mean log softmax(logits / T)[gold]`; 1 for no rows.

    Rows may differ in length: one logit per choice.
    """
    if not logits:
        return 1.0
    losses = np.zeros(len(TEMPERATURES))
    # label smoothing, worth half an answer in total: without it, T goes to the end of the grid if
    # every row is right
    smoothing = 0.5 / len(logits)
    for row, gold_index in zip(logits, gold, strict=True):
        scaled = np.asarray(row)[None, :] / TEMPERATURES[:, None]  # (T, C)
        log_p = scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)  # (T, C)
        losses -= (1 - smoothing) * log_p[:, gold_index] + smoothing * log_p.mean(1)
    return float(TEMPERATURES[losses.argmin()])
