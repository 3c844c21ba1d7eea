"""Questions with rationales that people voted on.

    {"id": "..", "question": "..", "choices": [..], "answer": "..",
     "judged_rationales": [{"rationale": "..", "votes_acceptable": 2, "votes": 3}, ..]}

The votes evaluate rewards; no trainer reads them.
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
    """A rationale and its votes."""

    rationale: str
    accepted: int
    """Votes that accept it."""
    votes: int
    """All votes."""


@dataclass(frozen=True)
class JudgedQuestion:
    """A question with judged rationales, all written for its gold answer."""

    question: Question
    rationales: tuple[JudgedRationale, ...]


def load_judged_questions(
    source: Path | str, split: str = "test", *, limit: int | None = None,
    skip_bad_rows: str | Path | None = None,
) -> list[JudgedQuestion]:  # fmt: skip
    """The judged questions of a file, or of the split's file in a folder.

    Raises `BadRows`, and `UserError` if no judged question is left.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder; expected a file of questions with {COLUMN!r}, or a "
            f"folder with one called {split}.jsonl"
        )
    files = [path] if path.is_file() else split_files(path, split)
    bad: list[BadRow] = []
    questions: dict[str, JudgedQuestion] = {}
    for number, row in enumerate(row for file in files for row in read_rows(file)):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        try:
            judged = _read(row, f"{set_name(path)}-{number:05d}")
            id = judged.question.id
            if id in questions:
                raise RowError(f"the id {clip(id)} a second time", "a unique id")
            questions[id] = judged
        except RowError as error:
            bad.append(row.bad(error.found, error.expected))
    settle(bad, skip_bad_rows)
    if not questions:
        raise UserError(f"{path}: no question with {COLUMN!r} is left; expected at least one")
    return list(questions.values())[:limit]


def set_name(source: Path) -> str:
    """The name of a file or folder of questions, without its suffixes."""
    return source.resolve().name.split(".")[0]


def _read(row: RawRow, fallback_id: str) -> JudgedQuestion:
    rationales = row.values.get(COLUMN)
    if not isinstance(rationales, list) or not rationales:
        value = f"{COLUMN} = {clip(rationales)}" if COLUMN in row.values else f"no {COLUMN!r}"
        raise RowError(value, "a list of {rationale, votes_acceptable, votes}, not empty")
    question = read_row(row.values, {}, fallback_id).question
    return JudgedQuestion(question, tuple(_judged(i, r) for i, r in enumerate(rationales)))


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
