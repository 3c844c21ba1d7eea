"""`rationalize check-rewards --people`, `--references`: end to end, and bad files."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

from rationalize.cli import main
from rationalize.errors import UserError
from rationalize.evaluation.agreement import MEAN_OF_SETS
from rationalize.evaluation.human_agreement import BASELINE_SCORES, OTHERS, OWN, WITHIN
from rationalize.questions import BadRows
from rationalize.questions.judged import load_judged_questions
from rationalize.runs import Run
from tests.tiny import tiny_folder
from tests.toys import reference, write_set

HOSTILE = "</script><script>alert('x')</script>\u202e"
JUDGED = [
    {"rationale": "wood floats on water", "votes_acceptable": 3, "votes": 3},
    {"rationale": "wood wood wood wood", "votes_acceptable": 1, "votes": 3},
    {"rationale": f"no idea {HOSTILE}", "votes_acceptable": 0, "votes": 3},
]


def row(i, judged=JUDGED, **changes):
    facts = {"id": f"p{i}", "question": f"Which of {i} floats?", "choices": ["wood", "lead"],
             "answer": "wood", "judged_rationales": judged}  # fmt: skip
    return {**facts, **changes}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_folder("decoder", tmp_path_factory.mktemp("tiny") / "model"))


def check(*argv, model):
    return main(["check-rewards", *argv, "--model", model])


def test_from_votes_to_tables_json_and_page(tmp_path, capsys, model):
    file = write(tmp_path / "votes.jsonl", [row(i) for i in range(6)])
    folder = tmp_path / "more"
    write(folder / "test.jsonl", [row(i, id=f"m{i}") for i in range(4)])
    out = tmp_path / "out"
    argv = ["diversity", "--people", file, str(folder), "--out", str(out)]
    assert check(*argv, model=model) == 0
    printed = capsys.readouterr().out
    assert "votes, 18 rationales: AUROC, 95 % interval over questions" in printed
    results = json.loads((out / "agreement.json").read_text())
    assert results["references"] == []
    rows = {(r["set"], r["target"], r["score"]): r for r in results["people"]}
    assert {key[0] for key in rows} == {"votes", "more", MEAN_OF_SETS}
    assert {key[2] for key in rows} == {"diversity", *BASELINE_SCORES, OTHERS, OWN}
    # diversity: the text that repeats itself last; 3-1 6 pairs right, 3-0 9 tied, 1-0 3 wrong
    assert rows["votes", WITHIN, "diversity"]["mean"] == pytest.approx((6 + 4.5) / 18)
    assert rows["votes", WITHIN, OWN]["mean"] == 1.0
    assert rows["votes", "majority vote", "diversity"]["mean"] == 0.75  # 6 * 6 right, 6 * 6 tied
    page = (out / "report.html").read_text()
    assert "</script><script>alert" not in page
    assert "alert(" in page  # shown, not obeyed
    assert "\u202e" not in page
    run = Run.read(out)
    assert len(run.attempts()) == 30
    assert {a.prediction for a in run.attempts()} == {"wood"}

    before = (out / "agreement.json").read_bytes()
    assert check(*argv, model=model) == 0  # a second start scores nothing and says the same
    assert capsys.readouterr().out == printed
    assert (out / "agreement.json").read_bytes() == before
    write(tmp_path / "votes.jsonl", [row(i, judged=JUDGED[::-1]) for i in range(6)])
    assert check(*argv, model=model) == 1
    assert "begun with other inputs: questions, rationales of judged" in capsys.readouterr().err


def test_limit_and_split(tmp_path, capsys, model):
    write(tmp_path / "set/train.jsonl", [row(i) for i in range(5)])
    argv = ["length", "--people", str(tmp_path / "set"), "--out", str(tmp_path / "out")]
    assert check(*argv, model=model) == 1
    assert "no file for the split 'test'" in capsys.readouterr().err
    assert check(*argv, "--split", "train", "--limit", "2", model=model) == 0
    assert "set, 6 rationales" in capsys.readouterr().out


def test_who_is_preferred_has_written(tmp_path, capsys, model):
    rows = [reference(i, name) for i in range(4) for name in ("gpt3", "llama")]
    argv = ["length", "--references", str(write_set(tmp_path, rows)), "--out", str(tmp_path / "o")]
    assert check(*argv, "--prefer", "gtp3", "llama", model=model) == 2
    assert "--prefer: no rationale by 'gtp3'; did you mean 'gpt3'?" in capsys.readouterr().err
    assert check(*argv, "--prefer", "gpt3", "llama", model=model) == 0
    assert "gpt3 over llama" in capsys.readouterr().out


def test_right_over_wrong_and_one_model_over_another(tmp_path, capsys, model):
    rows = [
        reference(i, name, predicted="yes" if right else "no", correct=right, rationale=text)
        for i in range(4)
        for name, right, text in [("gpt3", True, "a b c d e"), ("llama-7b", i < 1, "a a a")]
    ]
    folder = write_set(tmp_path, [*rows, reference(0, "other")])
    out = tmp_path / "out"
    argv = ["diversity,correctness", "--references", str(folder), "--out", str(out)]
    assert check(*argv, "--models", "gpt3", "llama-7b", model=model) == 0
    assert "gpt3 over llama-7b, both right" in capsys.readouterr().out
    references = json.loads((out / "agreement.json").read_text())["references"]
    reached = {(r["target"], r["score"]): r for r in references}
    assert reached["gpt3 over llama-7b", "diversity"]["mean"] == 1.0
    assert reached["gpt3 over llama-7b", "diversity"]["n"] == 8
    assert reached["gpt3 over llama-7b, both right", "longer"]["n"] == 2
    assert reached["right, same question", "correctness"]["mean"] == 1.0
    assert reached["right, gpt3", "correctness"]["mean"] is None  # it is never wrong
    assert not any("other" in key[0] for key in reached)
    assert check(*argv[:-1], str(tmp_path / "new"), "--models", "gtp3", model=model) == 1
    assert "no reference rationale by 'gtp3'; expected models out of" in capsys.readouterr().err


def bad(changes):
    return row(1, judged=[{**JUDGED[0], **changes}])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"id": "x", "question": "Why?", "answer": "so"},
         "no 'judged_rationales'; expected a list of {rationale, votes_acceptable, votes}"),
        (row(1, judged=[]), "judged_rationales = []; expected a list"),
        (row(1, judged=["text"]), "judged_rationales[0] = 'text'; expected an object"),
        (bad({"rationale": None}), "judged_rationales[0].rationale = None; expected text"),
        (bad({"votes": 0}), "judged_rationales[0].votes = 0; expected a number from 1"),
        (bad({"votes": True}), "judged_rationales[0].votes = True; expected a number from 1"),
        (bad({"votes_acceptable": 4}),
         "judged_rationales[0].votes_acceptable = 4; expected a number from 0 to 3"),
        (row(0), "the id 'p0' a second time; expected a unique id"),
        (row(1, answer="gold"), "found the answer 'gold'"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_line(tmp_path, line, message):
    file = write(tmp_path / "votes.jsonl", [row(0), line])
    with pytest.raises(BadRows) as error:
        load_judged_questions(file)
    assert f"{file}, line 2: found" in str(error.value)
    assert message in str(error.value)
    kept = load_judged_questions(file, skip_bad_rows=tmp_path / "bad.jsonl")
    assert [one.question.id for one in kept] == ["p0"]


def test_what_else_can_be_wrong(tmp_path, capsys, model):
    with pytest.raises(UserError, match="no such file or folder; expected a file of questions"):
        load_judged_questions(tmp_path / "none.jsonl")
    file = write(tmp_path / "votes.jsonl", [row(0)])
    other = write(tmp_path / "b/votes.jsonl", [row(0)])
    assert check("length", "--people", file, "--questions", "quarel", model=model) == 2
    assert "expected one or the other" in capsys.readouterr().err
    assert check("length", "--people", file, other, model=model) == 2
    assert "two sets are called 'votes'" in capsys.readouterr().err
    twin = write(tmp_path / "twin.jsonl", [row(0)])
    out = ["--out", str(tmp_path / "out")]
    assert check("length", "--people", file, twin, *out, model=model) == 1
    assert "the question id 'p0' is in another set too" in capsys.readouterr().err
    empty = write_set(tmp_path, None, name="bare")
    assert check("length", "--references", str(empty), *out, model=model) == 1
    assert "found no reference rationale for its 4 test questions" in capsys.readouterr().err


def taught_rows(name, n=12):
    return [
        {"id": f"{name}{i}", "question": f"Does {name} {i} sink?", "choices": ["yes", "no"],
         "answer": "yes", "rationales": ["it is heavy", "it sinks"],
         "rationales_wrong": [{"rationale": "it is light", "predicted": "no"}]}
        for i in range(n)
    ]  # fmt: skip


def test_the_experiment_chooses_on_its_cut_and_tests_once(tmp_path, capsys, model, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments")
    module = importlib.import_module("agreement")
    data = tmp_path / "data"
    for name in module.PEOPLE:
        for split in ("train", "test"):
            rows = [row(i, id=f"{name}-{split}{i}", question=f"{name} {split} {i}?")
                    for i in range(4)]  # fmt: skip
            write(data / name / f"{split}.jsonl", rows)
    for name in {*module.MIXED, *module.GPT3}:
        rows = taught_rows(name)
        judged_too = {**rows[0], "id": "judged", "question": f"{module.PEOPLE[0]} train 0?"}
        write(data / name / "train.jsonl", [judged_too, *rows])
    right = {"gpt3": True, "llama-7b": False}
    write_set(data, [reference(i, m, correct=right[m]) for m in right for i in range(4)], name="r")
    reference_rows = data / "r/reference_rationales.jsonl"
    reference_rows.write_text(reference_rows.read_text().replace('"a', '"r'))

    out = tmp_path / "out"
    candidates = ["GPT-3's samples", *module.TRAINING_FREE]
    argv = [str(data), "--out", str(out), "--model", model, "--dev", "3", "--train", "8",
            "--references", "r", "--reference-questions", "2",
            "--candidates", *candidates]  # fmt: skip
    module.main(argv)
    first = capsys.readouterr().out
    rows = json.loads((out / "development.json").read_text())
    assert {r["score"] for r in rows if r["role"] == "reward"} == set(candidates)
    assert {r["n"] for r in rows if r["set"] in module.PEOPLE} == {9}
    within = [r for r in rows if (r["set"], r["target"]) == (MEAN_OF_SETS, WITHIN)]
    best = max((r for r in within if r["role"] == "reward"), key=lambda r: r["mean"])["score"]
    assert Run.read(out).done("choice") == {"candidate": best}
    results = json.loads((out / "stages/test/agreement.json").read_text())
    assert {r["n"] for r in results["people"] if r["set"] in module.PEOPLE} == {12}
    assert {r["score"] for r in results["people"] if r["role"] == "reward"} == {
        best, *module.OTHER_REWARDS} - {"length", "fluency"}  # fmt: skip
    assert {r["set"] for r in results["references"]} == {"r"}
    seen = json.loads((out / "verifiers/GPT-3-s-samples/scorer.json").read_text())["seen"]
    assert len(seen) == 8
    assert "judged" not in seen

    measured = {p: p.stat().st_mtime_ns for p in (out / "stages/test").iterdir()}
    module.main(argv)
    assert capsys.readouterr().out == first
    # the test rows were not scored twice
    assert {p: p.stat().st_mtime_ns for p in (out / "stages/test").iterdir()} == measured
