"""Alpha, Bradley-Terry and the two-way bootstrap against numbers known by hand or elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rationalize.evaluation.bradley_terry import bradley_terry, with_halves
from rationalize.evaluation.krippendorff import MISSING, alpha, alpha_interval
from rationalize.evaluation.two_way import two_way_mean, two_way_sums

_ = MISSING
THREE_CODERS = np.array([
    [_, _, _, _, _, 3, 4, 1, 2, 1, 1, 3, 3, _, 3],
    [1, _, 2, 1, 3, 3, 4, 3, _, _, _, _, _, _, _],
    [_, _, 2, 1, 3, 4, 4, _, 2, 1, 1, 3, 3, _, 4],
])  # fmt: skip
"""Categories 1 to 4; the example of Wikipedia's "Krippendorff's alpha"."""


def test_alpha_of_published_examples():
    assert alpha(THREE_CODERS, 5) == pytest.approx(0.691358, abs=1e-6)
    assert alpha(THREE_CODERS, 5, "ordinal") == pytest.approx(0.806721, abs=1e-6)
    # Krippendorff 2011, section A: two coders, binary; 0.095
    binary = np.array([[0, 1, 0, 0, 0, 0, 0, 0, 1, 0], [1, 1, 1, 0, 0, 1, 0, 0, 0, 0]])
    assert alpha(binary, 2) == pytest.approx(0.095, abs=5e-4)
    assert alpha(binary, 2, "ordinal") == pytest.approx(alpha(binary, 2))


def test_alpha_at_its_limits():
    assert alpha(np.array([[0, 1, 2], [0, 1, 2]]), 3) == 1.0
    assert alpha(np.array([[0, 1], [1, 0]]), 2) == pytest.approx(-0.5)  # (n - 1) * 4 / 8 = 3/2
    assert math.isnan(alpha(np.array([[1, 1], [1, 1]]), 2))  # one category: nothing to agree on
    assert math.isnan(alpha(np.array([[0, _], [_, 1]]), 2))  # no unit with two values
    same = np.array([[0, 1, 0, 1]] * 3)
    assert alpha_interval(same, np.arange(4), 2) == (1.0, 1.0)
    low, high = alpha_interval(np.maximum(THREE_CODERS, _), np.arange(15), 5, samples=500)
    assert -0.2 < low < 0.691358 < high <= 1.0


def test_alpha_is_the_packages():
    package = pytest.importorskip("krippendorff")
    rng = np.random.default_rng(0)
    for _round in range(60):
        table = rng.integers(-1, 3, (rng.integers(2, 6), rng.integers(3, 20)))
        values = np.where(table < 0, np.nan, table).astype(float)
        for level in ("nominal", "ordinal"):
            ours = alpha(table, 3, level)
            if math.isfinite(ours):
                theirs = package.alpha(values, level_of_measurement=level, value_domain=[0, 1, 2])
                assert ours == pytest.approx(theirs, abs=1e-12)


def test_strengths_of_two_and_of_a_balanced_three():
    two = np.array([[[0.0, 9.0], [3.0, 0.0]]])
    assert bradley_terry(two)[0] == pytest.approx([math.log(3) / 2, -math.log(3) / 2])
    # odds that follow the model exactly are found exactly: strengths log 4, log 2, log 1
    strength = np.array([4.0, 2.0, 1.0])
    wins = 60 * strength[:, None] / (strength[:, None] + strength)
    np.fill_diagonal(wins, 0)
    expected = np.log(strength) - np.log(strength).mean()
    assert bradley_terry(wins[None])[0] == pytest.approx(expected, abs=1e-7)
    # who wins against whom does not matter where all met equally often: 7.5, 2, 5.5 wins of 10
    table = np.array([[[0, 4.5, 3], [0.5, 0, 1.5], [2, 3.5, 0]]])
    found = bradley_terry(table)[0]
    assert found[0] > found[2] > found[1]
    assert found.sum() == pytest.approx(0)


def test_a_method_that_always_wins_has_a_finite_strength():
    wins = np.array([[[0.0, 5.0], [0.0, 0.0]]])
    assert with_halves(wins).tolist() == [[[0, 5.5], [0.5, 0]]]
    assert bradley_terry(with_halves(wins))[0] == pytest.approx(
        [math.log(11) / 2, -math.log(11) / 2]
    )
    apart = np.zeros((1, 3, 3))
    apart[0, 0, 1] = 1  # only pairs that were compared get halves
    assert with_halves(apart)[0, 0, 2] == 0


def test_two_way_sums_draw_questions_and_annotators():
    question, annotator = np.repeat(np.arange(4), 3), np.tile(np.arange(3), 4)
    sums = two_way_sums(np.ones((12, 1)), question, annotator, samples=4000)[:, 0]
    assert (sums == 12).all()  # a full table has as many votes in every draw
    # variance of the mean of a + b over a full table: var(a) / questions + var(b) / annotators
    value = question + 10.0 * annotator
    means = two_way_sums(value[:, None], question, annotator, samples=20_000)[:, 0] / 12
    assert means.var() == pytest.approx(1.25 / 4 + 100 * (2 / 3) / 3, rel=0.03)


def test_an_interval_knows_of_few_annotators():
    question, annotator = np.repeat(np.arange(50), 2), np.tile(np.arange(2), 50)
    value = annotator.astype(float)  # one annotator always prefers the first, the other the second
    found = two_way_mean(value, question, annotator)
    assert (found.mean, found.low, found.high, found.n) == (0.5, 0.0, 1.0, 50)
    alone = two_way_mean(np.arange(50) % 2, np.arange(50), np.zeros(50, dtype=int))
    assert 0.3 < alone.low < 0.4
    unanimous = two_way_mean(np.ones(60), np.arange(60), np.zeros(60, dtype=int))
    assert (unanimous.low, unanimous.high) == (0.95, 1.0)  # the rule of three
    with pytest.raises(ValueError, match="at least one vote"):
        two_way_mean(np.array([]), np.array([]), np.array([]))
