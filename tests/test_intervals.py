"""Intervals and paired differences against closed forms, scipy and simulation."""

import numpy as np
import pytest
from scipy import stats

from rationalize.errors import UserError
from rationalize.evaluation.intervals import (
    average_seeds,
    bootstrap_mean,
    over_seeds,
    paired_difference,
    sign_flip_p,
)
from rationalize.methods.pair_accuracy import with_interval


@pytest.mark.parametrize("samples", [2000, 120_000])  # at once, and in two chunks
def test_bootstrap_equals_scipys_percentile_bootstrap_draw_for_draw(samples):
    values = np.random.default_rng(3).normal(size=37)
    ours = bootstrap_mean(values, samples=samples, seed=5)
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=samples, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    assert ours.mean == pytest.approx(values.mean())


def test_accuracy_interval_is_the_binomials():
    """The resampled mean of a 0/1 metric is Binomial(n, p) / n: its quantiles are known."""
    n, right = 200, 124
    interval = bootstrap_mean([1.0] * right + [0.0] * (n - right), samples=50_000)
    exact = stats.binom(n, right / n).ppf([0.025, 0.975]) / n
    assert (interval.low, interval.high) == pytest.approx(exact, abs=1 / n)
    assert (interval.mean, interval.n) == (right / n, n)


@pytest.mark.parametrize(("values", "mean"), [([0.25], 0.25), ([2.0] * 7, 2.0)])
def test_without_spread_the_interval_is_the_mean(values, mean):
    interval = bootstrap_mean(values)
    assert interval.mean == interval.low == interval.high == mean


def test_between_bounds_equal_values_leave_room_for_3_of_n_others():
    difference = paired_difference([1.0] * 60, [1.0] * 60, bounds=(0.0, 1.0))
    assert (difference.low, difference.high) == pytest.approx((-0.05, 0.05))
    always_right = with_interval("x", [1.0] * 30)
    assert always_right == {"x": 1.0, "x_low": pytest.approx(0.9), "x_high": 1.0}


def test_equal_values_that_rounding_tells_apart_are_equal():
    found = bootstrap_mean([2 / 3] * 60, bounds=(0.0, 1.0))
    assert (found.low, found.high) == pytest.approx((2 / 3 * 0.95, 2 / 3 + 0.05 / 3))


def test_seeds_are_averaged_inside_a_question():
    per_seed = [[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0]]
    assert bootstrap_mean(per_seed) == bootstrap_mean([0.5, 0.5, 0.0, 1.0])
    assert average_seeds([{"a": 1.0, "b": 0.0}, {"b": 1.0, "a": 0.0}]) == {"a": 0.5, "b": 0.5}
    assert over_seeds([{"a": 1.0, "b": 0.0}, {"b": 1.0}]) == {"a": 1.0, "b": 0.5}


def test_interval_covers_the_true_mean_about_95_times_in_100():
    rng = np.random.default_rng(0)
    intervals = [bootstrap_mean(rng.exponential(size=80), samples=500) for _ in range(400)]
    covered = np.mean([i.low <= 1.0 <= i.high for i in intervals])
    assert 0.90 <= covered <= 0.98


def test_sign_flip_p_of_few_differences_is_exact():
    """All 2^3 sign vectors of (3, 2, 1): |sum| >= 6 for +++ and --- only."""
    assert sign_flip_p([3.0, 2.0, 1.0]) == 2 / 8
    assert sign_flip_p([3.0, 0.0, 2.0, 1.0, 0.0]) == 2 / 8  # zeros have no sign
    assert sign_flip_p([1.0, -1.0]) == 1.0
    assert sign_flip_p([0.0, 0.0]) == 1.0


def test_sign_flip_p_is_the_binomial_sign_test_for_unit_differences():
    """With differences of +-1, the permutation test is McNemar's exact test."""
    exact = stats.binomtest(9, 12, 0.5).pvalue
    assert sign_flip_p([1.0] * 9 + [-1.0] * 3) == pytest.approx(exact)
    many = stats.binomtest(60, 90, 0.5).pvalue
    assert sign_flip_p([1.0] * 60 + [-1.0] * 30, samples=40_000) == pytest.approx(many, abs=0.002)


def test_sign_flip_p_agrees_with_scipys_permutation_test():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0.3, 1, 11), rng.normal(size=11)
    theirs = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x - y), permutation_type="samples", n_resamples=np.inf
    )
    assert paired_difference(a, b).p == pytest.approx(theirs.pvalue)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(2)
    p = [sign_flip_p(rng.normal(size=20), samples=400, seed=i) for i in range(400)]
    assert 0.02 <= np.mean(np.array(p) < 0.05) <= 0.085
    assert np.mean(p) == pytest.approx(0.5, abs=0.05)


def test_p_is_never_zero_and_does_not_depend_on_the_sign():
    d = np.linspace(1, 2, 40)
    assert sign_flip_p(d) == sign_flip_p(-d) == 1 / 10_001


def test_paired_difference_sees_what_two_intervals_hide():
    """Questions differ far more than methods do."""
    rng = np.random.default_rng(4)
    b = rng.normal(0, 10, 100)
    a = b + rng.normal(0.5, 0.5, 100)
    difference = paired_difference(a, b)
    assert bootstrap_mean(a).low < bootstrap_mean(b).mean  # each by itself says nothing
    assert difference.low > 0.3
    assert difference.p < 0.001
    back = paired_difference(b, a)
    assert back.mean == -difference.mean
    assert back.low == pytest.approx(-difference.high, abs=1e-9)


def test_mappings_are_matched_by_question_not_by_order():
    a, b = {"x": 1.0, "y": 0.0}, {"y": 0.0, "x": 1.0}
    assert paired_difference(a, b).mean == 0.0
    assert paired_difference(a, b).p == 1.0


def test_other_questions_on_one_side_are_an_error():
    with pytest.raises(
        UserError, match=r"1 questions only on one side \['x'\] and 2 only on the oth"
    ):
        paired_difference({"x": 1.0, "y": 0.0}, {"y": 1.0, "z": 0.0, "u": 1.0})
    with pytest.raises(UserError, match="expected the same on both"):
        average_seeds([{"x": 1.0}, {"y": 1.0}])
    with pytest.raises(ValueError, match=r"found 3 and 2 values"):
        paired_difference([1.0, 2.0, 3.0], [1.0, 2.0])
    with pytest.raises(TypeError, match="two mappings"):
        paired_difference({"x": 1.0}, [1.0])


@pytest.mark.parametrize("values", [[], [float("nan"), 1.0], [[]], np.zeros((2, 2, 2))])
def test_what_is_no_value_per_question_is_an_error(values):
    with pytest.raises(ValueError, match=r"shape|NaN"):
        bootstrap_mean(values)
