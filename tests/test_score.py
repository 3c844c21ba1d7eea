"""`score`: any input, whatever text is in it; every field and the order come back."""

from __future__ import annotations

import datetime
import decimal
import gzip
import json
import os
import subprocess

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rationalize.rewards import load_rewards
from rationalize.rewards.base import LONGEST
from rationalize.text import escaped_json, one_line, printable, whole_characters
from tests.reward_toys import FakeAnswerScorer, FakeVerifier, attempt, scores
from tests.score_files import HOSTILE, read, rows, score, standard_input, without_rewards, write


@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "parquet"])
@pytest.mark.parametrize("piped", [False, True])
def test_every_form_keeps_every_field_and_the_order(tmp_path, monkeypatch, form, piped):
    given = rows(600)  # more than two batches
    file = tmp_path / f"in.{form}"
    write(tmp_path / "in.jsonl", given)
    if form == "jsonl.gz":
        file.write_bytes(gzip.compress((tmp_path / "in.jsonl").read_bytes()))
    elif form == "parquet":
        pq.write_table(pa.Table.from_pylist(given), file, row_group_size=250)
    if piped:
        standard_input(monkeypatch, file.read_bytes())
    out = tmp_path / "out.jsonl"
    assert score("-" if piped else file, out) == 0
    assert without_rewards(read(out)) == without_rewards(given)
    assert [r["rewards"]["correctness"] for r in read(out)] == [1.0, 0.0] * 300
    assert not list(tmp_path.glob("out*.partial"))


def test_what_is_wrong_on_standard_input_is_said_of_it(tmp_path, monkeypatch, capsys):
    standard_input(monkeypatch, b'{"rationale": "x"}\n{\n')
    assert score("-", tmp_path / "out.jsonl") == 1
    message = capsys.readouterr().err
    assert "standard input, line 1: found no 'question'" in message
    assert "standard input, line 2: found broken JSON" in message
    assert list(tmp_path.iterdir()) == []


def test_a_pipe_is_read_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    write(tmp_path / "in.jsonl", rows(3))
    writer = subprocess.Popen(["cp", tmp_path / "in.jsonl", tmp_path / "pipe"])
    assert score(tmp_path / "pipe", tmp_path / "out.jsonl") == 0
    assert writer.wait(30) == 0
    assert len(read(tmp_path / "out.jsonl")) == 3


def test_zipped_output_is_the_same_rows(tmp_path):
    file = write(tmp_path / "in.jsonl", rows(5))
    assert score(file, tmp_path / "out.jsonl") == score(file, tmp_path / "out.jsonl.gz") == 0
    assert read(tmp_path / "out.jsonl") == read(tmp_path / "out.jsonl.gz")
    before = (tmp_path / "out.jsonl.gz").read_bytes()
    assert score(file, tmp_path / "out.jsonl.gz") == 0
    assert (tmp_path / "out.jsonl.gz").read_bytes() == before


def test_parquets_own_types_become_json(tmp_path):
    row = {
        **rows(1)[0],
        "when": datetime.datetime(2024, 5, 1, 12),
        "price": decimal.Decimal("1.10"),
        "text": b"plain",
        "bytes": b"\xff\x00",
    }
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "in.parquet")
    assert score(tmp_path / "in.parquet", tmp_path / "out.jsonl") == 0
    [found] = read(tmp_path / "out.jsonl")
    values = [found[name] for name in ("when", "price", "text", "bytes")]
    assert values == ["2024-05-01T12:00:00", "1.10", "plain", "/wA="]


def test_a_mapped_column_of_scores_takes_the_new_ones(tmp_path):
    file = write(tmp_path / "in.jsonl", [{**r, "rewards": 3, "scores": None} for r in rows(2)])
    out = tmp_path / "out.jsonl"
    assert score(file, out) == 1  # three is no scores by name
    assert score(file, out, "--columns", "rewards=scores") == 0
    assert [r["rewards"] for r in read(out)] == [3, 3]
    assert [r["scores"]["correctness"] for r in read(out)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"rewards": "{"}, "rewards = '{'"),
        ({"choices": [str(i) for i in range(27)]}, "choices = ["),
        ({"choices": ["a", " "]}, "choices = ['a', ' ']"),
    ],
)
def test_what_cannot_be_scored_is_a_bad_row(tmp_path, capsys, change, found):
    file = write(tmp_path / "in.jsonl", [{**rows(1)[0], **change}])
    assert score(file, tmp_path / "out.jsonl") == 1
    assert f"{file}, line 1: found {found}" in capsys.readouterr().err


def test_a_column_that_no_row_has_is_refused(tmp_path, capsys):
    file = write(tmp_path / "in.jsonl", rows(2))
    assert score(file, tmp_path / "out.jsonl", "--columns", "completion=said") == 1
    assert "no row has 'said', the column given for 'completion'" in capsys.readouterr().err


def test_rows_that_disagree_on_the_answer_are_other_questions(tmp_path):
    """Without an id of their own, only equal rows are one question."""
    given = [{**rows(1)[0], "answer": "4"}, {**rows(1)[0], "answer": "2"}]
    file = write(tmp_path / "in.jsonl", given)
    assert score(file, tmp_path / "out.jsonl") == 0
    assert [r["rewards"]["correctness"] for r in read(tmp_path / "out.jsonl")] == [0.0, 1.0]


# Hostile text


def test_hostile_text_comes_back_as_it_was_and_the_terminal_obeys_none_of_it(tmp_path, capfd):
    row = {
        "question": HOSTILE, "choices": ["brick", HOSTILE], "answer": HOSTILE, "context": HOSTILE,
        "rationale": HOSTILE, "prediction": HOSTILE, HOSTILE: {HOSTILE: HOSTILE},
    }  # fmt: skip
    long = {**rows(1)[0], "rationale": "So it is four. " * 70_000}  # a megabyte
    file = write(tmp_path / "in.jsonl", [row, long, {**row, "completion": HOSTILE}])
    out = tmp_path / "out.jsonl"
    cheap = "correctness,diversity,length,repetition,answer_leak,option_copying"
    assert score(file, out, "--rewards", cheap) == 0
    assert without_rewards(read(out)) == without_rewards(read(file))
    assert len(out.read_text(encoding="utf-8").splitlines()) == 3  # no line end but ours

    bad = write(tmp_path / "bad.jsonl", [{**row, "answer": HOSTILE[1:]}, {HOSTILE: 1}])
    (tmp_path / "entries.json").write_text(json.dumps({HOSTILE: {}, "b": {}}))
    for path in (bad, tmp_path / "entries.json", tmp_path / "no\x1b[2J\u202efile"):
        assert score(path, tmp_path / "none.jsonl") == 1
    shown = "".join(capfd.readouterr())
    assert "owned" in shown
    assert shown == escaped_json(shown)
    assert all(c == "\n" or c.isprintable() for c in shown)


@pytest.mark.parametrize(
    "text", [HOSTILE, *map(chr, [*range(32), *range(127, 160), 0x202E, 0xFEFF])]
)
def test_what_a_terminal_is_given_is_printable(text):
    assert all(c.isprintable() or c in "\n\t" for c in printable(text))
    assert one_line(text).isprintable()
    assert one_line("a ש\tb\n") == "a ש␉b␊"


def test_scorer_models_are_not_asked_about_endless_texts():
    consistency, plausibility = load_rewards(
        ["consistency", "plausibility"],
        answer_scorer=FakeAnswerScorer({"good": [0.1, 0.9]}),
        verifier=FakeVerifier(),
    )
    long = "x" * (LONGEST + 1)
    assert scores(consistency, attempt(long), attempt("good")) == pytest.approx([None, 0.3])
    assert scores(plausibility, attempt(long), attempt("true"), attempt("")) == [None, 0.9, 0.0]


def test_a_reward_is_undefined_where_its_model_cannot_read_the_text():
    from tests.tiny import tiny_policy

    [fluency] = load_rewards(["fluency"], base=tiny_policy())  # it reads 512 tokens
    texts = [attempt("so steel"), attempt("x " * 600), attempt("so wood"), attempt("y " * 600)]
    first, *_, second = scores(fluency, texts[0], texts[2])
    assert scores(fluency, *texts) == [first, None, second, None]


@pytest.mark.parametrize("kind", ["decoder", "t5"])
def test_half_a_character_can_be_tokenised_and_judged(kind):
    from tests.tiny import tiny_policy

    policy = tiny_policy(kind)
    [fluency] = load_rewards(["fluency"], base=policy)
    own, same, long = scores(
        fluency, attempt(HOSTILE), attempt(whole_characters(HOSTILE)), attempt("x" * LONGEST)
    )
    assert own == same < 0
    assert long is None  # with its question it is over the limit
    for encode in (policy.encode_prompt, policy.encode_response):
        assert encode("a \ud800 b") == encode("a \ufffd b")


def test_rows_of_a_program_are_read_as_a_files(tmp_path):
    import numpy as np

    from rationalize import score_rows

    row = {"question": "Which sinks?", "choices": ["brick", "cork"], "answer": "brick",
           "rationale": "It is dense.", "prediction": "brick"}  # fmt: skip
    counted = {"question": "What is 2 + 2?", "answer": np.int64(4), "rationale": "Add."}
    arrays, number = {**row, "choices": np.array(row["choices"])}, {**counted, "prediction": 4}
    for given in ((r for r in [row]), [arrays], [number]):
        [scored] = score_rows(given, ["correctness"])
        assert scored["rewards"] == {"correctness": 1.0}


def test_an_empty_cell_of_a_table_is_an_empty_rationale(tmp_path):
    table = tmp_path / "rows.csv"
    table.write_text("id,question,answer,rationale,prediction\nc,What is 2+2?,4,,4\n")
    assert score(table, tmp_path / "out.jsonl", "--rewards", "length,correctness") == 0
    [row] = read(tmp_path / "out.jsonl")
    assert row["rewards"] == {"length": 0.0, "correctness": 1.0}
