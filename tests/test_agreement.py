"""AUROC of votes: by hand, against scipy and a double loop, over questions, on real votes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rationalize.bootstrap import resample_counts
from rationalize.evaluation.agreement import (
    MEAN_OF_SETS,
    ScoredSet,
    Target,
    agreement_rows,
    auroc,
    others_votes,
)
from rationalize.evaluation.human_agreement import (
    BASELINE_SCORES,
    OTHERS,
    OWN,
    WITHIN,
    agreement_tables,
    disagreements,
    judged_attempts,
    judged_set,
    reference_set,
)
from rationalize.evaluation.metrics import GIVEN
from rationalize.questions.judged import JudgedQuestion, JudgedRationale, load_judged_questions
from tests.toys import attempt, question

SHARED = Path(os.environ.get("RATIONALIZE_DATA") or Path(__file__).parents[2] / "shared" / "data")
KINDS = ["over all", "within"]


def target(better, worse, within=False):
    return Target(np.array(better, dtype=float), np.array(worse, dtype=float), within)


def by_loops(score, of, at, counts):
    """Every pair of copies of two different rationales, one by one."""
    up, down = (score.T if score.ndim == 2 else (score, score)) if len(score) else ((), ())
    wins = pairs = 0.0
    for i in range(len(at)):
        for j in range(len(at)):
            if i == j or (of.within and at[i] != at[j]):
                continue
            if not np.isfinite([up[i], down[i], up[j], down[j]]).all():
                continue
            copies = counts[at[i]] if of.within else counts[at[i]] * counts[at[j]]
            weight = copies * of.better_N[i] * of.worse_N[j]
            wins += weight * (1.0 if up[i] > down[j] else 0.5 if up[i] == down[j] else 0.0)
            pairs += weight
    return wins / pairs if pairs else np.nan


def test_single_votes_by_hand():
    # A 3 of 3, B 0 of 3, C 1 of 3 accept: pairs A-B 9, A-C 6, C-B 3; A-A, B-B, C-C are no pairs
    votes = target([3, 0, 1], [0, 3, 2])
    at = np.arange(3)
    assert auroc(np.array([0.9, 0.5, 0.5]), votes, at)[0] == pytest.approx((9 + 6 + 1.5) / 18)
    assert auroc(np.array([3.0, 1.0, 2.0]), votes, at)[0] == 1.0
    assert auroc(np.array([0.1, 0.5, 0.3]), votes, at)[0] == 0.0
    assert auroc(np.zeros(3), votes, at)[0] == 0.5
    assert np.isnan(auroc(np.arange(3.0), target([1, 2, 3], [0, 0, 0]), at)[0])


def test_what_is_undefined_is_left_out():
    votes = target([3, 0, 1], [0, 3, 2])
    score = np.array([np.nan, 1.0, 2.0])
    assert auroc(score, votes, np.arange(3))[0] == 1.0  # C-B alone
    assert np.isnan(auroc(np.full(3, np.nan), votes, np.arange(3))[0])


def test_ceilings_by_hand():
    # A 3 of 3, B 1 of 3, C 2 of 3. The others of an accepting vote: 1, 0, 1/2; of a rejecting
    # one: -, 1/2, 1. Pairs: A-B 6 of 6, A-C 1.5 of 3 (a tie), C-B 2 of 4 (a tie), B-C 0 of 1
    accepted, votes = np.array([3.0, 1.0, 2.0]), np.full(3, 3.0)
    others = others_votes(accepted, votes)
    assert others[1].tolist() == [0.0, 0.5]
    assert others[2].tolist() == [0.5, 1.0]
    of = target(accepted, votes - accepted)
    assert auroc(others, of, np.arange(3))[0] == pytest.approx(9.5 / 14)
    assert auroc(accepted / votes, of, np.arange(3))[0] == pytest.approx(13 / 14)
    assert np.isnan(others_votes(np.array([1.0]), np.array([1.0]))).all()


def test_within_questions_by_hand():
    # question 0: A 3 of 3, B 1 of 3 (6 pairs); question 1: C 0 of 3, D 1 of 3 (3 pairs)
    votes = target([3, 1, 0, 1], [0, 2, 3, 2], within=True)
    at = np.array([0, 0, 1, 1])
    assert auroc(np.array([1.0, 0.0, 9.0, 8.0]), votes, at)[0] == pytest.approx(6 / 9)
    assert auroc(np.array([1.0, 1.0, 8.0, 9.0]), votes, at)[0] == pytest.approx((3 + 3) / 9)
    # a score of the question alone ranks nothing within, however well it knows the questions
    easy = np.array([1.0, 1.0, 0.0, 0.0])
    assert auroc(easy, votes, at)[0] == 0.5
    assert auroc(easy, target([3, 1, 0, 1], [0, 2, 3, 2]), at)[0] == pytest.approx(24.5 / 31)


@pytest.mark.parametrize("seed", range(5))
def test_equals_mann_whitney_on_single_votes(seed):
    """scipy counts a text's own votes against each other as ties; we leave them out."""
    rng = np.random.default_rng(seed)
    accepted, score = rng.integers(0, 4, 30), rng.integers(0, 8, 30) / 4
    up, down = np.repeat(score, accepted), np.repeat(score, 3 - accepted)
    u = stats.mannwhitneyu(up, down).statistic
    tied = (accepted * (3 - accepted)).sum()
    reached = auroc(score, target(accepted, 3 - accepted), np.arange(30))[0]
    assert reached == pytest.approx((u - tied / 2) / (len(up) * len(down) - tied))
    right = rng.integers(0, 2, 30)  # with plain labels nothing is left out
    u = stats.mannwhitneyu(score[right == 1], score[right == 0]).statistic
    plain = auroc(score, target(right, 1 - right), np.arange(30))[0]
    assert plain == pytest.approx(u / (right.sum() * (1 - right).sum()))


RATIONALES = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 3), st.integers(0, 2),
        st.one_of(st.just(np.nan), st.integers(-2, 2).map(float)),
    ),
    min_size=1, max_size=9,
)  # fmt: skip


@pytest.mark.parametrize("within", [False, True], ids=KINDS)
@given(rows=RATIONALES, seed=st.integers(0, 3))
def test_equals_every_pair_counted_in_every_resample(within, rows, seed):
    better, worse, at, score = (np.array(c) for c in zip(*rows, strict=True))
    of = target(better, worse, within)
    counts = resample_counts(int(at.max()) + 1, 4, seed)
    reached = auroc(score, of, at, counts)
    expected = [by_loops(score, of, at, resample.astype(float)) for resample in counts]
    assert reached == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("within", [False, True], ids=KINDS)
@given(rows=RATIONALES)
def test_only_the_order_of_scores_counts(within, rows):
    better, worse, at, score = (np.array(c) for c in zip(*rows, strict=True))
    of = target(better, worse, within)
    [plain] = auroc(score, of, at)
    assert auroc(np.exp(score) - 7, of, at)[0] == pytest.approx(plain, nan_ok=True)
    assert auroc(-score, of, at)[0] == pytest.approx(1 - plain, nan_ok=True)


def noisy(seed, n_questions=60):
    rng = np.random.default_rng(seed)
    at = np.repeat(np.arange(n_questions), 4)
    quality = rng.normal(size=len(at))
    accepted = rng.binomial(3, 1 / (1 + np.exp(-2 * quality))).astype(float)
    single = Target(accepted, 3 - accepted, ceilings={OWN: accepted / 3})
    scores = {
        "good": quality + rng.normal(size=len(at)) / 2,
        "blind": rng.normal(size=len(at)),
        "longer": quality / 5 + rng.normal(size=len(at)),
        "shorter": rng.normal(size=len(at)),
    }
    within = Target(accepted, 3 - accepted, within=True)
    return ScoredSet(at, scores, ("longer", "shorter"), {"votes": single, "within": within})


def test_rows_tell_a_good_reward_from_a_blind_one():
    rows = agreement_rows({"a": noisy(0), "b": noisy(1)}, samples=500)
    by = {(r["set"], r["target"], r["score"]): r for r in rows}
    for name in ("a", "b", MEAN_OF_SETS):
        good, blind = by[name, "within", "good"], by[name, "within", "blind"]
        assert good["low"] > 0.5
        assert good["difference"]["low"] > 0
        assert blind["low"] < 0.5 < blind["high"]
        assert good["floor"] == "longer"
        assert by[name, "votes", OWN]["mean"] > by[name, "votes", "good"]["mean"]
        assert by[name, "votes", OWN]["role"] == "ceiling"
        assert by[name, "votes", "longer"]["difference"] is None
    both = [by[name, "votes", "good"]["mean"] for name in ("a", "b")]
    assert by[MEAN_OF_SETS, "votes", "good"]["mean"] == pytest.approx(np.mean(both))
    assert by[MEAN_OF_SETS, "votes", "good"]["n"] == 480
    wide = by["a", "votes", "good"]["high"] - by["a", "votes", "good"]["low"]
    mean = by[MEAN_OF_SETS, "votes", "good"]
    assert mean["high"] - mean["low"] < wide


def test_rows_are_the_same_at_every_call():
    assert agreement_rows({"a": noisy(0)}, samples=50) == agreement_rows(
        {"a": noisy(0)}, samples=50
    )


def test_differences_are_on_the_rationales_where_both_are_defined():
    of = noisy(0)
    scores = {**of.scores, "good": of.scores["good"].copy()}
    scores["good"][::3] = np.nan
    partial = ScoredSet(of.question_N, scores, of.baselines, of.targets)
    [row] = [
        r for r in agreement_rows({"a": partial}, samples=50)
        if (r["score"], r["target"]) == ("good", "votes")
    ]  # fmt: skip
    assert (row["undefined"], row["n"]) == (80, 240)
    baseline = np.where(np.isnan(scores["good"]), np.nan, scores["longer"])
    votes, at = of.targets["votes"], of.question_N
    gap = auroc(scores["good"], votes, at)[0] - auroc(baseline, votes, at)[0]
    assert row["difference"]["mean"] == pytest.approx(gap)


def test_an_interval_covers_what_other_questions_would_give():
    """Five votes of one text move together: the interval must come from questions."""
    reached = []
    for seed in range(40):
        [row] = [
            r for r in agreement_rows({"a": noisy(seed, 40)}, samples=300)
            if (r["score"], r["target"]) == ("good", "votes")
        ]  # fmt: skip
        reached.append(row)
    truth = np.mean([r["mean"] for r in reached])
    covered = sum(r["low"] <= truth <= r["high"] for r in reached)
    assert covered >= 34  # 95 % of 40 are 38


def judged(i, *votes):
    texts = ["it is so", "it is", "it is as they all say"]
    rationales = [JudgedRationale(t, k, 3) for t, k in zip(texts, votes, strict=True)]
    return JudgedQuestion(question(i), tuple(rationales))


def scored(attempts, **columns):
    return [
        a.scored({name: values[i] for name, values in columns.items()})
        for i, a in enumerate(attempts)
    ]


def test_judged_rationales_become_attempts_and_targets():
    questions_judged = [judged(0, 3, 1, 0), judged(1, 2, 0, 3)]
    attempts = judged_attempts(questions_judged, "toy")
    assert {a.prediction for a in attempts} == {"yes"}
    assert attempts[0].completion.endswith("So the answer is (A).")
    length = [float(len(a.rationale.split())) for a in attempts]
    with_scores = scored(attempts, length=length, fluency=[-1.0] * 6, r=[3, 1, 0, 2, 0, 3])
    of = judged_set(with_scores, ["r", "length", "fluency"])
    assert list(of.scores) == ["r", *BASELINE_SCORES]
    assert of.question_N.tolist() == [0, 0, 0, 1, 1, 1]
    rows = {(r["target"], r["score"]): r["mean"] for r in agreement_rows({"toy": of}, samples=20)}
    # majorities: yes no no, yes no yes; r orders every pair
    assert rows["majority vote", "r"] == 1.0
    assert rows["majority vote", "fluency"] == 0.5
    assert rows["majority vote", "longer"] == pytest.approx(6.5 / 9)  # 3 3 6 over 2 6 2
    assert rows["majority vote", "shorter"] == pytest.approx(2.5 / 9)
    # q0: 3-1 6, 3-0 9, 1-0 3 right; q1: 2-0 6, 3-2 3, 3-0 9 right, 2-3 none; wrong way: 0
    assert rows[WITHIN, "r"] == 1.0
    assert (WITHIN, OTHERS) in rows
    assert ("majority vote", OTHERS) not in rows
    heads, *body = agreement_tables(agreement_rows({"toy": of}, samples=20))[0][1]
    assert heads[1:4] == ["single votes", "majority vote", WITHIN]
    assert [row[0] for row in body] == ["r", *BASELINE_SCORES, OTHERS, OWN]


def test_the_clearest_disagreement_comes_first():
    questions_judged = [judged(0, 3, 1, 0), judged(1, 2, 0, 3)]
    attempts = judged_attempts(questions_judged, "toy")
    with_scores = scored(
        attempts, length=[1.0] * 6, fluency=[-1.0] * 6, r=[0.2, 0.9, 0.5, 0.1, 0.0, 0.9]
    )
    of = judged_set(with_scores, ["r", "length", "fluency"])
    questions = {q.question.id: q.question for q in questions_judged}
    [pair] = disagreements(with_scores, questions, of, WITHIN)  # question 1 has none
    assert [s["verdict"] for s in pair["sides"]] == [
        "3 of 3 people accept it", "0 of 3 people accept it",
    ]  # fmt: skip
    assert [s["score"] for s in pair["sides"]] == [0.2, 0.5]


def test_reference_rationales_right_over_wrong_and_one_model_over_another():
    questions = [question(i) for i in range(4)]
    right = {"gpt3": [1, 1, 0, 1], "llama-7b": [1, 0, 0, 0]}
    r = {"gpt3": [5.0, 4.0, 3.0, 2.0], "llama-7b": [5.0, 6.0, 1.0, None]}
    attempts = [
        attempt(q, "words", "yes", writer=m, rewards={
            GIVEN: float(right[m][i]), "r": r[m][i], "length": 1.0, "fluency": -1.0})
        for m in right for i, q in enumerate(questions)
    ]  # fmt: skip
    of = reference_set(attempts, ["r", "length", "fluency"], ("gpt3", "llama-7b"))
    rows = {(row["target"], row["score"]): row for row in agreement_rows({"toy": of}, samples=20)}
    assert rows["right, gpt3", "r"]["mean"] == pytest.approx(2 / 3)  # 5 4 2 over 3
    assert rows["right, llama-7b", "r"]["mean"] == 0.5  # 5 over 6 and 1; one is undefined
    assert rows["right, llama-7b", "r"]["undefined"] == 1
    assert rows["right, same question", "r"]["mean"] == 0.0  # question 1: 4 over 6
    assert rows["gpt3 over llama-7b", "r"]["mean"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert rows["gpt3 over llama-7b, both right", "r"]["mean"] == 0.5


def test_real_votes_all_load_and_take_seconds():
    sets = {"acceptability_commonsenseqa": (886, 4426), "acceptability_snli": (1000, 5000)}
    if not all((SHARED / name).is_dir() for name in sets):
        pytest.skip(f"no judged rationales in {SHARED}; RATIONALIZE_DATA names the sets' folder")
    scored_sets = {}
    for name, counts in sets.items():
        loaded = load_judged_questions(SHARED / name, "train")
        attempts = judged_attempts(loaded, name)
        assert (len(loaded), len(attempts)) == counts
        rng = np.random.default_rng(0)
        columns = {
            "length": [float(len(a.rationale.split())) for a in attempts],
            "fluency": rng.normal(size=len(attempts)).tolist(),
            "chance": rng.normal(size=len(attempts)).tolist(),
        }
        scored_sets[name] = judged_set(scored(attempts, **columns), list(columns))
    started = time.monotonic()
    rows = {(r["set"], r["target"], r["score"]): r for r in agreement_rows(scored_sets)}
    assert time.monotonic() - started < 60
    for name in scored_sets:
        others, ceiling = rows[name, "single votes", OTHERS], rows[name, "single votes", OWN]
        assert 0.5 < others["low"] < others["high"] < ceiling["low"] < 1
        assert abs(rows[name, WITHIN, "chance"]["mean"] - 0.5) < 0.03
