"""McNemar's test and Holm's correction against hand counts, closed forms and other libraries."""

import itertools

import numpy as np
import pytest
from scipy import stats

from rationalize.evaluation.intervals import sign_flip_p
from rationalize.evaluation.significance import McNemar, holm, mcnemar, mcnemar_p, seeds_p


@pytest.mark.parametrize(
    ("only_a", "only_b", "p"),
    [
        (0, 0, 1.0),
        (0, 1, 1.0),  # 2 * (1/2)
        (0, 5, 0.0625),  # 2 * 1/32
        (1, 5, 0.21875),  # 2 * (1 + 6) / 64
        (5, 1, 0.21875),
        (2, 8, 0.109375),  # 2 * (1 + 10 + 45) / 1024
        (4, 4, 1.0),  # 2 * P(X <= 4) is above 1
    ],
)
def test_mcnemar_by_hand(only_a, only_b, p):
    assert mcnemar_p(only_a, only_b) == p


def test_mcnemar_is_the_binomial_test_and_the_sign_flip_test_of_unit_differences():
    for a, b in itertools.product(range(0, 13, 3), range(0, 400, 37)):
        if a + b:
            assert mcnemar_p(a, b) == pytest.approx(stats.binomtest(a, a + b).pvalue, rel=1e-9)
    assert mcnemar_p(9, 3) == pytest.approx(sign_flip_p([1.0] * 9 + [-1.0] * 3))


def test_mcnemar_with_many_discordant_questions_is_continuous_with_the_exact_test():
    """Chi-square with one degree of freedom, (|b - c| - 1)^2 / (b + c), as textbooks have it."""
    assert mcnemar_p(800, 700) == pytest.approx(stats.chi2.sf(99**2 / 1500, 1))
    assert mcnemar_p(700, 700) == 1.0
    assert mcnemar_p(3000, 0) == 0.0  # nothing overflows on the way
    exact = stats.binomtest(820, 1720).pvalue
    assert mcnemar_p(820, 900) == pytest.approx(exact, rel=0.01)
    assert mcnemar_p(820, 900) != pytest.approx(exact, rel=1e-6)


def test_mcnemar_counts_questions_by_id():
    a = {"x": 1.0, "y": 1.0, "z": 0.0, "u": 1.0}
    b = {"u": 0.0, "z": 1.0, "y": 0.0, "x": 1.0}
    assert mcnemar(a, b) == McNemar(2, 1, 1.0)
    assert mcnemar({**a, "x": 0.5}, b) is None  # two seeds that disagree are neither


def test_holm_by_hand():
    """Sorted .01, .02, .03, .04 times 4, 3, 2, 1 is .04, .06, .06, .04; none falls again."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([0.012]) == [0.012]
    assert holm([]) == []
    assert holm([0.01] * 3) == pytest.approx([0.03] * 3)


def test_holm_is_the_closure_of_bonferroni():
    """Its definition otherwise: the worst Bonferroni p of all the families a hypothesis is in."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        p = rng.uniform(size=5) ** 3
        families = [f for n in range(1, 6) for f in itertools.combinations(range(5), n)]
        closed = [
            max(min(1.0, len(f) * min(p[j] for j in f)) for f in families if i in f)
            for i in range(5)
        ]
        assert holm(p.tolist()) == pytest.approx(closed)


def test_another_library_agrees():
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    tables = pytest.importorskip("statsmodels.stats.contingency_tables")
    p = [0.001, 0.04, 0.03, 0.2, 0.03]
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])
    exact = tables.mcnemar([[50, 12], [30, 40]], exact=True).pvalue
    assert mcnemar_p(12, 30) == pytest.approx(exact)
    corrected = tables.mcnemar([[50, 900], [700, 40]], exact=False, correction=True).pvalue
    assert mcnemar_p(900, 700) == pytest.approx(corrected)


def test_holm_rarely_errs_where_nothing_differs():
    rng = np.random.default_rng(1)
    errs = np.mean([min(holm(rng.uniform(size=10).tolist())) < 0.05 for _ in range(2000)])
    assert 0.03 < errs < 0.07  # uncorrected: 40 in 100


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 9])
def test_p_over_seeds_is_students(n):
    differences = (np.random.default_rng(n).normal(size=n) + 0.5).tolist()
    expected = stats.ttest_1samp(differences, 0).pvalue
    assert seeds_p(differences) == pytest.approx(expected)


def test_p_over_seeds_needs_two():
    assert seeds_p([0.3]) is None
    assert seeds_p([0.0, 0.0]) == 1.0
    assert seeds_p([0.05, 0.05]) is seeds_p([0.1, 0.1, 0.1]) is None
