"""95 % intervals over questions, and the paired difference of two methods.

The sample is the questions, not the seeds: values of several seeds are first averaged within each
question. An interval says how the number would vary with other questions of the same kind, not with
another training seed. Results list the value of each seed beside it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from rationalize.bootstrap import CELLS, bootstrap_means, percentiles
from rationalize.errors import UserError

Values = Mapping[str, float] | Sequence[float] | Sequence[Sequence[float]] | np.ndarray
"""Per question id; or one value per question (Q,); or per seed and question (S, Q)."""


@dataclass(frozen=True)
class Interval:
    """A mean over questions and its percentile bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int
    """Questions."""


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over questions, its percentile bootstrap interval, its sign-flip p."""

    mean: float
    low: float
    high: float
    p: float
    n: int
    """Questions."""


Of = TypeVar("Of", Interval, Difference)

Bounds = tuple[float, float]
"""The least and the greatest value that a question can have; infinite where it has none."""
UNBOUNDED: Bounds = (-math.inf, math.inf)


def bootstrap_mean(
    values_Q: Values, *, bounds: Bounds = UNBOUNDED, samples: int = 10_000, seed: int = 0
) -> Interval:
    """Mean and percentile bootstrap interval, from `samples` draws of questions with replacement;
    where all values are equal, the interval of `rule_of_three` within their bounds.

    The draws are those of `scipy.stats.bootstrap(..., method="percentile")` under
    `np.random.default_rng(seed)`.
    """
    values = question_means(values_Q)
    low, high = percentiles(bootstrap_means(values, samples, seed))
    return rule_of_three(Interval(float(values.mean()), low, high, len(values)), *bounds)


def paired_difference(
    a_Q: Values, b_Q: Values, *, bounds: Bounds = UNBOUNDED, samples: int = 10_000, seed: int = 0
) -> Difference:
    """Mean of a - b on the same questions, with a paired bootstrap interval and `sign_flip_p`;
    `bounds` are those of a value of a or b, as in `bootstrap_mean`.

    Mappings are matched by question id, sequences by position. Raises `UserError` where ids differ,
    `ValueError` where lengths differ, `TypeError` for a mapping and a sequence.
    """
    if isinstance(a_Q, Mapping) != isinstance(b_Q, Mapping):
        raise TypeError("give two mappings by question id, or two sequences in the same order")
    if isinstance(a_Q, Mapping) and isinstance(b_Q, Mapping):
        same_questions(a_Q, b_Q)
        b_Q = [b_Q[q] for q in a_Q]
    a, b = question_means(a_Q), question_means(b_Q)
    if len(a) != len(b):
        raise ValueError(
            f"a paired difference needs the same questions: found {len(a)} and {len(b)} values"
        )
    differences = a - b
    low, high = percentiles(bootstrap_means(differences, samples, seed))
    p = sign_flip_p(differences, samples=samples, seed=seed)
    width = bounds[1] - bounds[0]
    found = Difference(float(differences.mean()), low, high, p, len(differences))
    return rule_of_three(found, -width, width)


def rule_of_three(interval: Of, low: float, high: float) -> Of:
    """An interval without width, of values that are all equal, widened by the rule of three: up to
    3 / n of other questions may have any value between `low` and `high` (Hanley and Lippman-Hand
    1983). Other intervals, and metrics without bounds, stay as they are.

    >>> rule_of_three(Interval(1.0, 1.0, 1.0, 60), 0.0, 1.0)
    Interval(mean=1.0, low=0.95, high=1.0, n=60)
    """
    # equal values may have means that rounding tells apart
    level = math.isclose(interval.low, interval.high, rel_tol=1e-9, abs_tol=1e-12)
    if not level or not math.isfinite(high - low):
        return interval
    share = min(1.0, 3 / interval.n)
    return replace(
        interval, low=interval.mean - share * (interval.mean - low),
        high=interval.mean + share * (high - interval.mean),
    )  # fmt: skip


def sign_flip_p(
    differences_Q: Sequence[float] | np.ndarray, *, samples: int = 10_000, seed: int = 0
) -> float:
    """Two-sided p: how often random signs give a sum at least as far from zero as the observed sum.

    Zero differences have no sign and are left out. With m left and 2**m <= samples, the test is
    exact: it counts all 2**m sign vectors, the observed one included, and p = count / 2**m.
    Otherwise it draws `samples` vectors and p = (count + 1) / (samples + 1). p is 1 where m is 0.
    """
    d = np.asarray(differences_Q, dtype=np.float64)
    d = d[d != 0]
    m = len(d)
    if m == 0:
        return 1.0
    exact = m < 63 and 2**m <= samples
    # equal sums differ in their last bits where they are added in another order
    threshold = abs(d.sum()) - 1e-12 * np.abs(d).sum()
    count = 0
    every = [(np.arange(2**m)[:, None] >> np.arange(m)) & 1] if exact else None  # (2**m, m)
    for flips in every or _random_flips(m, samples, seed):  # (.., m)
        sums = d.sum() - 2 * (flips.astype(np.float64) @ d)
        count += int((np.abs(sums) >= threshold).sum())
    return count / 2**m if exact else (count + 1) / (samples + 1)


def question_means(values: Values) -> np.ndarray:
    """One value per question, (Q,); values by seed (S, Q) are averaged within each question.

    Raises `ValueError` for another shape, and for NaN or infinity.
    """
    if isinstance(values, Mapping):
        values = list(values.values())
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 2:
        array = array.mean(axis=0)
    if array.ndim != 1 or len(array) == 0:
        raise ValueError(f"expected one value per question, found shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(
            "values hold NaN or infinity; replace an undefined score by its worst value"
        )
    return array


def average_seeds(values_S: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds within each question; a `UserError` where seeds hold different questions."""
    for other in values_S[1:]:
        same_questions(values_S[0], other)
    return over_seeds(values_S)


def over_seeds(values_S: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over seeds within each question, of the seeds that have a value for it."""
    asked = dict.fromkeys(q for values in values_S for q in values)
    by_question = {q: [values[q] for values in values_S if q in values] for q in asked}
    return {q: sum(values) / len(values) for q, values in by_question.items()}


def same_questions(a: Mapping[str, object], b: Mapping[str, object]) -> None:
    """Raise a `UserError` that names questions of one side only, where there are any."""
    only_a, only_b = [q for q in a if q not in b], [q for q in b if q not in a]
    if only_a or only_b:
        raise UserError(
            f"found {len(only_a)} questions only on one side {only_a[:3]} and {len(only_b)} only "
            f"on the other {only_b[:3]}; expected the same on both. Evaluate both on the same file"
        )


def resampled_means(values_Q: Values, *, samples: int = 10_000, seed: int = 0) -> np.ndarray:
    """The means of `samples` draws of as many questions with replacement, (samples,)."""
    return bootstrap_means(question_means(values_Q), samples, seed)


def _random_flips(m: int, samples: int, seed: int) -> Iterator[np.ndarray]:
    """`samples` random choices in chunks, (rows, m): eight signs to a random byte."""
    rng = np.random.default_rng([seed, 1])
    rows = max(1, CELLS // m)
    for start in range(0, samples, rows):
        shape = (min(rows, samples - start), -(-m // 8))
        yield np.unpackbits(rng.integers(0, 256, shape, dtype=np.uint8), axis=1, count=m)
