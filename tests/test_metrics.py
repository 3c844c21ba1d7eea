"""Metrics per question, NRG's published vectors, and what is wrong with a reward's scores."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy import stats

from rationalize.evaluation.diagnostics import (
    TOO_NARROW,
    reward_correlations,
    spearman,
    spread,
)
from rationalize.evaluation.metrics import (
    ACCURACY,
    LENGTH,
    PARSE_RATE,
    applicable,
    distinct_n,
    metrics_from_facts,
    metrics_of,
    nrg,
    per_question,
    reward_metric,
    settle_worst,
)
from rationalize.records import Attempt, Question

RANGES = {
    "accuracy": (0, 1),
    "plausibility": (0, 1),
    "diversity": (0, 1),
    "consistency": (-1, 1),
}


@dataclass(frozen=True)
class Spec:
    name: str
    range: tuple[float, float]


REWARDS = [Spec(name, bounds) for name, bounds in RANGES.items() if name != "accuracy"]
QUESTION = Question("q1", "What melts?", "ice", choices=("ice", "stone"))
QUESTIONS = {"q1": QUESTION, "q2": Question("q2", "2 + 2?", "4")}


def attempt(question_id="q1", prediction="ice", rationale="It is cold.", **fields):
    base = Attempt(
        id="a",
        question_id=question_id,
        mode="rationale_answer",
        prompt="",
        completion="",
        rationale=rationale,
        prediction=prediction,
        gold="ice",
        parsed=prediction is not None,
        finish="stop",
        writer="policy",
        model="m",
        round=0,
        step=0,
        split="test",
        seed=0,
        n_tokens=5,
    )
    return replace(base, **fields)


@pytest.mark.parametrize(
    ("means", "expected"),
    [((0.5764, 0.33, 0.95, -0.02), 58.66), ((0.6507, 0.39, 0.97, 0.04), 63.27)],
)
def test_nrg_of_the_published_rows(means, expected):
    by_name = dict(zip(RANGES, means, strict=True))
    assert nrg(by_name, RANGES) == pytest.approx(expected, abs=0.005)


def test_nrg_per_attempt_averages_to_nrg_of_the_means():
    scores = [(0.3, 1.0, -0.4), (0.9, 0.8, 0.2), (0.1, 0.5, 1.0)]
    attempts = [
        attempt(
            f"q{i}",
            prediction=["ice", "stone", "ice"][i],
            rewards=dict(zip(["plausibility", "diversity", "consistency"], s, strict=True)),
        )
        for i, s in enumerate(scores)
    ]
    questions = {f"q{i}": QUESTION for i in range(3)}
    metrics = {m.name: m for m in metrics_of(REWARDS)}
    per_attempt = per_question(attempts, questions, metrics["nrg"])
    means = {
        m: np.mean(list(per_question(attempts, questions, metrics[m]).values())) for m in RANGES
    }
    assert np.mean(list(per_attempt.values())) == pytest.approx(nrg(means, RANGES))


def test_accuracy_parse_rate_and_length_per_question_average_over_its_attempts():
    attempts = [
        attempt(prediction="ice", rationale="One two three."),
        attempt(prediction="stone", rationale="One."),
        attempt("q2", prediction="4.0", rationale=""),
        attempt("q2", prediction=None, rationale="So so"),
    ]
    assert per_question(attempts, QUESTIONS, ACCURACY) == {"q1": 0.5, "q2": 0.5}
    assert per_question(attempts, QUESTIONS, PARSE_RATE) == {"q1": 1.0, "q2": 0.5}
    assert per_question(attempts, QUESTIONS, LENGTH) == {"q1": 2.0, "q2": 1.0}


@pytest.mark.parametrize("undefined", [None, math.nan])
def test_an_undefined_score_counts_as_the_worst_of_its_range(undefined):
    attempts = [
        attempt(rewards={"consistency": 0.5}),
        attempt("q2", rewards={"consistency": undefined}),
    ]
    consistency = reward_metric(Spec("consistency", (-1, 1)))
    assert per_question(attempts, QUESTIONS, consistency) == {"q1": 0.5, "q2": -1.0}


def test_without_a_low_end_undefined_counts_as_the_lowest_score_found():
    fluency = reward_metric(Spec("fluency", (-math.inf, 0)))
    attempts = [attempt(rewards={"fluency": s}) for s in (-2.0, -7.5, None)]
    [settled] = settle_worst([fluency], attempts, QUESTIONS)
    assert settled.worst == -7.5
    assert settled.value(attempts[2], QUESTION) == -7.5


def test_what_is_undefined_of_a_diagnostic_is_left_out():
    simulatability = reward_metric(Spec("simulatability", (-1, 1)), "diagnostic")
    attempts = [
        attempt(rewards={"simulatability": 1.0}), attempt(rewards={"simulatability": None}),
        attempt("q2", rewards={"simulatability": math.nan}),
    ]  # fmt: skip
    assert per_question(attempts, QUESTIONS, simulatability) == {"q1": 1.0}


def test_nrg_takes_all_bounded_rewards_unless_told():
    rewards = [*REWARDS, Spec("correctness", (0, 1)), Spec("fluency", (-math.inf, 0))]
    parts = [m.name for m in metrics_of(rewards) if m.in_nrg]
    assert parts == ["accuracy", "plausibility", "diversity", "consistency"]
    chosen = metrics_of(rewards, nrg=["diversity"])
    assert [m.name for m in chosen if m.in_nrg] == ["accuracy", "diversity"]
    with pytest.raises(ValueError, match="finite range"):
        metrics_of(rewards, nrg=["fluency"])


def test_metrics_survive_results_json():
    rewards = [*REWARDS, Spec("fluency", (-math.inf, 0))]
    metrics = metrics_of(rewards, [Spec("repetition", (0, 1))])
    again = metrics_from_facts({m.name: m.facts() for m in metrics})
    assert [m.facts() for m in again] == [m.facts() for m in metrics]
    one = attempt(rewards={"plausibility": 0.2, "diversity": 1.0, "consistency": None})
    assert [m.value(one, QUESTION) for m in again[:4]] == [
        m.value(one, QUESTION) for m in metrics[:4]
    ]


def test_answers_without_rationales_have_no_rationale_metrics():
    metrics = metrics_of(REWARDS)
    scored = {"plausibility": 0.5, "diversity": 1.0, "consistency": 0.0}
    direct = [attempt(mode="answer", rationale="", rewards=scored)]
    assert [m.name for m in applicable(metrics, direct)] == [
        "accuracy", "stated_accuracy", "parse_rate",
    ]  # fmt: skip
    unscored = [m.name for m in applicable(metrics, [attempt()])]
    # no NRG of accuracy alone
    assert unscored == ["accuracy", "stated_accuracy", "parse_rate", "length", "truncated"]
    with pytest.raises(ValueError, match="diversity: only 1 of 2"):
        applicable(
            metrics,
            [attempt(rewards=scored), attempt(rewards={"plausibility": 0.1, "consistency": 0})],
        )


def test_distinct_n_is_low_for_one_rationale_everywhere():
    assert distinct_n(["a b c", "a b d"], 2) == 3 / 4
    assert distinct_n(["the same words"] * 10, 2) == 0.1
    assert distinct_n(["", "one"]) is None


def test_spearman_handles_ties_and_undefined_like_scipy():
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 4, 50).astype(float), rng.normal(size=50)
    y[:25] += x[:25]
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)
    x[3] = math.nan
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y, nan_policy="omit").statistic)
    assert spearman(np.ones(5), np.arange(5.0)) is None
    assert spearman(np.arange(2.0), np.arange(2.0)) is None


def test_reward_correlations_show_what_follows_length():
    attempts = [
        attempt(rationale="word " * i, rewards={"plausibility": i / 40, "diversity": 1.0})
        for i in range(1, 30)
    ]
    metrics = metrics_of([Spec("plausibility", (0, 1)), Spec("diversity", (0, 1))])
    matrix = reward_correlations(attempts, QUESTIONS, metrics)
    at = {name: i for i, name in enumerate(matrix.names)}
    assert matrix.r[at["plausibility"]][at["length"]] == pytest.approx(1.0)
    assert matrix.r[at["diversity"]][at["length"]] is None  # constant
    assert matrix.n == 29


def test_numersense_diversity_is_too_narrow():
    """97.4 % of its rationales by its teacher, as MaRio released them, tie at 1.0."""
    scores = [1.0] * 974 + list(np.linspace(0.5, 0.98, 26))
    pool = spread(scores, 5)
    assert pool.verdict == TOO_NARROW
    assert pool.filled == 2


def test_spread_verdicts():
    even = list(np.linspace(0, 1, 100))
    assert spread(even, 5).verdict == "ok"
    assert spread(even, 5).ceiling == pytest.approx(0.8, abs=0.01)  # mean of best, worst fifth
    assert spread([0.9 + 0.02 * s for s in even], 5).verdict == TOO_NARROW  # 1.6 % of the range
    assert spread([0.5] * 40, 5).verdict == TOO_NARROW
    half = [0.5] * 5 + [None] * 5  # undefined is the worst of the range
    assert spread(half, 5, (-1, 1)).verdict == "ok"
    assert spread(half, 5, (-1, 1)).ceiling == 1.5
    assert spread([-5.0, -4.0, -1.0] * 9, 3, (-math.inf, 0)).verdict == "ok"


def test_a_discrete_reward_is_binned_by_value():
    """By rank into two bins, 40 % right and 60 % wrong would all fall into the first."""
    scores = [1.0] * 40 + [0.0] * 60
    assert spread(scores, 2, levels=(1.0, 0.0)).verdict == "ok"
    assert spread([1.0] * 96 + [0.0] * 4, 2, levels=(1.0, 0.0)).verdict == TOO_NARROW
