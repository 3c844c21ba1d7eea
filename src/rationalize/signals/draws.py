"""Which rows a training step draws: pure functions of (seed, step), repeated by a resumed run."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
        order = _permutation(n, (*_seeds(seed), epoch))
        take = order[offset : offset + batch_size - len(batch)]
        batch.extend(take.tolist())
        position += len(take)
    return batch


@functools.lru_cache(maxsize=16)
def _permutation(n: int, seeds: tuple[int, ...]) -> np.ndarray:
    """Made once for the steps of a pass; not to be written to."""
    return np.random.default_rng(seeds).permutation(n)


def shuffled_parts(n: int, parts: int, seed: int | Sequence[int]) -> list[list[int]]:
    """One shuffled pass over `n` rows, cut into parts whose sizes differ by at most one."""
    order = np.random.default_rng(_seeds(seed)).permutation(n)
    return [part.tolist() for part in np.array_split(order, parts)]


class BinMembers(NamedTuple):
    """The rows of each filled bin of a reward, best bin first."""

    filled: np.ndarray
    """The bins (F,)."""
    members: list[np.ndarray]
    """Of each of them the rows, ascending."""

    @classmethod
    def of(cls, bins_N: np.ndarray) -> BinMembers:
        filled, counts = np.unique(bins_N, return_counts=True)
        rows = np.argsort(bins_N, kind="stable")
        return cls(filled, np.split(rows, np.cumsum(counts)[:-1]))


def balanced_bins(
    bins: Mapping[str, np.ndarray | BinMembers], batch_size: int, step: int,
    seed: int | Sequence[int], *, over_draw: float = math.inf,
) -> list[int]:  # fmt: skip
    """Indices of batch `step`: per row a uniform reward, then a bin of it by `capped_shares`, then
    a uniform row of that bin.

    Uniform draws over the pool hardly ever train a bin with 3 % of it, as ties and by-value rewards
    make them. `bins` maps each reward to the bins (N,) of the rows, or to their `BinMembers`, made
    once for many steps.
    """
    rng = np.random.default_rng([*_seeds(seed), step])
    names = sorted(bins)
    parts: dict[str, tuple[list[np.ndarray], np.ndarray]] = {}  # reward -> rows and share of a bin
    batch = []
    for _ in range(batch_size):
        name = names[rng.integers(len(names))]
        if name not in parts:
            of_reward = bins[name]
            known = of_reward if isinstance(of_reward, BinMembers) else BinMembers.of(of_reward)
            counts = [len(rows) for rows in known.members]
            parts[name] = known.members, capped_shares(counts, over_draw)
        members, shares = parts[name]
        rows = members[rng.choice(len(shares), p=shares)]
        batch.append(int(rows[rng.integers(len(rows))]))
    return batch


def capped_shares(counts: Sequence[int] | np.ndarray, over_draw: float = math.inf) -> np.ndarray:
    """Probability (K,) of drawing each of K bins with `counts` rows: the same for all, but at most
    `over_draw` times the bin's share of the rows; what a bin may not have goes to the others.

    Without the limit, a bin of a few rows has the same weight as one of hundreds: where 2 % of the
    attempts are wrong, half of what their reward draws would be.

    >>> capped_shares([98, 2], over_draw=3).round(2).tolist()
    [0.94, 0.06]
    """
    counts = np.asarray(counts, dtype=np.float64)
    limit = np.clip(over_draw, 1.0, counts.sum()) * counts / counts.sum()
    shares = np.zeros(len(counts))
    free = counts > 0
    # fix the bins that reach their limit, and spread what is left over the others
    while free.any():
        even = (1.0 - shares.sum()) / free.sum()
        full = free & (limit < even)
        if not full.any():
            shares[free] = even
            break
        shares[full] = limit[full]
        free &= ~full
    return shares / shares.sum()


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
