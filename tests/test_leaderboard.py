"""`rationalize leaderboard`: accuracy is the data's own `correct`, and nothing vanishes."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path

import pytest
from toys import attempt, question, reference, write_set

from rationalize.cli import main
from rationalize.evaluation.compare import read_run
from rationalize.evaluation.leaderboard import over_sets, read_set, sets_in
from rationalize.evaluation.metrics import metrics_of
from rationalize.evaluation.results import save_questions, summarise
from rationalize.questions import load_reference_rationales
from rationalize.rewards import load_rewards
from rationalize.runs import Run

SHARED = Path(os.environ.get("RATIONALIZE_DATA") or Path(__file__).parents[2] / "shared" / "data")
MARIO_SETS = ("strategyqa", "quarel", "numersense", "qasc", "openbookqa")


def rank(data, out, *flags):
    status = main(["leaderboard", "--data", str(data), "--out", str(out), *flags])
    return status, json.loads((out / "results.json").read_text()) if status == 0 else None


def evaluated(path, questions, name="ours", predictions="yes", seed=0):
    """A run with one method that answered these questions."""
    with Run.open(path, {"method": "evaluate", "seed": seed}) as run:
        attempts = [
            attempt(q, "because it is", predictions, split="test", writer=name, seed=seed)
            for q in questions
        ]
        by_id = {q.id: q for q in questions}
        run.append(attempts, "final")
        run.write_json("results.json", summarise({name: {"test": {seed: attempts}}}, by_id))
        save_questions(run, questions)
    return str(path)


@pytest.mark.parametrize("name", MARIO_SETS)
def test_accuracy_is_the_mean_of_the_datas_own_correct(name, tmp_path):
    if not (SHARED / name).is_dir():
        pytest.skip(f"no {name} in {SHARED}; RATIONALIZE_DATA names the folder of the sets")
    (file,) = (SHARED / name).glob("reference_rationales*")
    correct = defaultdict(list)
    for row in load_reference_rationales(file):
        correct[row.model].append(row.correct)
    status, results = rank(SHARED, tmp_path / "out", "--sets", name, "--rewards", "length")
    assert status == 0
    cells = {m: e["splits"][name]["metrics"]["accuracy"] for m, e in results["methods"].items()}
    del cells["majority answer"]
    assert {m: cell["n"] for m, cell in cells.items()} == {m: len(c) for m, c in correct.items()}
    assert {m: round(cell["mean"] * cell["n"], 6) for m, cell in cells.items()} == {
        m: sum(c) for m, c in correct.items()
    }
    assert len(cells) == 6


def test_correct_wins_over_what_the_prediction_says(tmp_path, capsys):
    rows = [
        reference(0, predicted="yes", correct=False),
        reference(1, predicted="maybe", correct=True),
        reference(2, predicted=None, correct=True),
        reference(3, predicted="no", correct=True),
    ]
    write_set(tmp_path / "data", rows)
    status, results = rank(tmp_path / "data", tmp_path / "out", "--models", "gpt3")
    assert status == 0
    assert results["methods"]["gpt3"]["splits"]["a"]["metrics"]["accuracy"]["mean"] == 0.75
    (note, unread) = results["notes"]
    assert "`correct` of 4 predictions of gpt3" in note
    assert "gpt3 0/1" in unread
    page = (tmp_path / "out" / "report.html").read_text()
    assert "accuracy follows `correct`" in page
    assert page.count('"right":true') == 3
    assert f"note: {note}" in capsys.readouterr().out


def test_what_is_missing_is_said_and_counted(tmp_path, capsys):
    data = tmp_path / "data"
    rows = [reference(i) for i in range(3)] + [
        reference(0, "other", rationale=" "), reference(9, "other"),
    ]  # fmt: skip
    write_set(data, rows, train=False)
    write_set(data, None, name="b")
    status, results = rank(data, tmp_path / "out", "--sets", "a,b", "--models", "gpt3,llama-7b")
    assert status == 0
    printed = capsys.readouterr().out
    for expected in (
        "a: 1 of 5 reference rationales answer questions that are not in the test file",
        "a: gpt3 has a rationale for 3 of 4 questions; the other 1 are not counted",
        "a: no reference rationale by llama-7b",
        "a: other has a rationale for 1 of 4 questions",
        "could not be read (counted as `correct` says): other 1/0",
        "b: no reference_rationales*.jsonl* there, so none of its 4 questions has one",
        "a: no train file, so no majority answer",
    ):
        assert f"note: {expected}" in printed or expected in printed
        assert any(expected in note for note in results["notes"])
    assert {r["model"]: r["missing"] for r in results["meta"]["coverage"]} == {
        "gpt3": 1, "llama-7b": 4, "other": 3,
    }  # fmt: skip
    assert "llama-7b" not in results["methods"]


def test_runs_stand_beside_the_references(tmp_path):
    data = tmp_path / "data"
    wrong = [reference(i, predicted="no", correct=False) for i in range(4)]
    folder = write_set(data, wrong)
    write_set(data, [reference(i, name="b") for i in range(4)], name="b")
    questions = list(read_set(folder, []).questions.values())
    run = evaluated(tmp_path / "mine", [*questions, question(77)])
    again = evaluated(tmp_path / "half", questions[:2], predictions="no")
    status, results = rank(
        data, tmp_path / "out", "--models", "gpt3", "--runs", run, again,
        "--rewards", "diversity,length",
    )  # fmt: skip
    assert status == 0
    assert set(results["methods"]) == {"majority answer", "gpt3", "ours (mine)", "ours (half)"}
    mine = results["methods"]["ours (mine)"]["splits"]
    assert mine.keys() == {"a"}
    assert mine["a"]["metrics"]["accuracy"] == {
        "mean": 1.0, "low": 0.25, "high": 1.0, "n": 4, "seeds": [1.0],
    }  # fmt: skip
    assert mine["a"]["metrics"]["length"]["mean"] == 3.0
    compared = [c for c in results["comparisons"] if c["metric"] == "accuracy"]
    assert [(c["a"], c["b"], c["split"], c["mean"]) for c in compared] == [
        ("ours (mine)", "gpt3", "a", 1.0)
    ]
    notes = " ".join(results["notes"])
    assert "1 of 5 attempts of ours (mine) answer questions of none of the sets" in notes
    assert "a: ours (half) answered 2 of 4 questions" in notes
    assert "b: ours (mine) answered 0 of 4 questions" in notes
    assert "ours (half) answered other questions of a than gpt3: not compared" in notes
    rows = {r["method"]: r for r in results["leaderboard"] if r["metric"] == "accuracy"}
    assert rows["gpt3"]["mean"] == 0.5
    assert (rows["gpt3"]["sets"], rows["gpt3"]["n"]) == (2, 8)
    assert rows["ours (mine)"]["sets"] == 1
    page = (tmp_path / "out" / "report.html").read_text()
    board = page[page.index('id="leaderboard"') : page.index('id="results"')]
    assert board.index("majority answer") < board.index("gpt3") < board.index("ours (mine)")
    assert set(read_run(tmp_path / "out").attempts) == set(results["methods"])


def test_a_run_of_any_seed_is_compared_with_the_references(tmp_path):
    wrong = [reference(i, predicted="no", correct=False) for i in range(4)]
    folder = write_set(tmp_path / "data", wrong)
    questions = list(read_set(folder, []).questions.values())
    run = evaluated(tmp_path / "mine", questions, seed=1)
    status, results = rank(
        tmp_path / "data", tmp_path / "out", "--models", "gpt3", "--runs", run,
        "--rewards", "length",
    )  # fmt: skip
    assert status == 0
    compared = [c for c in results["comparisons"] if c["metric"] == "accuracy"]
    assert [(c["a"], c["b"], c["seeds"]) for c in compared] == [("ours", "gpt3", [[1], [0]])]
    assert not any("seed" in note for note in results["notes"])


def test_a_run_on_other_questions_is_refused(tmp_path, capsys):
    write_set(tmp_path / "data", [reference(i) for i in range(4)])
    run = evaluated(tmp_path / "mine", [question(1)])
    status, _ = rank(tmp_path / "data", tmp_path / "out", "--runs", run)
    assert status == 1
    assert (
        "none of the 1 attempts of 'ours' answers a test question of a" in capsys.readouterr().err
    )


def test_a_second_start_asks_for_no_score_again(tmp_path, capsys):
    data = tmp_path / "data"
    folder = write_set(data, [reference(i, m) for m in ("x", "y") for i in range(4)])
    flags = ["--models", "x,y", "--rewards", "test_leaderboard:dear"]
    asked.clear()
    interrupts.append(5)  # in the middle of the second model's
    assert rank(data, tmp_path / "out", *flags)[0] == 130
    assert len(asked) == 4
    status, results = rank(data, tmp_path / "out", *flags)
    assert (status, len(asked)) == (0, 8)
    assert rank(data, tmp_path / "out", *flags) == (0, results)
    assert len(asked) == 8
    file = folder / "reference_rationales.jsonl"
    file.write_text(file.read_text().replace("it is so", "it is not so"))
    assert rank(data, tmp_path / "out", *flags)[0] == 1
    assert "begun with other inputs: rationales of x, rationales of y" in capsys.readouterr().err


asked, interrupts = [], []


def dear(completions, **columns):
    if interrupts and len(asked) + len(completions) >= interrupts[0]:
        interrupts.clear()
        raise KeyboardInterrupt
    asked.extend(completions)
    return [1.0] * len(completions)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([reference(0), reference(0)], "two rationales for question 'a0'"),
        ([reference(9)], "none of its 1 rationales answers a question"),
    ],
)
def test_rationales_that_cannot_be_ranked(tmp_path, capsys, rows, message):
    write_set(tmp_path / "data", rows)
    assert rank(tmp_path / "data", tmp_path / "out")[0] == 1
    assert message in capsys.readouterr().err


def test_sets_are_those_with_reference_rationales(tmp_path, capsys):
    write_set(tmp_path / "data", None)
    assert main(["leaderboard", "--data", str(tmp_path / "data")]) == 1
    assert "found no reference_rationales" in capsys.readouterr().err
    write_set(tmp_path / "data", [reference(0, name="c")], name="c")
    assert sets_in(tmp_path / "data") == ["c"]


def test_sets_of_equal_values_keep_their_width_in_the_mean_over_sets():
    asked = {f"q{i}": question(i) for i in range(30)}
    right = [attempt(q, "it is so", q.answer) for q in asked.values()]
    methods = {"m": {"a": {0: right}, "b": {0: right}}}
    [row] = [r for r in over_sets(methods, asked, metrics_of()) if r["metric"] == "accuracy"]
    assert (row["mean"], row["low"], row["high"]) == (1.0, pytest.approx(0.9), 1.0)


def test_a_diagnostic_that_is_undefined_in_some_seeds_or_in_all():
    """Of two seeds one has an empty rationale, whose fluency nobody can tell; of a third, all."""
    q = question(0)
    metrics = metrics_of((), load_rewards(["repetition"]))
    spoken = attempt(q, "it is so", "yes", rewards={"repetition": 0.4})
    silent = attempt(q, "", "yes", rewards={"repetition": None})
    methods = {"some": {"a": {0: [spoken], 1: [silent]}}, "none": {"a": {0: [silent]}}}
    rows = over_sets(methods, {q.id: q}, metrics)
    means = {(row["method"], row["metric"]): row["mean"] for row in rows}
    assert means["some", "repetition"] == 0.4
    assert ("none", "repetition") not in means
    assert means["none", "accuracy"] == 1.0
