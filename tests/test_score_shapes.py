"""`score` reads every shape that questions have, their own rationales, and what `sample` wrote."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.cli import main
from rationalize.commands.rationale_file import RationaleFile
from rationalize.commands.score import score_rows
from rationalize.errors import UserError
from rationalize.questions import load_questions
from rationalize.questions.bad_rows import BadRows
from rationalize.records import Question
from rationalize.templates import given_attempt

ASKED = {"question": "Which?", "choices": ["rock", "snow"]}


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path, columns=None):
    return list(RationaleFile(path, columns or {}))


@pytest.mark.parametrize(
    ("row", "columns"),
    [
        ({**ASKED, "answer": "B"}, {}),
        ({**ASKED, "answer": 1}, {}),
        ({**ASKED, "answer": "2"}, {"answer": "answer:number"}),
        ({"question": "Which? (A) rock (B) snow", "answer": "(B)"}, {}),
        ({**ASKED, "choices": {"A": "rock", "B": "snow", "C": None}, "answer": "B"}, {}),
        ({"stem": "Which?", "o": {"text": ["rock", "snow"], "label": ["1", "2"]}, "key": "2"},
         {"question": "stem", "choices": "o.text", "labels": "o.label", "answer": "key"}),
        ({"question": "Which?", "a": "rock", "b": "snow", "answer": "b"}, {"choices": "a,b"}),
    ],
)  # fmt: skip
def test_questions_of_every_shape(tmp_path, row, columns):
    said = [{"completion": f"Cold. So the answer is ({x})."} for x in "BA"]
    file = write(tmp_path / "r.jsonl", *[{**row, **one} for one in said])
    out = tmp_path / "o.jsonl"
    flags = ["--columns", *[f"{k}={v}" for k, v in columns.items()]] if columns else []
    assert main(["score", str(file), "--out", str(out), "--rewards", "correctness", *flags]) == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [r.pop("rewards")["correctness"] for r in rows] == [1.0, 0.0]
    assert rows == [{**row, **one} for one in said]


def test_solutions_several_answers_and_yes_are_gold(tmp_path):
    rows = [
        {"question": "3 + 4?", "answer": "3+4=7\n#### 7", "completion": "So the answer is 7."},
        {"question": "3 + 4?", "answer": ["7", "seven"], "completion": "So the answer is seven."},
        {"question": "Is it?", "answer": True, "completion": "So the answer is yes."},
        {"question": "Is it?", "answer": "FALSE", "completion": "So the answer is yes."},
        {"question": "Who?", "completion": "So the answer is yes."},
    ]
    out = tmp_path / "o.jsonl"
    assert main(["score", str(write(tmp_path / "r.jsonl", *rows)), "--out", str(out)]) == 0
    scores = [json.loads(line)["rewards"]["correctness"] for line in out.read_text().splitlines()]
    assert scores == [1.0, 1.0, 1.0, 0.0, None]


def test_a_tables_rows_are_scored(tmp_path):
    file = tmp_path / "r.csv"
    row = 'Which?,"[""rock"",""snow""]",B,So the answer is (B).'
    file.write_text(f"question,choices,answer,completion\n{row}\n")
    [one] = read(file)
    assert (one.question.choices, one.question.answer) == (("rock", "snow"), "snow")


def test_a_cells_list_of_rationales_is_a_row_each(tmp_path):
    file = tmp_path / "r.csv"
    file.write_text("""question,answer,rationales\nCold?,yes,"['Ice is.', 'Snow is.']"\n""")
    assert [r.attempt.rationale for r in read(file)] == ["Ice is.", "Snow is."]


def test_a_question_files_rationales_are_a_row_each(tmp_path):
    rows = [
        {"id": "q1", **ASKED, "answer": "snow", "rationale": "Cold.",
         "rationales": ["Cold.", "Wet."]},
        {"id": "q2", **ASKED, "answer": "snow", "rationales": ["Hard.", "Cold."],
         "teacher_answers": ["rock", "snow"]},
        {"id": "q3", **ASKED, "answer": "snow", "rationales": ["Hm. So the answer is (A)."]},
        {"messages": [{"role": "user", "content": "3 + 4?"},
                      {"role": "assistant", "content": "It is seven in all, as said.\n#### 7"}]},
    ]  # fmt: skip
    found = read(write(tmp_path / "r.jsonl", *rows))
    assert [(r.attempt.rationale, r.attempt.prediction) for r in found] == [
        ("Cold.", "snow"), ("Wet.", "snow"), ("Hard.", "rock"), ("Cold.", "snow"), ("Hm.", "rock"),
        ("It is seven in all, as said.", "7"),
    ]  # fmt: skip
    assert [r.question.id for r in found[:5]] == ["q1", "q1", "q2", "q2", "q3"]
    assert "rationales" not in found[0].row
    assert (found[1].row["rationale"], found[1].row["id"]) == ("Wet.", "q1")
    assert len({r.attempt.id for r in found}) == 6


def test_rationales_of_questions_elsewhere(tmp_path):
    questions = {"q1": Question("q1", "Which?", "snow", ("rock", "snow"))}
    file = write(tmp_path / "r.jsonl", {"id": "q1", "rationales": ["Cold.", "Wet."]})
    assert [r.attempt.prediction for r in RationaleFile(file, {}, questions)] == ["snow", "snow"]


def test_what_cannot_be_read_is_said_with_its_column(tmp_path):
    rows = [
        {**ASKED, "answer": "snow"},
        {**ASKED, "answer": "snow", "rationales": [3]},
        {**ASKED, "choices": ["C", "A"], "answer": "A", "rationale": "x"},
        {"question": "?", "options": ["rock", "snow"], "answer": "B", "rationale": "x"},
        {"Query": "?", "options": ["rock", "snow"], "gold": "B", "explanation": "x"},
    ]
    with pytest.raises(BadRows) as error:
        RationaleFile(write(tmp_path / "r.jsonl", *rows), {}).check(None)
    mapping = "question=Query choices=options answer=gold rationales=explanation"
    assert error.value.rows[4].expected.endswith(f"here perhaps --columns {mapping}")
    found = [row.found for row in error.value.rows]
    assert found[0] == "a row of 'question', 'choices', 'answer'"
    assert found[1] == "3 as rationale"
    assert "another's letter" in found[2]
    assert "options" in found[3]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet"])
def test_attempts_carry_their_question(tmp_path, name):
    """Also where a text is another's letter or position."""
    questions = [
        Question("q1", "Which vitamin?", "A", ("C", "A", "B"), context="In oranges."),
        Question("q2", "How many?", "3", accepted=("three",)),
        Question("q3", "Which letter?", "B"),
    ]
    attempts = [
        given_attempt(q.id, q, "Hm.", q.answer, writer="policy", split="train") for q in questions
    ]
    save_attempts(attempts, tmp_path / name, {q.id: q for q in questions})
    assert load_attempts(tmp_path / name) == attempts
    found = read(tmp_path / name)
    assert [replace(r.question, rationales=(), extra={}) for r in found] == questions
    assert [r.attempt.prediction for r in found] == ["A", "3", "B"]


def test_answers_alone_are_read_as_answers(tmp_path):
    row = {**ASKED, "answer": "snow", "mode": "answer", "completion": "(B)"}
    [one] = read(write(tmp_path / "r.jsonl", row))
    assert one.attempt.prediction == "snow"


def test_sample_then_score(tmp_path):
    from tests.tiny import tiny_policy

    tiny_policy().save(tmp_path / "tiny")
    rows = [{"id": i, **ASKED, "choices": ["2", "1"], "answer": "2", "answer_form": "text",
             "rationales": ["Two."]} for i in range(3)]  # fmt: skip
    questions = write(tmp_path / "q.jsonl", *[{**r, "question": f"{r['id']}?"} for r in rows])
    flags = ["--model", str(tmp_path / "tiny"), "--questions", str(questions)]
    for kind in ("attempts", "questions"):
        out = tmp_path / f"{kind}.jsonl"
        given = [*flags, "--max-new-tokens", "3", "--write", kind, "--out", str(out)]
        assert main(["sample", *given]) == 0
    assert load_questions(tmp_path / "questions.jsonl")[0].answer == "2"
    row = json.loads((tmp_path / "attempts.jsonl").read_text().splitlines()[0])
    assert (row["question"], row["choices"], row["answer"]) == ("0?", ["2", "1"], "2")
    scored = tmp_path / "scored.jsonl"
    assert main(["score", str(tmp_path / "attempts.jsonl"), "--out", str(scored)]) == 0
    assert len(scored.read_text().splitlines()) == 3


def test_rows_in_memory_are_scored_as_a_files_are():
    row = {"question": "Which sinks?", "choices": ["brick", "cork"], "answer": "brick"}
    rows = [{**row, "text": "So the answer is (A).", "note": 1}, {**row, "text": "Cork."}]
    scored = score_rows(rows, ["correctness"], {"completion": "text"})
    assert [r["rewards"]["correctness"] for r in scored] == [1.0, 0.0]
    assert scored[0]["note"] == 1
    assert "rewards" not in rows[0]
    with pytest.raises(UserError, match="rows, row 2: found no 'question'"):
        score_rows([rows[0], {"completion": "x"}], ["correctness"], {"completion": "text"})
