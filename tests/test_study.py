"""Studies: their design, what votes add up to, exports, and the command line from end to end."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from rationalize.cli import main
from rationalize.config.checks import OutOfRange
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.results import summarise
from rationalize.questions.judged import load_judged_questions
from rationalize.report import write_report
from rationalize.report.study import study_section, study_text, write_study
from rationalize.study.answers import counted, failed_checks
from rationalize.study.asks import BETTER, Ask, questionnaire
from rationalize.study.design import load_study, make_items, order_for, save_study
from rationalize.study.export import (
    ask_named,
    judged_rows,
    label_studio_tasks,
    label_studio_view,
    vote_rows,
)
from rationalize.study.results import study_results
from rationalize.study.store import AlreadyVoted, Store, Vote
from tests.result_toys import QUESTIONS, REWARDS, attempts_of
from tests.score_files import HOSTILE
from tests.study_toys import EACH, stored, study


def vote(annotator: int, item: int, answers, first: str = "a") -> Vote:
    return Vote(annotator, item, answers, first, 2.0, 1.0)


def three_people(made, *choices: str) -> list[Vote]:
    """Person i answers every item and question with the i-th choice."""
    return [
        vote(i + 1, item, {ask.name: choice for ask in made.asks.questions}, "ab"[item % 2])
        for i, choice in enumerate(choices)
        for item in range(len(made.items))
    ]


def test_the_order_is_drawn_for_each_annotator_and_kept(tmp_path):
    made = study(("A", "B", "C"), n=12, checks=2)
    save_study(made, tmp_path)
    assert load_study(tmp_path) == made
    orders = [order_for(made, who) for who in (1, 2, 3)]
    assert orders == [order_for(load_study(tmp_path), who) for who in (1, 2, 3)]
    assert len({tuple(item for item, _ in order) for order in orders}) == 3
    assert len(set(orders)) == 3
    for order in orders:
        assert sorted(item for item, _ in order) == list(range(14))
        # of every pair's four items, two have each method first
        first = Counter(
            (made.items[i].a.method, made.items[i].b.method, side)
            for i, side in order if not made.items[i].check
        )  # fmt: skip
        assert set(first.values()) == {2}
    assert order_for(replace(made, seed=1), 1) != orders[0]


def test_comparisons_are_spread_over_pairs_questions_and_annotators():
    made = study(("A", "B", "C"), n=12, per_annotator=4)
    assert Counter((i.a.method, i.b.method) for i in made.items) == {
        ("A", "B"): 4, ("A", "C"): 4, ("B", "C"): 4,
    }  # fmt: skip
    assert len({i.question_id for i in made.items}) == 12  # none twice before all once
    shares = [order_for(made, who) for who in range(1, 7)]
    assert {len(share) for share in shares} == {4}
    assert set(Counter(i for share in shares for i, _ in share).values()) == {2}


def test_what_cannot_be_compared_is_left_out_and_told():
    methods = {
        m: {a.question_id: a for a in attempts_of(m) if (m, a.question_id) != ("y", "q3")}
        for m in "xy"
    }
    with pytest.raises(UserError, match="11 pairs are equal, 1 lack one"):
        make_items(methods, QUESTIONS, 20, checks=0, seed=0)
    methods["y"]["q0"] = replace(methods["y"]["q0"], rationale="Another.")
    items, notes = make_items(methods, QUESTIONS, 20, checks=1, seed=0)
    assert [i.question_id for i in items] == ["q0", "q0"]
    assert [bool(i.check) for i in items] == [False, True]
    assert len(notes) == 2


def test_questions_of_a_file(tmp_path):
    file = tmp_path / "q.yaml"
    file.write_text(
        "title: Hints\nquestions:\n- name: helps\n  ask: Which helps?\n  tie: false\n"
        "- name: safe\n  ask: Safe?\n  kind: each\n"
    )
    found = questionnaire(str(file))
    assert found.title == "Hints"
    assert found.questions == (
        Ask("helps", "Which helps?", tie=False),
        Ask("safe", "Safe?", "each"),
    )
    assert [ask.answers for ask in found.questions] == [("1", "2"), ("yes", "no")]
    for text, message in (
        ("title: x\n", "no 'questions'"), ("questions: []\n", "expected at least one"),
        ("questions:\n- {name: A b, ask: x}\n", "small letters"),
        ("questions:\n- {name: a, ask: ' '}\n", "is empty"),
        ("questions:\n- {name: a, ask: x, kind: stars}\n", "stars"),
        ("questions:\n- {name: a, ask: x}\n- {name: a, ask: y}\n", "each once"),
    ):  # fmt: skip
        file.write_text(text)
        with pytest.raises(UsageError, match=message):
            questionnaire(str(file))
    with pytest.raises(UsageError, match=r"--ask 'marios': .*did you mean 'mario'"):
        questionnaire("marios")
    assert [ask.name for ask in questionnaire("mario").questions] == [
        "plausibility", "consistency", "better",
    ]  # fmt: skip


def test_all_are_invited_or_nobody(tmp_path):
    store, tokens = stored(tmp_path, study())
    with pytest.raises(UserError, match="'anna' is invited already"):
        store.invite_all(["carl", "anna"])
    with pytest.raises(UserError, match="'carl' is not invited"):
        store.invite_all(["anna", "carl"], renew=True)
    assert [a.name for a in store.annotators()] == ["anna", "ben"]
    assert store.annotator(tokens["anna"]).name == "anna"
    both = store.invite_all(["carl", "dora"])
    assert [store.annotator(both[name]).name for name in ("carl", "dora")] == ["carl", "dora"]


@pytest.mark.parametrize("name", ["form", "item", "shown"])
def test_no_question_is_named_as_a_field_of_the_form(name):
    with pytest.raises(OutOfRange, match=f"name is '{name}', which forms use"):
        Ask(name, "Which is better?")
    assert Ask(name, "Is it good?", "each").name == name  # its fields are NAME/1 and NAME/2


def test_a_vote_is_stored_once(tmp_path):
    store, tokens = stored(tmp_path, study())
    store.add(vote(1, 0, {"better": "a"}))
    with pytest.raises(AlreadyVoted):
        store.add(vote(1, 0, {"better": "b"}))
    store.add(vote(2, 0, {"better": "b"}))
    assert [v.answers["better"] for v in Store(tmp_path).votes()] == ["a", "b"]
    assert store.annotator(tokens["ben"]).name == "ben"
    assert store.annotator("x" * 32) is None
    with pytest.raises(UserError, match="invited already"):
        store.invite("anna")
    with pytest.raises(UserError, match="is not invited"):
        store.invite("carl", renew=True)
    with pytest.raises(UserError, match="no such file"):
        Store(tmp_path / "nowhere")


def test_results_by_hand(tmp_path):
    made = study(n=6, asks=[BETTER])
    store, _ = stored(tmp_path, made, ["anna", "ben", "carl", "dora"])
    found = study_results(made, store.annotators(), three_people(made, "b", "b", "a"), [])
    assert (found["votes"], found["items"], found["questions"]) == (18, 6, 6)
    [ask] = found["asks"]
    [row] = ask["preferences"]
    assert (row["a"], row["b"], row["for_a"], row["same"], row["for_b"]) == (
        "Alpha9", "Beta7", 6, 0, 12,
    )  # fmt: skip
    assert row["mean"] == pytest.approx(1 / 3)
    assert (row["low"], row["high"]) == (0.0, 1.0)  # three people are few
    # of each item's other two votes: half agree with anna and with ben, none with carl
    assert ask["people"]["mean"] == pytest.approx(1 / 3)
    # coincidences: o_bb = 1 and o_ab = o_ba = 1 per item, so 1 - (12 / 18) / (144 / 306)
    assert ask["alpha"]["nominal"]["mean"] == pytest.approx(1 - (12 / 18) / (144 / 306))
    [reward] = ask["rewards"]  # the later method has the higher score
    assert (reward["reward"], reward["mean"]) == ("length", pytest.approx(2 / 3))
    assert ask["first"]["mean"] == pytest.approx(0.5)
    assert [a["counted"] for a in found["annotators"]] == [True, True, True, False]
    text = study_text(found)
    assert "better: Alpha9 and Beta7 cannot be told apart: 33.3 [0.0, 100.0] % for Alpha9" in text


def test_ties_and_a_clear_preference():
    made = study(n=6, asks=[BETTER])
    [ask] = study_results(made, [], three_people(made, "b", "same", "b"), [])["asks"]
    [row] = ask["preferences"]
    assert (row["for_a"], row["same"], row["for_b"], row["mean"]) == (
        0,
        6,
        12,
        pytest.approx(1 / 6),
    )
    assert ask["people"]["mean"] == pytest.approx(0.75)  # for each that prefers: one same, one b
    assert ask["people"]["votes"] == 12
    votes = three_people(made, "b", "b", "b")
    found = study_results(made, [], votes, [])
    assert found["asks"][0]["alpha"]["nominal"] is None  # one category only
    [sentence] = study_section(found)["sentences"]  # by the rule of three up to 3 / 6
    assert sentence.startswith("better: Alpha9 and Beta7 cannot be told apart: 0.0 [0.0, 50.0] %")


def test_three_methods_are_ranked():
    made = study(("A", "B", "C"), n=12, asks=[BETTER])
    worth = {"A": 0, "B": 2, "C": 1}
    better = ["ab"[worth[i.b.method] > worth[i.a.method]] for i in made.items]
    votes = [vote(who, i, {"better": side}) for who in (1, 2, 3) for i, side in enumerate(better)]
    [ask] = study_results(made, [], votes, [])["asks"]
    assert [row["method"] for row in ask["ranking"]] == ["B", "C", "A"]
    assert all(row["low"] <= row["mean"] <= row["high"] for row in ask["ranking"])
    assert len(ask["preferences"]) == 3


def test_who_fails_checks_is_left_out():
    made = study(n=4, asks=[BETTER, EACH], checks=2)
    assert [made.items[i].check for i in made.checks] == ["b", "a"]
    right = {"b": {"better": "b", "fine/a": "no", "fine/b": "yes"},
             "a": {"better": "a", "fine/a": "yes", "fine/b": "no"}}  # fmt: skip
    votes = []
    for item in range(4):
        votes += [vote(who, item, right["a"]) for who in (1, 2)]
    for item in made.checks:
        votes.append(vote(1, item, right[made.items[item].check]))
        votes.append(vote(2, item, {**right[made.items[item].check], "better": "same"}))
    assert failed_checks(made, votes) == {1: [True, True], 2: [False, False]}
    assert {v.annotator for v in counted(made, votes)} == {1}
    assert len(counted(made, votes)) == 4
    assert {v.annotator for v in counted(replace(made, max_failed_checks=2), votes)} == {1, 2}


def test_questions_about_each_text():
    made = study(n=6, asks=[EACH])
    says = [("yes", "no"), ("yes", "yes"), ("no", "no")]
    votes = [
        vote(who + 1, item, {"fine/a": a, "fine/b": b})
        for who, (a, b) in enumerate(says)
        for item in range(6)
    ]
    [ask] = study_results(made, [], votes, [])["asks"]
    assert [(r["method"], r["mean"]) for r in ask["accepted"]] == [
        ("Alpha9", pytest.approx(2 / 3)), ("Beta7", pytest.approx(1 / 3)),
    ]  # fmt: skip
    assert ask["preferences"][0]["mean"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    rows = judged_rows(made, votes, EACH)
    assert [[t["votes_acceptable"], t["votes"]] for t in rows[0]["judged_rationales"]] == [
        [2, 3], [1, 3],
    ]  # fmt: skip


def test_exports(tmp_path):
    made = study(n=4)
    first, *others = made.items
    first = replace(first, a=replace(first.a, rationale=HOSTILE))
    made = replace(made, items=(first, *others))
    store, _ = stored(tmp_path / "s", made, ["anna", "ben", "carl"])
    for one in three_people(made, "b", "same", "a"):
        store.add(one)
    out = tmp_path / "people.jsonl"
    assert main(["study", "export", str(tmp_path / "s"), "--out", str(out)]) == 0
    judged = load_judged_questions(out)
    assert [j.question.answer for j in judged] == [i.answer for i in made.items]
    assert [(r.accepted, r.votes) for j in judged for r in j.rationales] == [(1, 2), (1, 2)] * 4
    assert HOSTILE in [r.rationale for j in judged for r in j.rationales]
    assert ask_named(made, None).name == "better"
    with pytest.raises(UsageError, match="asks plausibility, consistency, better"):
        ask_named(made, "nice")
    tasks = label_studio_tasks(made, store.votes())
    assert len(tasks) == 4
    assert [a["result"][2]["value"]["choices"] for a in tasks[0]["annotations"]] == [
        ["2"], ["same"], ["1"],
    ]  # fmt: skip
    view = label_studio_view(made)
    names = set(re.findall(r'<Choices name="(\w+)" toName="question"', view))
    assert names == {r["from_name"] for a in tasks[0]["annotations"] for r in a["result"]}
    assert set(re.findall(r'value="\$(\w+)"', view)) <= set(tasks[0]["data"])
    [row, *_] = vote_rows(made, store.votes(), store.annotators())
    assert (row["annotator"], row["answers"]["better"], row["first"]) == ("anna", "Beta7", "Alpha9")


def test_a_study_is_a_section_of_the_report_and_its_page_is_safe(tmp_path):
    made = study((HOSTILE, "plain"), n=8, asks=[replace(BETTER, ask=HOSTILE), EACH])
    votes = [
        vote(who, item, {"better": "b", "fine/a": "no", "fine/b": "yes"})
        for who in (1, 2)
        for item in range(8)
    ]
    results = study_results(replace(made, asks=replace(made.asks, title=HOSTILE)), [], votes, [])
    write_study(results, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert "<img" not in page
    assert "&lt;script&gt;document.title=&#39;owned&#39;&lt;/script&gt;" in page
    assert "people prefer plain to" in page
    runs = summarise({m: {"test": {0: attempts_of(m)}} for m in "xy"}, QUESTIONS, REWARDS)
    attempts = {m: attempts_of(m) for m in "xy"}
    write_report(runs, attempts, QUESTIONS, tmp_path / "without.html")
    write_report(runs | {"study": results}, attempts, QUESTIONS, tmp_path / "with.html")
    assert '<section id="study">' not in (tmp_path / "without.html").read_text(encoding="utf-8")
    assert "people prefer plain to" in (tmp_path / "with.html").read_text(encoding="utf-8")
    assert all(c == "\n" or c.isprintable() for c in study_text(results))
