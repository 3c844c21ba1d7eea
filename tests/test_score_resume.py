"""`score` through a kill at any moment, and in constant memory."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from rationalize.cli import main
from rationalize.commands.rationale_file import RationaleFile
from rationalize.commands.resumable_file import begin, partial_folder, work_folder
from rationalize.commands.score import batches
from rationalize.errors import UserError
from rationalize.models.scorers import REMEMBERED, AnswerScorer
from rationalize.questions.bad_rows import BadRow, BadRows, settle
from rationalize.records import Question
from tests.score_files import HOSTILE, read, rows, score, standard_input, without_rewards, write

# Resuming


BATCH = 256  # rows that are scored together
ROWS = 2 * BATCH + 90


@pytest.fixture
def counted(tmp_path, monkeypatch):
    """Rewards that count what they are asked, and send a signal in the batch after `SIGNAL_AFTER`
    rationales.
    """
    (tmp_path / "counted.py").write_text(
        "import os, signal\n"
        "asked = []\n"
        "def count(completions):\n"
        "    asked.extend(completions)\n"
        "    if len(asked) > int(os.environ.get('SIGNAL_AFTER', 10**9)):\n"
        "        if int(os.environ['SIGNAL']) == signal.SIGINT:\n"
        "            raise KeyboardInterrupt\n"  # a job in the background ignores the signal
        "        signal.raise_signal(int(os.environ['SIGNAL']))\n"
        "def words(completions, **columns):\n"
        "    count(completions)\n"
        "    return [len(c) / 7 for c in completions]\n"
        "def together(completions, **columns):\n"
        "    count(completions)\n"
        "    return [len(completions)] * len(completions)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "counted", raising=False)
    yield "counted:words"
    sys.path.remove(str(tmp_path))


def test_a_killed_call_goes_on_and_ends_in_the_same_bytes(tmp_path, counted, capsys):
    file = write(tmp_path / "in.jsonl", rows(ROWS, HOSTILE))
    flags = ["--rewards", f"correctness,{counted}"]
    assert score(file, tmp_path / "whole.jsonl", *flags) == 0
    table = capsys.readouterr().out.replace("whole", "killed")
    argv = ["score", str(file), "--out", str(tmp_path / "killed.jsonl"), *flags]
    killed = subprocess.run(
        [sys.executable, "-m", "rationalize", *argv],
        env={**os.environ, "SIGNAL_AFTER": str(2 * BATCH), "SIGNAL": str(int(signal.SIGKILL))},
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (tmp_path / "killed.jsonl").exists()

    asked = sys.modules["counted"].asked
    asked.clear()
    assert main(argv) == 0
    assert len(asked) == 90  # the two batches that were written are not scored again
    assert (tmp_path / "killed.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert capsys.readouterr().out == table
    assert not list(tmp_path.glob("*.partial"))


def stopped(monkeypatch, file, out, reward, *flags) -> Path:
    """The folder of a call with a counted reward that was interrupted after two batches."""
    if "counted" in sys.modules:
        sys.modules["counted"].asked.clear()
    with monkeypatch.context() as patch:
        patch.setenv("SIGNAL_AFTER", str(2 * BATCH))
        patch.setenv("SIGNAL", str(int(signal.SIGINT)))
        assert score(file, out, "--rewards", reward, *flags) == 130
    return partial_folder(out)


def test_rows_cut_anywhere_are_written_again(tmp_path, monkeypatch, counted):
    """Batches stay what they were: scores of a model may depend on them in their last digits."""
    file = write(tmp_path / "in.jsonl", rows(ROWS))
    flags = ["--rewards", "counted:together"]
    assert score(file, tmp_path / "whole.jsonl", *flags) == 0
    sizes = [r["rewards"]["together"] for r in read(tmp_path / "whole.jsonl")]
    assert sizes == [BATCH] * 2 * BATCH + [90] * 90
    whole = (tmp_path / "whole.jsonl").read_bytes()
    out = tmp_path / "out.jsonl"
    folder = stopped(monkeypatch, file, out, "counted:together")
    kept = tmp_path / "kept"
    shutil.copytree(folder, kept)
    written = (kept / "rows.jsonl").read_bytes()
    line = written.index(b"\n") + 1
    tails = [written[:cut] for cut in (0, 1, line - 1, line, line + 1, len(written) - 1)]
    for left in [*tails, written, written + b"\0" * 50, written + b'{"rewards": {}', b"\0" * 99]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)
        (folder / "rows.jsonl").write_bytes(left)
        out.unlink(missing_ok=True)
        assert score(file, out, *flags) == 0
        assert out.read_bytes() == whole


def test_a_batch_of_long_rows_is_short(tmp_path):
    texts = ["x" * 2_500_000, "", "x" * 2_500_000, "x" * 5_000_000, "", ""]
    given = [{**row, "rationale": text} for row, text in zip(rows(6), texts)]
    file = RationaleFile(write(tmp_path / "in.jsonl", given), {})
    found = [[r.row["id"] for r in batch] for batch in batches(file)]
    assert found == [[0, 1, 2], [3], [4, 5]]


def test_other_settings_or_rows_do_not_go_on(tmp_path, monkeypatch, capsys, counted):
    file = write(tmp_path / "in.jsonl", rows(ROWS))
    out = tmp_path / "out.jsonl"
    stopped(monkeypatch, file, out, counted)
    assert score(file, out, "--rewards", "length") == 1
    assert "other settings (rewards); start that one again" in capsys.readouterr().err
    write(file, rows(ROWS + 1))
    assert score(file, out, "--rewards", counted) == 1
    assert "other settings (rows)" in capsys.readouterr().err
    write(file, rows(ROWS))
    (tmp_path / "counted.py").write_text("def words(completions, **_): return [0] * 256")
    assert score(file, out, "--rewards", counted) == 1  # the first rows are the old function's
    assert "other settings (rewards)" in capsys.readouterr().err


@pytest.mark.parametrize("column", ["accepted", "weight"])
def test_other_accepted_answers_or_columns_of_questions_do_not_go_on(
    tmp_path, monkeypatch, capsys, counted, column
):
    """Correctness reads the one, a user's reward may read the other."""
    file, out = write(tmp_path / "in.jsonl", rows(ROWS)), tmp_path / "out.jsonl"
    asked = [{**row, "accepted": ["nine"], "weight": 1} for row in rows(ROWS)]
    questions = write(tmp_path / "q.jsonl", asked)
    stopped(monkeypatch, file, out, counted, "--questions", questions)
    write(questions, [*asked[:-1], {**asked[-1], column: ["ten"]}])
    assert score(file, out, "--rewards", counted, "--questions", questions) == 1
    assert "other settings (questions)" in capsys.readouterr().err
    write(questions, asked)
    assert score(file, out, "--rewards", counted, "--questions", questions) == 0


def test_a_piped_call_goes_on_too(tmp_path, monkeypatch, counted):
    content = write(tmp_path / "in.jsonl", rows(ROWS)).read_bytes()
    out = tmp_path / "out.jsonl"
    standard_input(monkeypatch, content)
    folder = stopped(monkeypatch, "-", out, counted)
    assert len((folder / "rows.jsonl").read_bytes().splitlines()) == 2 * BATCH
    standard_input(monkeypatch, content)
    assert score("-", out, "--rewards", counted) == 0
    assert without_rewards(read(out)) == without_rewards(rows(ROWS))


def test_two_processes_do_not_write_one_file(tmp_path):
    out = tmp_path / "out.jsonl"
    with work_folder(out) as folder:
        code = "import sys, pathlib, rationalize.runs as r; r.lock(pathlib.Path(sys.argv[1]))"
        argv = [sys.executable, "-c", code, str(folder)]
        other = subprocess.run(argv, capture_output=True, check=False)
    assert b"is being written by another process" in other.stderr
    with work_folder(out):  # it was let go
        pass
    assert list(tmp_path.iterdir()) == []  # and nothing was left to finish


# Memory


def peak(call) -> int:
    """Bytes of Python objects at the worst moment of a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path):
    """Nothing may be kept per row: one float would be 24 bytes, its place in a list 8."""

    def one(n: int) -> int:
        with open(tmp_path / "in.jsonl", "w") as file:
            for i in range(10_000, 10_000 + n):
                row = {"question_id": i, "question": f"{i}?", "answer": str(i), "completion": "So."}
                file.write(json.dumps(row) + "\n")
        flags = ["--rewards", "correctness,length", "--cache", tmp_path / f"cache{n}"]
        return peak(lambda: score(tmp_path / "in.jsonl", tmp_path / "out.jsonl", *flags))

    one(600)  # what is loaded once is loaded
    small, large = one(1_000), one(7_000)
    assert large - small < 6 * 6_000


def test_memory_does_not_grow_with_the_bad_rows(tmp_path):
    def bad(n: int):
        return (BadRow("f", f"line {i}", "x" * 100, "y", "z" * 200) for i in range(n))

    def refused(n: int) -> None:
        with pytest.raises(BadRows, match=rf"{n} bad rows \(the first 10 follow\)"):
            settle(bad(n), None)

    def left_out(n: int) -> None:
        settle(bad(n), tmp_path / f"bad{n}")

    for call in (refused, left_out):
        call(2_000)
        small, large = (peak(partial(call, n)) for n in (2_000, 8_000))
        assert large - small < 6 * 6_000
    assert len(read(tmp_path / "bad8000")) == 8_000


class Fold:
    """A fold of an answer scorer, whose probability is the question's number."""

    answer = answer_from_rationale = SimpleNamespace(policy=SimpleNamespace(weights_hash="w"))
    temperature: ClassVar[dict[str, float]] = {}

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def probabilities(self, questions, rationales, texts):
        self.asked.append([q.id for q in questions])
        return [[float(q.id)] for q in questions]


def test_an_answer_scorer_forgets_the_oldest_questions():
    fold = Fold()
    scorer = AnswerScorer([fold])
    n = REMEMBERED + 2
    questions = [Question(str(i), "?", "a", ("a", "b")) for i in range(n)]
    expected = [[float(i)] for i in range(n)]
    assert scorer.probabilities(questions, [None] * n) == expected
    assert scorer.probabilities(questions[2:], [None] * (n - 2)) == expected[2:]
    assert scorer.probabilities([questions[-1], questions[0]], [None] * 2) == [[n - 1.0], [0.0]]
    assert [len(asked) for asked in fold.asked] == [n, 1]
    assert fold.asked[1] == ["0"]


def test_unfinished_work_is_refused_by_name(tmp_path):
    begin(tmp_path, {"a": 1, "b": [2]})
    begin(tmp_path, {"a": 1, "b": (2,)})
    with pytest.raises(UserError, match=r"other settings \(a, c\)"):
        begin(tmp_path, {"a": 2, "b": [2], "c": 3})
