"""Advantages of GRPO and GDPO against numbers worked out by hand, and the conditions of rewards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rationalize.rewards import Reward
from rationalize.rewards.base import counted
from rationalize.signals.advantages import (
    conditioned,
    gdpo_advantages,
    grpo_advantages,
    spreads,
    summed_advantages,
)

TWO = {"r1": np.array([[0.0, 1.0], [0.0, 1.0]]), "r2": np.array([[0.0, 0.0], [0.0, 1.0]])}
"""Two questions, two attempts at each: the second wins one reward, or both."""


def close(found, expected):
    np.testing.assert_allclose(found, expected, atol=5e-6)


def test_grpo_does_not_see_that_two_rewards_were_won():
    close(grpo_advantages(TWO, {}, eps=0.0), [[-0.70711, 0.70711], [-0.70711, 0.70711]])


def test_gdpo_does():
    close(summed_advantages(TWO, {}, eps=0.0), [[-0.70711, 0.70711], [-1.41421, 1.41421]])
    close(gdpo_advantages(TWO, {}, eps=0.0), [[-0.54772, 0.54772], [-1.09545, 1.09545]])
    assert summed_advantages(TWO, {}, eps=0.0).std(ddof=1) == pytest.approx(1.29099, abs=5e-6)


def test_without_a_deviation_the_second_question_counts_twice():
    close(grpo_advantages(TWO, {}, scale="none"), [[-0.5, 0.5], [-1.0, 1.0]])
    std = np.std([0.0, 1.0, 0.0, 2.0], ddof=1)
    expected = np.array([[-0.5, 0.5], [-1.0, 1.0]]) / std
    close(grpo_advantages(TWO, {}, scale="batch", eps=0.0), expected)


def test_weights():
    close(grpo_advantages(TWO, {"r2": 0.0}, scale="none"), [[-0.5, 0.5]] * 2)
    close(grpo_advantages(TWO, {"r2": 3.0}, scale="none"), [[-0.5, 0.5], [-2.0, 2.0]])
    sums = summed_advantages(TWO, {"r1": 2.0, "r2": 0.5}, eps=0.0)
    close(sums, np.array([[-2.0, 2.0], [-2.5, 2.5]]) * np.sqrt(0.5))


def test_the_epsilon_is_added_to_the_deviation():
    one = {"r": np.array([[0.0, 1.0]])}
    close(grpo_advantages(one, {}, eps=0.5)[0], np.array([-0.5, 0.5]) / (np.sqrt(0.5) + 0.5))


@pytest.mark.parametrize("advantages", [grpo_advantages, gdpo_advantages])
def test_a_question_without_spread_gives_nothing(advantages):
    scores = {"a": np.array([[0.1, 0.1, 0.1], [0.1, 0.2, 0.9]]), "b": np.full((2, 3), 0.7)}
    found = advantages(scores, {}, eps=0.0)
    assert spreads(found).tolist() == [False, True]
    close(found[0], 0.0)
    close(advantages({"a": np.full((2, 3), 0.3)}, {}, eps=0.0), 0.0)


@settings(max_examples=30)
@given(st.lists(st.lists(st.floats(-3, 3), min_size=3, max_size=3), min_size=2, max_size=5))
def test_advantages_sum_to_nothing_and_keep_the_order(rows):
    scores = np.array(rows)
    for found in (grpo_advantages({"r": scores}, {}), gdpo_advantages({"r": scores}, {})):
        close(found.sum(axis=1), 0.0)
        for advantage, score in zip(found, scores, strict=True):
            best = score.argmax()
            assert (advantage[best] >= advantage - 1e-9).all()


def test_an_easy_reward_counts_where_the_harder_is_met():
    scores = {
        "short": np.array([[1.0, 0.8, 0.9]]), "right": np.array([[0.0, 1.0, 1.0]]),
        "clear": np.array([[0.9, 0.9, 0.2]]),
    }  # fmt: skip
    found = conditioned(scores, {"short": {"right": 1.0}})
    assert found["short"].tolist() == [[0.0, 0.8, 0.9]]
    assert found["right"] is scores["right"]
    both = conditioned(scores, {"short": {"right": 1.0, "clear": 0.5}}, {"short": -1.0})
    assert both["short"].tolist() == [[-1.0, 0.8, -1.0]]
    chain = conditioned(scores, {"clear": {"right": 1.0}, "short": {"clear": 0.5}})
    assert chain["clear"].tolist() == [[0.0, 0.9, 0.2]]
    assert chain["short"].tolist() == [[1.0, 0.8, 0.0]]  # the first is clear, if not right


def test_bad_scores_are_refused():
    with pytest.raises(ValueError, match="at least 2 attempts"):
        grpo_advantages({"r": np.zeros((3, 1))}, {})
    with pytest.raises(ValueError, match="same for every"):
        gdpo_advantages({"r": np.zeros((3, 2)), "s": np.zeros((2, 2))}, {})
    with pytest.raises(ValueError, match="worst value"):
        grpo_advantages({"r": np.array([[np.nan, 1.0]])}, {})


def test_an_undefined_score_counts_as_the_worst():
    bounded = Reward("r", lambda **_: [], range=(-1.0, 1.0))
    assert counted(bounded, [None, 0.5]) == [-1.0, 0.5]
    open_ended = Reward("r", lambda **_: [])
    assert counted(open_ended, [3.0, None, 2.0]) == [3.0, 2.0, 2.0]
    assert counted(open_ended, [None]) == [0.0]
