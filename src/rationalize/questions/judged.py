"""Questions whose rationales people have voted on.

    {"id": "..", "question": "..", "choices": [..], "answer": "..",
     "judged_rationales": [{"rationale": "..", "votes_acceptable": 2, "votes": 3}, ..]}

The votes are a yardstick: nothing here goes to a trainer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from rationalize.errors import UserError
from rationalize.questions.bad_rows import BadRow, RowError, settle
from rationalize.questions.columns import read_row
from rationalize.questions.files import RawRow, read_rows, split_files
from rationalize.records import Question
from rationalize.text import clip

COLUMN = "judged_rationales"


@dataclass(frozen=True)
class JudgedRationale:
    """A rationale and how many of its votes accept it."""

    rationale: str
    accepted: int
    votes: int


@dataclass(frozen=True)
class JudgedQuestion:
    """A question with the rationales that people judged; they were written for its gold answer."""

    question: Question
    rationales: tuple[JudgedRationale, ...]


def load_judged_questions(
    source: Path | str,
    split: str = "test",
    *,
    limit: int | None = None,
    skip_bad_rows: str | Path | None = None,
) -> list[JudgedQuestion]:
    """The judged questions of a file, or of the split's file in a folder. Raises `BadRows`."""
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; expected a file of questions with {COLUMN!r}, or a "
            f"folder with one called {split}.jsonl"
        )
    files = [path] if path.is_file() else split_files(path, split)
    bad: list[BadRow] = []
    found: dict[str, JudgedQuestion] = {}
    for number, row in enumerate(row for file in files for row in read_rows(file)):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            judged = _read(row, f"{set_name(path)}-{number:05d}")
            if judged.question.id in found:
                id = judged.question.id
                raise RowError(f"the id {clip(id)} a second time", "an id of its own")
            found[judged.question.id] = judged
        except RowError as error:
            bad.append(row.bad(error.found, error.expected))
    settle(bad, skip_bad_rows)
    if not found:
        raise UserError(f"{path}: no question with {COLUMN!r} is left; expected at least one")
    return list(found.values())[:limit]


def set_name(source: Path) -> str:
    """What a file or folder of questions is called: its name without endings."""
    return source.resolve().name.split(".")[0]


def _read(row: RawRow, fallback_id: str) -> JudgedQuestion:
    listed = row.values.get(COLUMN)
    if not isinstance(listed, list) or not listed:
        has = f"{COLUMN} = {clip(listed)}" if COLUMN in row.values else f"no {COLUMN!r}"
        raise RowError(has, "a list of {rationale, votes_acceptable, votes}, not empty")
    question = read_row(row.values, {}, fallback_id).question
    return JudgedQuestion(question, tuple(_judged(i, own) for i, own in enumerate(listed)))


def _judged(index: int, value: Any) -> JudgedRationale:
    where = f"{COLUMN}[{index}]"
    if not isinstance(value, Mapping):
        raise RowError(f"{where} = {clip(value)}", "an object")
    rationale, votes = value.get("rationale"), value.get("votes")
    accepted = value.get("votes_acceptable")
    if not isinstance(rationale, str):
        raise RowError(f"{where}.rationale = {clip(rationale)}", "text")
    if not _is_count(votes) or votes < 1:
        raise RowError(f"{where}.votes = {clip(votes)}", "a number from 1")
    if not _is_count(accepted) or accepted > votes:
        raise RowError(
            f"{where}.votes_acceptable = {clip(accepted)}", f"a number from 0 to {votes}"
        )
    return JudgedRationale(rationale, accepted, votes)


def _is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0
