"""Whether control tokens rank replies as their rewards do, and what a pool's draws consist of."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_policy

from rationalize.evaluation.metrics import metrics_of
from rationalize.evaluation.token_auc import concordance, token_auc
from rationalize.models.logits import token_logprobs
from rationalize.records import Question
from rationalize.rewards.base import Reward
from rationalize.signals.draws import balanced_bins, capped_shares
from rationalize.signals.variance import centred_within, intraclass_correlation
from rationalize.templates import given_attempt
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig

few = st.integers(0, 3)


def by_pairs(scores, predicted, groups, within):
    """The share of ordered pairs, counted one by one."""
    found = [
        (p > q) + 0.5 * (p == q)
        for s, p, g in zip(scores, predicted, groups, strict=True)
        for t, q, h in zip(scores, predicted, groups, strict=True)
        if s > t and (g == h or not within)
    ]
    return sum(found) / len(found) if found else None


@given(st.lists(st.tuples(few, few, few), min_size=1, max_size=12))
def test_concordance_counts_pairs(rows):
    scores, predicted, groups = (list(column) for column in zip(*rows, strict=True))
    found = concordance(scores, predicted, [str(g) for g in groups], samples=20)
    for name, within in (("auc", False), ("within", True)):
        expected = by_pairs(scores, predicted, groups, within)
        assert (found[name] and found[name]["mean"]) == pytest.approx(expected)


def test_an_interval_is_over_questions():
    scores, groups = [1, 0] * 30, [str(i // 2) for i in range(60)]
    chance = concordance(scores, np.random.default_rng(1).normal(size=60), groups)["within"]
    assert chance["low"] < 0.5 < chance["high"]
    assert chance["high"] - chance["low"] == pytest.approx(
        2 * 1.96 * math.sqrt(0.25 / 30), abs=0.06
    )


def test_undefined_scores_are_in_no_pair():
    found = concordance([1.0, 0.0, math.nan], [0.3, 0.2, 0.1], ["a", "b", "c"])
    assert found["auc"]["pairs"] == 1


def long_replies(*, rationale, **_):
    return [float(len(r.split())) for r in rationale]


def test_token_auc_is_a_difference_of_log_probabilities():
    policy = tiny_policy("decoder")
    policy.add_controls({"length": 3, "other": 2}, seed=3)
    questions = {
        f"q{i}": Question(f"q{i}", f"Which sinks, {i}?", "a", ("a", "b")) for i in range(4)
    }
    attempts = [
        given_attempt(f"{q.id}/{n}", q, "so " * n, "a", writer="x", split="dev").scored(
            {"length": float(n), "other": 1.0}
        )
        for q in questions.values()
        for n in (1, 2, 3)
    ]
    rewards = [Reward(name, long_replies, range=(0.0, 9.0)) for name in ("length", "other")]
    metrics = {m.name: m for m in metrics_of(rewards) if m.name in ("length", "other")}
    rows = token_auc(
        policy, attempts, questions, bins={"length": [0, 1, 2], "other": [0]}, metrics=metrics,
        config=FitConfig(),
    )  # fmt: skip
    [row] = rows  # one token of `other` was trained: it has nothing to be compared with
    assert (row["reward"], row["attempts"], row["questions"]) == ("length", 12, 4)
    maker = RowMaker(policy)

    def logprob(attempt, control):
        with torch.no_grad():
            return token_logprobs(policy, [maker.attempt(attempt, control)])[0].sum().item()

    best, worst = {"length": 0, "other": 0}, {"length": 2, "other": 0}
    moved = [logprob(a, best) - logprob(a, worst) for a in attempts]
    scores, groups = [a.rewards["length"] for a in attempts], [a.question_id for a in attempts]
    assert row["auc"]["mean"] == pytest.approx(by_pairs(scores, moved, groups, within=False))


def test_no_bin_is_drawn_beyond_its_limit():
    assert capped_shares([90, 10, 0]).tolist() == [0.5, 0.5, 0.0]
    assert capped_shares([90, 10, 0], 2).tolist() == pytest.approx([0.8, 0.2, 0.0])
    assert capped_shares([1, 3, 96], 3).tolist() == pytest.approx([0.03, 0.09, 0.88])
    assert capped_shares([1, 3], 0.5).tolist() == pytest.approx([0.25, 0.75])  # as in the pool


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.floats(1, 5))
def test_shares_are_a_distribution(counts, limit):
    shares = capped_shares(counts, limit)
    assert shares.sum() == pytest.approx(1)
    assert (shares <= limit * np.array(counts) / sum(counts) + 1e-9).all()
    drawn = np.array(counts) > 0
    assert (shares[~drawn] == 0).all()
    assert (shares[drawn] > 0).all()


def test_rare_attempts_are_drawn_as_often_as_said():
    bins = {"correctness": np.array([0] * 97 + [1] * 3)}

    def wrong(limit):
        rows = [i for s in range(400) for i in balanced_bins(bins, 8, s, 0, over_draw=limit)]
        return sum(i >= 97 for i in rows) / len(rows)

    assert wrong(math.inf) == pytest.approx(0.5, abs=0.03)
    assert wrong(3.0) == pytest.approx(0.09, abs=0.02)


def test_intraclass_correlation():
    """Against the variance components of a balanced one-way layout, by numpy."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(40, 1)) + 0.5 * rng.normal(size=(40, 5))  # true ICC: 1 / 1.25
    groups = np.repeat(np.arange(40), 5)
    between = 5 * table.mean(1).var(ddof=1)
    within = table.var(axis=1, ddof=1).mean()
    expected = (between - within) / (between + 4 * within)
    found = intraclass_correlation(table.ravel(), groups)
    assert found == pytest.approx(expected)
    assert found == pytest.approx(0.8, abs=0.1)
    assert intraclass_correlation([1.0, 2.0], ["a", "b"]) is None
    assert intraclass_correlation([1.0, 1.0, 1.0], ["a", "a", "b"]) is None


def test_centred_within():
    centred = centred_within([3.0, 5.0, 1.0], ["a", "a", "b"])
    assert centred.tolist() == [-1.0, 1.0, 0.0]


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_fresh_tokens_leave_the_response_as_it_was(kind):
    """Started as the token before them, they cost less of the response's probability than noise."""
    costs = {}
    for init in ("prompt_end", "statistics"):
        policy = tiny_policy(kind)
        prompt, response = policy.encode_prompt("Which sinks?"), policy.encode_response("A stone.")
        maker = RowMaker(policy)
        row = maker.text("Which sinks?", "A stone.")
        assert (list(row.prompt_ids), list(row.response_ids)) == (prompt, response)
        with torch.no_grad():
            before = token_logprobs(policy, [row])[0]
            policy.add_controls({"diversity": 2}, init=init, seed=1)
            ids = policy.controls.prefix({"diversity": 0})
            after = token_logprobs(
                policy, [maker.text("Which sinks?", "A stone.", control_ids=ids)]
            )[0]
        costs[init] = (before - after).abs().mean().item()
        rows = policy.control_rows()
    assert costs["prompt_end"] < costs["statistics"]
    assert rows.shape[0] == 2
