"""Probes on frozen features: what they order, and what they must not have seen."""

import numpy as np
import pytest

from rationalize.signals.probes import cross_fitted_margins


def test_questions_that_ask_the_same_are_in_one_fold():
    # 20 questions, each twice, and a feature of its own for each: only a twin can tell its sign
    features = np.eye(20)
    twins = [features[i : i + 1] for i in range(20) for _ in range(2)]
    groups = [[2 * i, 2 * i + 1] for i in range(20)]
    assert max(m[0] for m in cross_fitted_margins(twins)) > 0.1
    assert all(m[0] == pytest.approx(0.0) for m in cross_fitted_margins(twins, groups))


def test_a_feature_that_all_questions_share_is_learned_from_the_others():
    rng = np.random.default_rng(0)
    shared = [np.c_[np.ones(3), rng.normal(size=(3, 4))] for _ in range(12)]
    assert np.mean([m > 0 for m in cross_fitted_margins(shared)]) > 0.9
    with pytest.raises(ValueError, match="1 questions"):
        cross_fitted_margins(shared[:2], [[0, 1]])
