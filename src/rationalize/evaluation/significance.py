"""Tests beside the intervals: McNemar's for right and wrong answers, Holm's correction for several
comparisons.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

EXACT = 1000
"""Discordant questions up to which McNemar's test is exact."""


@dataclass(frozen=True)
class McNemar:
    """McNemar's test of methods a and b on the same questions."""

    only_a: int
    """Questions that only a answered right."""
    only_b: int
    p: float


def mcnemar(a: Mapping[str, float], b: Mapping[str, float]) -> McNemar | None:
    """McNemar's test of two methods by question; both must hold the same ids.

    None where a value is neither 0 nor 1 (several seeds or samples that disagree): the test is for
    right and wrong only.
    """
    if not {*a.values(), *b.values()} <= {0.0, 1.0}:
        return None
    only_a = sum(a[q] > b[q] for q in a)
    only_b = sum(a[q] < b[q] for q in a)
    return McNemar(only_a, only_b, mcnemar_p(only_a, only_b))


def mcnemar_p(only_a: int, only_b: int) -> float:
    """Two-sided p of the hypothesis that a question which only one method answers right is equally
    often a's and b's.

    With n = only_a + only_b up to `EXACT`: `min(1, 2 P(X <= min(only_a, only_b)))` for X ~
    Binomial(n, 1/2). Beyond, the normal approximation with continuity correction,
    `z = (|only_a - only_b| - 1) / sqrt(n)` (McNemar 1947, Edwards 1948).

    >>> mcnemar_p(1, 5)
    0.21875
    """
    n = only_a + only_b
    if n <= EXACT:
        as_few = sum(math.comb(n, k) for k in range(min(only_a, only_b) + 1))
        return min(1.0, 2 * as_few / 2**n)
    z = (abs(only_a - only_b) - 1) / math.sqrt(n)
    return min(1.0, math.erfc(z / math.sqrt(2)))


def seeds_p(differences_S: Sequence[float]) -> float | None:
    """Two-sided p of Student's t-test that the mean difference over training seeds is 0: the seed,
    not the question, is the unit. None for fewer than two seeds, and where all seeds have the same
    difference, which is not 0: then the test has no spread to measure it by.

    The t distribution has a closed form for whole degrees of freedom (Abramowitz and Stegun 1964,
    26.7.3 and 26.7.4).

    >>> round(seeds_p([7.3, 3.4, 18.1]), 3)
    0.161
    """
    n = len(differences_S)
    if n < 2:
        return None
    mean = sum(differences_S) / n
    deviation = math.sqrt(sum((d - mean) ** 2 for d in differences_S) / (n - 1))
    if deviation <= 1e-12 * abs(mean):
        return 1.0 if mean == 0 else None
    free = n - 1
    angle = math.atan2(abs(mean) * math.sqrt(n), deviation * math.sqrt(free))
    # the sum of 1, c², c⁴·3/4, .. (even), or of c, c³·2/3, .. (odd degrees of freedom)
    cosine, total, term = math.cos(angle), 0.0, 1.0 if free % 2 == 0 else math.cos(angle)
    for k in range(2 if free % 2 == 0 else 3, free + 1, 2):
        total += term
        term *= cosine**2 * (k - 1) / k
    if free % 2 == 0:
        return max(0.0, 1.0 - math.sin(angle) * total)
    return max(0.0, 1.0 - 2 / math.pi * (angle + math.sin(angle) * total))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p-values, in the order given (Holm 1979).

    The i-th smallest of m, counted from 0, is multiplied by m - i; the result is at least the
    adjusted value before it and at most 1. Where those under .05 are called significant, the chance
    of any false positive is at most 5 %.

    >>> holm([0.25, 0.03125, 0.0625])
    [0.25, 0.09375, 0.125]
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for i, at in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[at]))
        adjusted[at] = largest
    return adjusted
