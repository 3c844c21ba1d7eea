"""Ranks, pairs, duplicates: see docs/methods/self-motivated.md, stages B and D."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationalize.signals.duplicates import distinct, jaccard, word_set
from rationalize.signals.ranks import chance_weight, pairs_across, rank_levels, usable_share


def test_levels():
    correct, parsed = [True, False, False], [True, True, False]
    assert rank_levels(correct, parsed) == [1, 0, None]
    assert rank_levels(correct, parsed, levels=3) == [2, 1, 0]
    with pytest.raises(ValueError, match="2 or 3"):
        rank_levels(correct, parsed, levels=4)


def test_eight_attempts_of_which_three_are_right_make_fifteen_pairs():
    levels = rank_levels([True] * 3 + [False] * 5, [True] * 8)
    assert len(pairs_across(levels)) == 15
    assert all(levels[i] > levels[j] for i, j in pairs_across(levels))


@pytest.mark.parametrize("correct", [[True] * 4, [False] * 4])
def test_all_right_or_all_wrong_gives_no_pair(correct):
    assert pairs_across(rank_levels(correct, [True] * 4)) == []


@given(st.lists(st.sampled_from([0, 1, 2, None]), max_size=9), st.integers(1, 20), st.integers(0))
def test_the_cap_keeps_distinct_pairs_of_all(levels, cap, seed):
    every, some = pairs_across(levels), pairs_across(levels, cap, seed)
    assert set(some) <= set(every)
    assert len(some) == len(set(some)) == min(cap, len(every))
    assert some == pairs_across(levels, cap, seed)


def test_the_cap_is_uniform():
    counts = dict.fromkeys(pairs_across([1, 1, 0, 0, 0]), 0)
    for seed in range(3000):
        for pair in pairs_across([1, 1, 0, 0, 0], 2, seed):
            counts[pair] += 1
    assert all(abs(count - 1000) < 5 * math.sqrt(1000 * 2 / 3) for count in counts.values())


@pytest.mark.parametrize(
    ("p", "n", "share"),
    [(0.1, 8, 0.570), (0.1, 16, 0.815), (0.3, 8, 0.942), (0.3, 16, 0.997), (0.8, 8, 0.832),
     (0.8, 16, 0.972)],
)  # fmt: skip
def test_usable_share(p, n, share):
    assert usable_share(p, n) == pytest.approx(share, abs=5e-4)


def test_chance_weight():
    assert chance_weight(0.5, 2) == 0.0
    assert chance_weight(0.3, 2) == 0.0  # never negative
    assert chance_weight(0.75, 2) == pytest.approx(0.5)
    assert chance_weight(0.6, 5) == pytest.approx(0.5)
    assert chance_weight(0.3, None) == 0.3


def test_distinct_by_equations_then_by_words():
    texts = ["so 3+4=7", "3 + 4 = 7 then", "4+3=7", "the leaf falls slowly",
             "slowly the leaf falls", "the stone falls fast"]  # fmt: skip
    assert distinct(texts).tolist() == [True, False, True, True, False, True]
    assert distinct(texts, "exact").all()
    assert distinct(["a", "a"], "none").all()
    assert distinct(texts, "words").tolist() == [True, True, True, True, False, True]


def test_jaccard():
    assert jaccard(word_set("A leaf falls."), word_set("a LEAF falls")) == 1.0
    assert jaccard(word_set("a b"), word_set("b c")) == pytest.approx(1 / 3)
    assert jaccard(word_set(""), word_set("")) == 1.0
