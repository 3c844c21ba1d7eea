"""COALITION's preference pairs from utilities, and its partition of the questions among variants.

A pair is the best candidate against the worst. With the filter on, the best must be strictly above
the reference (no rationale, or the unrefined one) and the worst (arXiv 2503.02463;
docs/methods/coalition.md, step 4).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Why = Literal["identical", "tie", "below the reference"]
"""Why there is no pair."""


class Preference(NamedTuple):
    """Indices of two candidates."""

    chosen: int
    rejected: int


def prefer(
    utilities_N: Sequence[float], reference: float, texts_N: Sequence[str], *,
    filtered: bool = True, margin: float = 0.0,
) -> Preference | Why:  # fmt: skip
    """The best and the worst candidate, or why there is no pair. With the filter, the best must be
    above the reference and the worst by more than `margin`.

    The first of equal ones is the best, the last of equal ones the worst: without the filter, a tie
    of two candidates is won by candidate 0, as in the released code. Identical texts are no pair.
    Raises `ValueError` for NaN and for fewer than two candidates.

    >>> prefer([0.72, 0.69], 0.70, ["a", "b"])
    Preference(chosen=0, rejected=1)
    >>> prefer([0.72, 0.69], 0.73, ["a", "b"])
    'below the reference'
    """
    utilities = np.asarray(utilities_N, dtype=np.float64)
    if len(utilities) != len(texts_N) or len(utilities) < 2:
        raise ValueError(
            f"{len(utilities)} utilities of {len(texts_N)} texts; expected as many, and at least 2"
        )
    if np.isnan(utilities).any() or np.isnan(reference):
        raise ValueError("a utility is NaN; give every candidate a number")
    # argmax takes the first of equal ones; argmin of the reversed array takes the last
    chosen = int(utilities.argmax())
    rejected = int(len(utilities) - 1 - utilities[::-1].argmin())
    if texts_N[chosen] == texts_N[rejected]:
        return "identical"
    if filtered and not utilities[chosen] - utilities[rejected] > margin:
        return "tie"
    if filtered and not utilities[chosen] - reference > margin:
        return "below the reference"
    return Preference(chosen, rejected)


def partition(n: int, parts: int) -> list[range]:
    """`n` items in `parts` consecutive ranges whose sizes differ by at most one.

    Part i ends before `floor(n * (i + 1) / parts)`, as the released code does: its quarters of
    GSM8K's 7,473 questions end at 1868, 3736, 5604, 7473.
    """
    ends = [n * i // parts for i in range(parts + 1)]
    return [range(a, b) for a, b in itertools.pairwise(ends)]
