"""Accuracy in both readings: in results, in differences from the base model, and in warnings."""

from dataclasses import replace

import pytest

from rationalize.answers import parse_reply
from rationalize.evaluation.baselines import BASE, FEW_SHOT
from rationalize.evaluation.leaderboard import over_sets
from rationalize.evaluation.metrics import metrics_from_facts, metrics_of
from rationalize.evaluation.results import summarise
from rationalize.evaluation.tables import leaderboard_tables, table
from rationalize.evaluation.terminal import format_results
from rationalize.evaluation.voting import scaling_curve
from rationalize.evaluation.warnings import warnings
from rationalize.records import Question
from rationalize.report.tables import headline
from rationalize.templates import given_attempt

CHOICES = ("rock", "snow")
QUESTIONS = {f"q{i}": Question(f"q{i}", "Which melts?", "snow", CHOICES) for i in range(60)}
OURS, CHAT, WRONG, NONE = (
    "It is warm. So the answer is (B).", "It is warm.\n\n**Answer: B**",
    "It is warm. So the answer is (A).", "It is warm.",
)  # fmt: skip


def replies(writer, *texts):
    """Attempts at every question, with these replies in turn."""
    attempts = []
    for i, question in enumerate(QUESTIONS.values()):
        text = texts[i % len(texts)]
        reply = parse_reply(text, CHOICES)
        attempts.append(given_attempt(
            f"{writer}{i}", question, reply.rationale, reply.prediction, writer=writer,
            split="test", completion=text,
        ))  # fmt: skip
    return {"test": {0: attempts}}


@pytest.fixture(scope="module")
def results():
    methods = {
        BASE: replies(BASE, CHAT, CHAT, NONE, WRONG),
        "SFT": replies("SFT", OURS, OURS, CHAT, WRONG),
    }
    return summarise(methods, QUESTIONS)


def test_both_readings_are_in_the_results(results):
    means = {
        name: {m: row["mean"] for m, row in entry["splits"]["test"]["metrics"].items()}
        for name, entry in results["methods"].items()
    }
    assert means[BASE]["accuracy"] == 0.0
    assert means[BASE]["stated_accuracy"] == 0.5
    assert means["SFT"]["accuracy"] == 0.5
    assert means["SFT"]["stated_accuracy"] == 0.75
    assert results["methods"][BASE]["splits"]["test"]["stated"] == 0.75
    assert table(results, "test")[0][2:4] == ["accuracy %", "stated accuracy %"]


def test_a_difference_from_the_base_model_takes_its_better_reading(results):
    of = {row["metric"]: row for row in results["comparisons"]}
    assert of["accuracy"]["mean"] == 0.0  # not +0.5: half of the base model's answers are right
    assert of["accuracy"]["readings"] == ["accuracy", "stated_accuracy"]
    assert of["stated_accuracy"]["mean"] == 0.25
    assert "better of its two readings" in format_results(results)


@pytest.mark.parametrize("name", [FEW_SHOT, f"{BASE} (run-2)"])
def test_the_base_model_is_known_by_its_row(name):
    methods = {name: replies(name, CHAT), "SFT": replies("SFT", OURS)}
    [row] = [r for r in summarise(methods, QUESTIONS)["comparisons"] if r["metric"] == "accuracy"]
    assert row["mean"] == 0.0


def test_a_model_that_was_evaluated_untrained_is_one_too():
    methods = {"big": replies("big", CHAT), "SFT": replies("SFT", OURS)}
    results = summarise(methods, QUESTIONS, untrained=["big"])
    [row] = [r for r in results["comparisons"] if r["metric"] == "accuracy"]
    assert (row["mean"], row["readings"]) == (0.0, ["accuracy", "stated_accuracy"])
    assert [entry.get("untrained") for entry in results["methods"].values()] == [True, None]


def test_tables_by_kind_and_by_set_and_votes_have_both_readings():
    questions = {i: replace(q, kind="ab"[int(i[1:]) % 2]) for i, q in QUESTIONS.items()}
    methods = {"big": replies("big", CHAT, WRONG), "SFT": replies("SFT", OURS)}
    results = summarise(methods, questions)
    by_kind = headline(results, "test")["kinds"]["rows"]
    assert [cell["interval"].partition(", stated ")[2] for cell in by_kind[0]["cells"]] == [
        "100.0", "",
    ]  # fmt: skip
    assert "stated" not in by_kind[1]["cells"][0]["interval"]

    over = over_sets(methods, questions, metrics_of())
    captions = [caption for caption, _ in leaderboard_tables({**results, "leaderboard": over})]
    assert captions[:2] == ["accuracy % by set", "stated accuracy % by set"]
    del methods["big"]
    over = over_sets(methods, questions, metrics_of())
    assert len(leaderboard_tables({**summarise(methods, questions), "leaderboard": over})) == 2

    twice = [a for i in range(2) for a in replies("big", CHAT, NONE)["test"][0]]
    curve = {(row["rule"], row["k"]): row["mean"] for row in scaling_curve(twice, questions)}
    assert curve["majority (maj@k)", 2] == 0.0
    assert curve["majority (maj@k), stated", 2] == curve["any (pass@k), stated", 1] == 0.5
    ours = replies("SFT", OURS)["test"][0]
    assert not [r for r in scaling_curve(ours, questions) if "stated" in r["rule"]]


def test_other_rows_are_compared_in_our_form():
    methods = {"SFT": replies("SFT", CHAT), "MaRio": replies("MaRio", OURS)}
    results = summarise(methods, QUESTIONS)
    [row] = [r for r in results["comparisons"] if r["metric"] == "accuracy"]
    assert row["mean"] == 1.0
    assert "readings" not in row
    assert "better of its two readings" not in format_results(results)


def test_replies_in_another_form_are_announced(results):
    text = "25% of the replies have the form `So the answer is ..`, though 75% state an answer"
    assert text in format_results(results)
    assert any(text in w for w in warnings(results))
    unread = summarise({"SFT": replies("SFT", NONE)}, QUESTIONS)
    assert "have the form" not in format_results(unread)
    assert "could be read from none" in format_results(unread)
    assert any("could be read from none" in w for w in warnings(unread))


def test_results_of_an_earlier_version_get_both_readings(results):
    facts = {n: fact for n, fact in results["metrics"].items() if n != "stated_accuracy"}
    assert [m.name for m in metrics_from_facts(facts)] == list(results["metrics"])
