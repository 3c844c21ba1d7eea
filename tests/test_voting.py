"""Several attempts at a question: V-STaR's estimator (arXiv 2402.06457), slow counterparts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationalize.evaluation.voting import (
    best_by_score,
    best_of_k,
    chosen_attempt,
    leaders,
    majority_at_k,
    pass_at_k,
    scaling_curve,
    softmax_weights,
)
from rationalize.records import Attempt, Question


def test_the_estimators_vector():
    ranked = [0, 1, 1, 0, 0, 1, 0, 0]
    assert [round(best_of_k(ranked, k), 6) for k in (1, 2, 4, 8)] == [0.375, 0.464286, 0.428571, 0]


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_estimates_equal_all_subsets(correct, data):
    k = data.draw(st.integers(1, len(correct)))
    subsets = list(itertools.combinations(range(len(correct)), k))
    best = np.mean([correct[min(s)] for s in subsets])  # index 0 has the best score
    assert best_of_k(correct, k) == pytest.approx(best)
    assert pass_at_k(correct, k) == pytest.approx(
        np.mean([any(correct[i] for i in s) for s in subsets])
    )


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 1.0, 2.0])), min_size=1, max_size=6))
def test_ties_are_broken_evenly(pairs):
    correct, scores = zip(*pairs, strict=True)
    for k in range(1, len(pairs) + 1):
        worth = []
        for subset in itertools.combinations(range(len(pairs)), k):
            top = max(scores[i] for i in subset)
            worth.append(np.mean([correct[i] for i in subset if scores[i] == top]))
        assert best_by_score(correct, scores, k) == pytest.approx(np.mean(worth))


def test_k_beyond_the_attempts_is_refused():
    with pytest.raises(ValueError, match="1 to the number of attempts"):
        pass_at_k([True], 2)


def test_leaders():
    assert leaders(["a", "b", "b", None, None, None]) == ["b"]
    assert leaders(["b", "a"]) == ["b", "a"]
    assert leaders(["a", "b", "b"], [0.9, 0.3, 0.3]) == ["a"]
    assert leaders([None]) == []
    assert softmax_weights([0.0, 0.0]) == [0.5, 0.5]


def test_majority_at_k_is_near_the_exact_one():
    answers = ["a", "a", "b", "b", "b", "c"]
    exact = []
    for subset in itertools.combinations(range(6), 3):
        first = leaders([answers[i] for i in subset])
        exact.append(first.count("b") / len(first))
    chance = majority_at_k(answers, lambda a: a == "b", 3, draws=4000)
    assert chance == pytest.approx(np.mean(exact), abs=0.03)
    assert majority_at_k(answers, lambda a: a == "b", 6) == 1.0
    assert majority_at_k(["a", "b"], lambda a: a == "b", 2) == 0.5
    assert majority_at_k([None], lambda a: True, 1) == 0.0


def attempt(i, prediction, score):
    return Attempt(
        id=str(i), question_id="q", mode="rationale_answer", prompt="", completion="",
        rationale="", prediction=prediction, gold="7", parsed=prediction is not None,
        finish="stop", writer="w", model="m", round=0, step=0, split="dev", seed=0, n_tokens=1,
        rewards={"reward_model": score},
    )  # fmt: skip


def test_the_chosen_attempt_and_the_curve():
    question = Question(id="q", question="How many?", answer="7")
    group = [
        attempt(0, "7", 0.1),
        attempt(1, "8", 2.0),
        attempt(2, "7.", 0.2),
        attempt(3, None, None),
    ]
    assert chosen_attempt(group, question).id == "0"
    assert chosen_attempt(group, question, score="reward_model").id == "1"
    assert chosen_attempt(group, question, score="reward_model", weighted=True).id == "1"
    rows = scaling_curve(group, {"q": question}, score="reward_model")
    assert {(r["rule"], r["k"]) for r in rows} == {
        (rule, k)
        for rule in ("any (pass@k)", "majority (maj@k)", "best by reward model")
        for k in (1, 2, 4)
    }
    at = {(r["rule"], r["k"]): r["mean"] for r in rows}
    assert at["any (pass@k)", 1] == at["best by reward model", 1] == 0.5
    assert at["majority (maj@k)", 4] == 1.0
    assert at["best by reward model", 4] == 0.0
    uneven = [*group, replace(group[0], question_id="other")]
    with pytest.raises(ValueError, match="different numbers"):
        scaling_curve(uneven, {"q": question, "other": replace(question, id="other")})


def test_a_weighted_vote_takes_the_best_attempt_with_the_answer_that_wins():
    question = Question(id="q", question="How many?", answer="7")
    group = [attempt(0, "7", 0.1), attempt(1, "8", 0.6), attempt(2, "7", 0.3)]
    assert chosen_attempt(group, question, score="reward_model", weighted=True).id == "2"


def test_a_curve_of_right_answers_alone_leaves_room_for_wrong_ones():
    questions = {f"q{i}": Question(id=f"q{i}", question=f"{i}?", answer="7") for i in range(30)}
    group = [replace(attempt(i, "7", 0.1), question_id=q) for q in questions for i in range(2)]
    rows = scaling_curve(group, questions)
    assert {(r["mean"], round(r["low"], 6), r["high"]) for r in rows} == {(1.0, 0.9, 1.0)}


def test_votes_by_a_score_want_one_and_outlive_undefined_ones():
    question = Question(id="q", question="How many?", answer="7")
    undefined = [attempt(i, answer, None) for i, answer in enumerate("787")]
    unscored = [replace(a, rewards={}) for a in undefined]
    with pytest.raises(ValueError, match=f"{unscored[0].id!r} was not scored by 'reward_model'"):
        chosen_attempt(unscored, question, score="reward_model")
    assert softmax_weights([-np.inf, -np.inf]) == [0.5, 0.5]
    chosen = chosen_attempt(undefined, question, score="reward_model", weighted=True)
    assert chosen.prediction == "7"


def test_numbers_vote_together_however_they_are_written():
    question = Question(id="q", question="How many?", answer="12")
    said = ["15", "12", "12 apples", "$12", "15"]
    group = [attempt(i, text, 0.0) for i, text in enumerate(said)]
    assert chosen_attempt(group, question).id == "1"
    rows = scaling_curve(group, {"q": question})
    assert {(r["k"], r["mean"]) for r in rows if "maj" in r["rule"]} >= {(5, 1.0)}
    assert sorted({r["k"] for r in rows}) == [1, 2, 4, 5]
    named = Question(
        id="q", question="Which?", answer="12 apples", choices=("12 apples", "12 figs")
    )
    group = [attempt(0, "12 figs", 0.0), attempt(1, "12 apples", 0.0), attempt(2, "12 apples", 0.0)]
    assert chosen_attempt(group, named).id == "1"


@pytest.mark.parametrize(
    ("gold", "said"),
    [
        ("Boeing 747", ["Airbus 747", "Airbus 747", "Boeing 747"]),
        ("March 5", ["April 5", "5 May", "March 5"]),
        ("Apollo 11", ["Apollo 11", "Gemini 11", "11 o'clock"]),
    ],
)
def test_a_number_within_another_answer_is_no_vote_for_it(gold, said):
    question = Question(id="q", question="Which?", answer=gold)
    group = [attempt(i, text, 0.0) for i, text in enumerate(said)]
    at = {(r["rule"], r["k"]): r["mean"] for r in scaling_curve(group, {"q": question})}
    assert at["majority (maj@k)", 1] == pytest.approx(1 / 3, abs=0.1)
    tied = len(set(said)) == 3
    assert at["majority (maj@k)", 3] == pytest.approx(1 / 3 if tied else 0.0)
    assert chosen_attempt(group, question).prediction == said[0]


def test_numbers_vote_together_where_an_accepted_answer_is_one():
    question = Question(id="q", question="How many?", answer="a dozen", accepted=("12",))
    group = [attempt(i, text, 0.0) for i, text in enumerate(["15", "12", "$12"])]
    assert chosen_attempt(group, question).id == "1"


def test_choices_that_differ_in_case_alone_are_other_votes():
    choices = ("Polish", "polish", "French")
    question = Question(id="q", question="Which?", answer="Polish", choices=choices)
    said = ["polish", "French", "Polish", "French", "french"]
    group = [attempt(i, text, 0.0) for i, text in enumerate(said)]
    at = {(r["rule"], r["k"]): r["mean"] for r in scaling_curve(group[:3], {"q": question})}
    assert at["majority (maj@k)", 3] == pytest.approx(1 / 3)
    assert chosen_attempt(group, question).id == "1"  # the only "french", in any case
    # what may be either is neither
    unsure = [attempt(i, text, 0.0) for i, text in enumerate(["POLISH", "polish", "POLISH"])]
    assert chosen_attempt(unsure, question).id == "0"


def test_votes_are_as_exact_as_answers_are_compared():
    def first(gold, *said):
        question = Question("q", "How many?", gold)
        return chosen_attempt([attempt(i, s, 0.0) for i, s in enumerate(said)], question).prediction

    assert first("1234567890123", *["1234567890124"] * 2, "1234567890123") == "1234567890124"
    assert first("1/3", "0.4", "0.4", "1/3", "0.3333333", "0.333333") == "1/3"
    assert first("7", "12345678901e300", "7", "7") == "7"
