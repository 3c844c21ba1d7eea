"""What rationales tell a reader: information, simulatability with leak control, cut and changed."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rationalize.cli import main
from rationalize.errors import UsageError
from rationalize.evaluation.leakage import leakage_adjusted
from rationalize.evaluation.results import summarise
from rationalize.evaluation.tables import format_table
from rationalize.methods.scoring import Scoring, make_suite
from rationalize.methods.settings import RunConfig
from rationalize.models.choices import ChoiceScorer
from rationalize.models.memo import Memo
from rationalize.models.scorers import AnswerFold, AnswerScorer
from rationalize.records import Question
from rationalize.rewards import READS_ANSWERS, RewardSuite, load_rewards
from rationalize.rewards.base import LONGEST
from rationalize.rewards.following import CUTS, STEPS, cut, one_negated, without_one
from rationalize.runs import Run
from tests.reward_toys import FREE, QUESTION, attempt, scores
from tests.tiny import tiny_folder, tiny_policy

FAITHFUL = ["simulatability", "prediction_leak", "truncation_drop", "removal_drop", "negation_drop"]


class Reader:
    """p(steel) by the rationale's text, `None` for none; of a free answer p(answer)."""

    weights_hash = "reader"

    def __init__(self, steel):
        self.steel = steel

    def probabilities(self, questions, rationales):
        probabilities = []
        for q, r in zip(questions, rationales, strict=True):
            p = self.steel[r]
            probabilities.append([1 - p, p] if q.choices else [p])
        return probabilities


def judged(name, reader, *attempts):
    return scores(load_rewards([name], answer_scorer=reader)[0], *attempts)


def test_information_gain_is_the_log_ratio_in_nats():
    reader = Reader({None: 0.4, "good": 0.8, "bad": 0.1, "never": 0.0})
    values = judged(
        "information_gain", reader, attempt("good"), attempt("bad"), attempt(" "),
        attempt("good", FREE, "5"), attempt("never"),
    )  # fmt: skip
    assert values[:4] == pytest.approx([math.log(2), -math.log(4), 0.0, math.log(2)])
    assert values[4] is None  # log 0
    assert load_rewards(["information_gain"], answer_scorer=reader)[0].trainable


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_information_gain_adds_up_and_agrees_with_consistency(p0, p, other):
    reader = Reader({None: p0, "a": p, "b": other})
    gain, bits = (
        judged(name, reader, attempt("a"), attempt("b"))
        for name in ("consistency", "information_gain")
    )
    assert bits[0] - bits[1] == pytest.approx(math.log(p / other))
    # p - p0 rounds: it may tie where the logarithms still differ in the last place
    assert (gain[0] - gain[1]) * (bits[0] - bits[1]) >= 0


def test_simulatability_asks_for_the_prediction_not_the_gold_answer():
    reader = Reader({None: 0.3, "so steel": 0.9, "no clue": 0.2})  # alone, it answers wood
    values = judged(
        "simulatability", reader, attempt("so steel"), attempt("no clue"),
        attempt("so steel", prediction="wood"), attempt("no clue", prediction="wood"), attempt(" "),
        attempt("so steel", prediction=None), attempt("so steel", prediction="cork"),
        attempt("so steel", FREE, "4"), attempt("x" * LONGEST),
    )  # fmt: skip
    assert values == [1.0, 0.0, -1.0, 0.0, 0.0, None, None, None, None]


def test_prediction_leak_is_about_the_attempts_own_answer():
    values = judged(
        "prediction_leak", None, attempt("It is steel."),
        attempt("It is steel.", prediction="wood"), attempt("It is (A).", prediction="wood"),
        attempt("It is heavy."),
        attempt("It is steel.", prediction=None),
    )  # fmt: skip
    assert values == [1.0, 0.0, 1.0, 0.0, None]


def test_truncation_drop_by_hand():
    reader = Reader({None: 0.2, "a": 0.3, "a b": 0.5, "a b c": 0.6, "a b c d": 0.9, "one": 0.7})
    values = judged(
        "truncation_drop", reader, attempt("a b c d"), attempt("a b c d", prediction="wood"),
        attempt("one"), attempt("a b c d", FREE, "5"), attempt(" "),
        attempt("a b c d", prediction=None), attempt("x " * LONGEST),
    )  # fmt: skip
    assert values[0] == pytest.approx(0.9 - (0.2 + 0.3 + 0.5 + 0.6) / 4)
    assert values[1] == pytest.approx(-values[0])  # p(wood) = 1 - p(steel)
    assert values[2] == pytest.approx(0.7 - 0.2)  # all four cuts of one word leave nothing
    assert values[3] == values[0]  # without choices, the probability of what was predicted
    assert values[4:] == [None, None, None]


def test_altered_step_drops_by_hand():
    text = "Steel is dense. Wood is light."
    reader = Reader(
        {
            None: 0.2, text: 0.9, "Wood is light.": 0.4, "Steel is dense.": 0.6,
            "Steel is not dense. Wood is light.": 0.1, "Steel is dense. Wood is not light.": 0.5,
            "Steel is not dense.": 0.15,
        }
    )  # fmt: skip
    asked = (attempt(text), attempt("Steel is dense."), attempt(""), attempt(text, prediction=None))
    removed = judged("removal_drop", reader, *asked)
    assert removed[:2] == pytest.approx([0.9 - (0.4 + 0.6) / 2, 0.6 - 0.2])
    negated = judged("negation_drop", reader, *asked)
    assert negated[:2] == pytest.approx([0.9 - (0.1 + 0.5) / 2, 0.6 - 0.15])
    assert removed[2:] == negated[2:] == [None, None]


@given(st.lists(st.sampled_from(["Steel sinks.", "so", "it is!", "wood\n", "2.5 kg"]), max_size=30))
def test_versions_of_any_text(parts):
    text = " ".join(parts).strip()
    cuts = cut(text)
    assert len(cuts) == CUTS
    assert cuts[0] == ""
    for short, long in zip(cuts, [*cuts[1:], text], strict=True):
        assert long.startswith(short)
    if text:
        assert 1 <= len(without_one(text)) == len(one_negated(text)) <= STEPS
        assert all(version != text for version in without_one(text))


@given(st.floats(0, 1))
def test_a_reader_that_does_not_care_finds_nothing(p):
    class Deaf(Reader):
        def probabilities(self, questions, rationales):
            return [[1 - p, p] for _ in questions]

    for name in ("simulatability", "truncation_drop", "removal_drop", "negation_drop"):
        values = judged(name, Deaf({}), attempt("Steel is dense. So it sinks."))
        assert values == pytest.approx([0.0], abs=1e-12)


def test_diagnostics_are_refused_where_something_is_trained(tmp_path):
    assert not any(r.trainable for r in load_rewards(FAITHFUL, answer_scorer=Reader({}), base=None))
    with (
        Run.open(tmp_path, {}) as run,
        pytest.raises(UsageError, match="prediction_leak: a diagnostic, which is never trained on"),
    ):
        make_suite(Scoring(["prediction_leak"]), RunConfig(), run, tiny_policy(), [])


def test_each_distinct_text_is_read_once_whatever_asks():
    read = []

    class Counted(AnswerFold):
        def probabilities(self, questions, rationales, texts):
            read.extend(zip([q.id for q in questions], rationales, strict=True))
            return super().probabilities(questions, rationales, texts)

    policy = tiny_policy("decoder")
    scorer = AnswerScorer([Counted(ChoiceScorer(policy), ChoiceScorer(policy))])
    twin = Question("q3", "Which sinks?", "wood", ("wood", "steel"))
    text = "Steel is dense. So it sinks."
    attempts = [
        attempt(text), attempt(text, prediction="wood"), attempt("Steel is dense."),
        attempt(text, twin), attempt("", twin),
    ]  # fmt: skip
    suite = RewardSuite(load_rewards(list(READS_ANSWERS), answer_scorer=scorer))
    scored = suite.score(attempts, {q.id: q for q in (QUESTION, twin)})
    assert len(read) == len(set(read))
    assert [r for q, r in read if q == "q1" and r is None] == [None]
    assert all(set(READS_ANSWERS) <= set(a.rewards) for a in scored)


def test_a_memo_computes_once_and_forgets_the_oldest():
    asked = []
    words = Memo[str](2)

    def answer(keys):
        return lambda rows: asked.append([keys[i] for i in rows]) or [str(keys[i]) for i in rows]

    assert words.ask([1, 2, 1], answer([1, 2, 1])) == ["1", "2", "1"]
    assert words.ask([2, 3], answer([2, 3])) == ["2", "3"]
    assert words.ask([1, 3], answer([1, 3])) == ["1", "3"]
    assert words.ask([], answer([])) == []
    assert asked == [[1, 2], [3], [1]]
    words.forget()  # whole lists are known
    assert words.ask([3], answer([3])) == ["3"]
    assert words.ask([1, 3], answer([1, 3])) == ["1", "3"]
    assert asked == [[1, 2], [3], [1]]
    words.forget()
    assert words.ask([1, 3], answer([1, 3])) == ["1", "3"]
    assert asked == [[1, 2], [3], [1], [1, 3]]


def simulated(score, leak, i=0):
    made = attempt(f"{score} {leak} {i}")
    return made.scored({"simulatability": score, "prediction_leak": leak})


def test_leakage_adjusted_by_hand():
    attempts = [simulated(1.0, 1.0, i) for i in range(6)]
    attempts += [
        simulated(1.0, 0.0),
        simulated(0.0, 0.0),
        simulated(-1.0, 0.0),
        simulated(0.0, 0.0),
    ]
    attempts += [simulated(None, 1.0), simulated(None, None)]
    means = leakage_adjusted(attempts)
    assert {g: (row["mean"], row["n"]) for g, row in means.items()} == {
        "open": (0.0, 4), "leaking": (1.0, 6), "adjusted": (0.5, 10)
    }  # fmt: skip
    more = leakage_adjusted([*attempts, *(simulated(1.0, 1.0, i) for i in range(90))])
    assert more["adjusted"]["mean"] == 0.5  # leaking more often gains nothing
    alone = leakage_adjusted([simulated(1.0, 1.0)])
    assert (alone["leaking"]["mean"], alone["open"], alone["adjusted"]) == (1.0, None, None)
    assert leakage_adjusted([simulated(None, 1.0), attempt("x")]) is None


def test_leakage_intervals_are_over_questions():
    """Ten questions of ten equal attempts each are ten observations, not a hundred."""
    many = [Question(f"q{i}", "?", "steel", ("wood", "steel")) for i in range(10)]
    attempts = []
    for i, q in enumerate(many):
        for j in range(10):
            made = attempt(f"{j}", q)
            attempts.append(made.scored({"simulatability": i % 2 * 1.0, "prediction_leak": 0.0}))
    row = leakage_adjusted(attempts)["open"]
    assert (row["mean"], row["n"]) == (0.5, 100)
    assert row["high"] - row["low"] == pytest.approx(2 * 1.96 * 0.5 / 10**0.5, abs=0.07)


def test_the_split_is_in_results_and_in_the_table():
    attempts = [simulated(1.0, 1.0), simulated(0.0, 0.0)]
    specs = load_rewards(FAITHFUL, answer_scorer=Reader({}))[:2]
    results = summarise({"me": {"test": {0: attempts}}}, {"q1": QUESTION}, [], specs)
    cell = results["methods"]["me"]["splits"]["test"]
    assert cell["leakage_adjusted"]["adjusted"]["mean"] == 0.5
    text = format_table(results, "test")
    assert "simulatability, adjusted for leaks" in text
    assert "1.000 [1.000, 1.000] (n = 1)" in text
    plain = summarise({"me": {"test": {0: [attempt("x")]}}}, {"q1": QUESTION})
    assert "adjusted for leaks" not in format_table(plain, "test")


def test_score_and_check_rewards_know_them_by_name(tmp_path, capsys):
    folder = tmp_path / "scorer"
    tiny_folder("decoder", folder / "model")
    fold = {"answer": "model", "answer_from_rationale": "model", "temperature": {}}
    facts = {"kind": "answer scorer", "texts": "choices", "seen": {}, "folds": [fold]}
    (folder / "scorer.json").write_text(json.dumps(facts))
    row = {"question": "Which sinks?", "choices": ["wood", "steel"], "answer": "steel"}
    lines = [
        {**row, "rationale": "It is steel.", "prediction": "steel"},
        {**row, "rationale": "It is dense.", "prediction": "steel"},
        {**row, "rationale": "It is dense.", "prediction": "wood"},
    ]
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    flags = ["--answer-scorer", str(folder)]
    named = "simulatability,truncation_drop,information_gain"
    assert main(["score", str(file), "--rewards", named, "--out", str(out), *flags]) == 0
    values = [json.loads(line)["rewards"] for line in Path(out).read_text().splitlines()]
    rewards = load_rewards(named.split(","), answer_scorer=AnswerScorer.load(folder))
    question = Question("q1", "Which sinks?", "steel", ("wood", "steel"))
    attempts = [attempt(line["rationale"], question, line["prediction"]) for line in lines]
    for reward in rewards:
        expected = scores(reward, *attempts, questions=[question])
        # read in batches of another composition
        assert [f[reward.name] for f in values] == pytest.approx(expected, abs=1e-3)
    assert [f["prediction_leak"] for f in values] == [1.0, 0.0, 0.0]  # it came along
    leaking, *open = (f["simulatability"] for f in values)
    assert f"adjusted for leaks {(leaking + sum(open) / 2) / 2:.4f}" in capsys.readouterr().out
    assert main(["check-rewards", "--limit", "8", *flags]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*READS_ANSWERS, "prediction_leak"))
