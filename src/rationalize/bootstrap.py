"""The percentile bootstrap of a mean over questions. numpy only."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

CELLS = 1 << 22
"""Resampled values held in memory at a time."""


@lru_cache(maxsize=2)
def resample_counts(n: int, samples: int, seed: int) -> np.ndarray:
    """How often each resample holds each question, (samples, n).

    Cached, since all metrics of a split share their draws.
    """
    rng = np.random.default_rng(seed)
    rows = max(1, CELLS // n)
    chunks = []
    for start in range(0, samples, rows):
        count = min(rows, samples - start)
        # one bincount for all rows of the chunk: row i counts in the bins from i * n
        drawn = rng.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n)
        chunks.append(counts.astype(np.uint8))
    return np.concatenate(chunks)


def bootstrap_means(values_Q: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means of `samples` draws of Q questions with replacement, (samples,)."""
    counts = resample_counts(len(values_Q), samples, seed)
    rows = max(1, CELLS // len(values_Q))
    chunks = [counts[i : i + rows].astype(np.float64) @ values_Q for i in range(0, samples, rows)]
    return np.concatenate(chunks) / len(values_Q)


def percentiles(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Both ends of the percentile interval of resampled means (samples,)."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
