import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationalize.signals.bins import rank_bins, value_bins
from rationalize.signals.draws import balanced_bins, shuffled_passes
from rationalize.signals.filters import first_of_each, keep_above

SPEC = [1.0] * 8 + [0.9, 0.8, 0.7, 0.6]


def test_released_rule_splits_ties_by_position():
    # 8 samples of 1.0, then .9 .8 .7 .6, K = 5
    assert rank_bins(SPEC, 5, "released").tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4, 4]


def test_ties_stay_together():
    # ranks of the first of each block: 0, 8, 9, 10, 11 of 12
    assert rank_bins(SPEC, 5).tolist() == [0] * 8 + [3, 3, 4, 4]


def test_fewer_scores_than_bins():
    assert rank_bins([0.3, 0.9], 5, "released").tolist() == [4, 4]
    assert rank_bins([0.3, 0.9], 5).tolist() == [2, 0]
    assert rank_bins([], 5).tolist() == []


def test_all_tied_is_one_bin():
    bins = rank_bins([0.5] * 10, 5)
    assert bins.tolist() == [0] * 10
    assert np.bincount(bins, minlength=5).tolist() == [10, 0, 0, 0, 0]


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=60), st.integers(1, 7))
def test_bins_follow_the_scores(scores, k):
    bins = rank_bins(scores, k)
    assert bins.min() == 0
    assert bins.max() < k
    for i, a in enumerate(scores):
        for j, b in enumerate(scores):
            assert (bins[i] <= bins[j]) if a >= b else (bins[i] >= bins[j])


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=80, unique=True), st.integers(1, 7))
def test_both_rules_agree_without_ties_where_bins_are_equal(scores, k):
    if len(scores) % k == 0:
        np.testing.assert_array_equal(rank_bins(scores, k), rank_bins(scores, k, "released"))


def test_bins_by_value():
    # `consistency_discrete`: +1 -> 0, 0 -> 1, -1 -> 2
    assert value_bins([1, 0, -1, 1], [1, 0, -1]).tolist() == [0, 1, 2, 0]
    with pytest.raises(ValueError, match=r"0\.5"):
        value_bins([1, 0.5], [1, 0])


def test_nan_is_refused():
    with pytest.raises(ValueError, match="undefined"):
        rank_bins([1.0, float("nan")], 2)


@given(st.integers(1, 30), st.integers(1, 9), st.integers(1, 20))
def test_shuffled_passes_see_every_row_once_a_pass(n, batch, passes):
    steps = -(-n * passes // batch)
    drawn = [i for step in range(steps) for i in shuffled_passes(n, batch, step, 3)]
    for p in range(passes):
        assert sorted(drawn[p * n : (p + 1) * n]) == list(range(n))


def test_balanced_draws_reach_a_rare_bin():
    bins = {"correctness": np.array([0] * 97 + [1] * 3), "diversity": np.zeros(100, dtype=int)}
    drawn = [i for step in range(200) for i in balanced_bins(bins, 8, step, 0)]
    rare = np.mean([i >= 97 for i in drawn])
    assert 0.2 < rare < 0.3  # half of the draws go by correctness, half of those to its bin 1
    assert balanced_bins(bins, 8, 5, 0) == balanced_bins(bins, 8, 5, 0)


def test_filters():
    keep = keep_above(
        {"correctness": [1, 0, 1], "length": [3, 9, 1]}, {"correctness": 1, "length": 2}, 3
    )
    assert keep_above({}, {}, 2).tolist() == [True, True]
    assert keep.tolist() == [True, False, False]
    assert first_of_each([("q", "a"), ("q", "a"), ("q", "b")]).tolist() == [True, False, True]
