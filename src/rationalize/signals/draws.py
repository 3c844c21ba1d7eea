"""Which rows a training step draws: pure functions of (seed, step), repeated by a resumed run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def shuffled_passes(n: int, batch_size: int, step: int, seed: int | Sequence[int]) -> list[int]:
    """Indices of batch `step` in endless shuffled passes over `n` rows; a batch can span passes."""
    if n < 1:
        raise ValueError("nothing to draw from: the pool is empty")
    batch: list[int] = []
    position = step * batch_size
    # each pass has a permutation of its own; take from it until the batch is full
    while len(batch) < batch_size:
        epoch, offset = divmod(position, n)
        order = np.random.default_rng([*_seeds(seed), epoch]).permutation(n)
        take = order[offset : offset + batch_size - len(batch)]
        batch.extend(take.tolist())
        position += len(take)
    return batch


def shuffled_parts(n: int, parts: int, seed: int | Sequence[int]) -> list[list[int]]:
    """One shuffled pass over `n` rows, cut into parts whose sizes differ by at most one."""
    order = np.random.default_rng(_seeds(seed)).permutation(n)
    return [part.tolist() for part in np.array_split(order, parts)]


def balanced_bins(
    bins: Mapping[str, np.ndarray], batch_size: int, step: int, seed: int | Sequence[int]
) -> list[int]:
    """Indices of batch `step`: per row a uniform reward, then a uniform non-empty bin of it, then a
    uniform row of that bin.

    Uniform draws over the pool hardly ever train a bin with 3 % of it, as ties and by-value rewards
    make them. `bins` maps each reward to the bins (N,) of the rows.
    """
    rng = np.random.default_rng([*_seeds(seed), step])
    names = sorted(bins)
    batch = []
    for _ in range(batch_size):
        bins_N = bins[names[rng.integers(len(names))]]
        non_empty = np.unique(bins_N)
        members = np.flatnonzero(bins_N == non_empty[rng.integers(len(non_empty))])
        batch.append(int(members[rng.integers(len(members))]))
    return batch


def apportion(shares: Mapping[str, float], size: int) -> dict[str, int]:
    """`size` places divided by shares, largest remainder first; a positive share gets at least one.

    >>> apportion({"rationale": 0.5, "refine": 0.4, "answer": 0.1}, 4)
    {'rationale': 2, 'refine': 1, 'answer': 1}
    """
    wanted = {name: share for name, share in shares.items() if share > 0}
    if not wanted or size < len(wanted):
        raise ValueError(f"{size} places for {len(wanted)} shares; expected one for each at least")
    total = sum(wanted.values())
    exact = {name: share / total * size for name, share in wanted.items()}
    # round down, then correct one place at a time where the error is largest
    counts = {name: max(1, int(x)) for name, x in exact.items()}
    while (left := size - sum(counts.values())) != 0:
        step = 1 if left > 0 else -1
        name = max(
            (n for n in counts if counts[n] + step >= 1),
            key=lambda n: step * (exact[n] - counts[n]),
        )
        counts[name] += step
    return counts


def _seeds(seed: int | Sequence[int]) -> list[int]:
    return [seed] if isinstance(seed, int) else list(seed)
