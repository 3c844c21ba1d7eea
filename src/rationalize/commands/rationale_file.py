"""Rows of any file to attempts: a rationale or a completion, and its question.

    {"question": "..", "choices": ["a", "b"], "answer": "a", "rationale": "..", "prediction": "a"}
    {"question_id": "quarel-test-00001", "completion": ".. So the answer is (A)."}

A completion is parsed as a policy's is. A rationale and its prediction are joined to a completion.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from rationalize.answers import parse_reply, read_prediction
from rationalize.config import nearest
from rationalize.errors import UsageError, UserError
from rationalize.questions.bad_rows import BadRow, RowError, settle
from rationalize.questions.files import RawRow, read_rows
from rationalize.records import Attempt, Question
from rationalize.templates import given_attempt
from rationalize.text import clip

TEXTS = ("question", "answer", "context", "rationale", "completion", "prediction")
FIELDS = (*TEXTS, "id", "question_id", "choices", "rewards")
"""Fields that are read from a row; `columns` maps them to other names."""


@dataclass(frozen=True)
class Rationale:
    """A row that can be scored: as it is in the file, and as an attempt at its question."""

    row: dict[str, Any]
    question: Question
    attempt: Attempt


class RationaleFile:
    """Rows of a file under a column mapping. `questions`, by id, where the rows only name theirs.

    Each iteration streams the file from its start, in constant memory. Messages call it `name`.
    """

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, str],
        questions: Mapping[str, Question] | None = None,
        name: str | None = None,
    ) -> None:
        for field in columns:
            if field not in FIELDS:
                raise UsageError(f"columns: unknown field {field!r}{nearest(field, FIELDS)}")
        self._path = path
        self._name = name or str(path)
        self._mapped = tuple(columns)
        self._columns = {field: columns.get(field, field) for field in FIELDS}
        self._questions = questions

    @property
    def rewards_column(self) -> str:
        """The column for a row's scores, old and new."""
        return self._columns["rewards"]

    def check(self, skip_bad_rows: Path | str | None) -> int:
        """How many rows can be scored.

        Raises `BadRows` for the others, or writes them to the file `skip_bad_rows`. Raises
        `UserError` where the mapping names a column that no row has.
        """
        good = 0
        absent = {self._columns[field]: field for field in self._mapped if field != "rewards"}

        def bad() -> Iterator[BadRow]:
            nonlocal good
            for rationale in self._read():
                if isinstance(rationale, BadRow):
                    yield rationale
                else:
                    good += 1
                    for column in absent.keys() & rationale.row.keys():
                        del absent[column]

        settle(bad(), skip_bad_rows)
        for column, field in absent.items() if good else ():
            raise UserError(
                f"{self._name}: no row has {column!r}, the column given for {field!r}; expected "
                "the name of a column. Correct --columns, or leave it out"
            )
        return good

    def __iter__(self) -> Iterator[Rationale]:
        """The rows that can be scored, in order."""
        return (r for r in self._read() if isinstance(r, Rationale))

    def _read(self) -> Iterator[Rationale | BadRow]:
        with closing(_SeenQuestions()) as seen:
            for raw in read_rows(self._path):
                raw = dataclasses.replace(raw, file=self._name)
                if isinstance(raw, BadRow):
                    yield raw
                    continue
                try:
                    rationale = self._rationale(raw)
                    if self._has_id_and_text(raw) and not seen.agrees(rationale.question):
                        id = clip(rationale.question.id)
                        raise RowError(
                            f"question {id} with another text than before", "one question per id"
                        )
                    yield rationale
                except RowError as error:
                    yield raw.bad(error.found, error.expected)

    def _has_id_and_text(self, raw: RawRow) -> bool:
        """Whether the row gives both its question's id and text: ids may then clash."""
        return self._questions is None and raw.values.get(self._columns["question_id"]) is not None

    def _rationale(self, raw: RawRow) -> Rationale:
        value = {name: raw.values.get(theirs) for name, theirs in self._columns.items()}
        for name in TEXTS:
            if value[name] is not None and not isinstance(value[name], str):
                raise RowError(f"{self._columns[name]} = {clip(value[name])}", "text")
        if value["completion"] is None and value["rationale"] is None:
            columns = ", ".join(map(clip, raw.values)) or "nothing"
            expected = f"{self._columns['rationale']!r} or {self._columns['completion']!r}"
            raise RowError(f"a row of {columns}", expected)
        question = self._inline(value) if self._questions is None else self._known(value)
        row = {**raw.values, self.rewards_column: self._rewards(value["rewards"])}
        return Rationale(row, question, _attempt(value, question, f"{raw.file}, {raw.place}"))

    def _rewards(self, given: Any) -> dict[str, Any]:
        """The scores that a row already has."""
        rewards = given
        if isinstance(given, str):  # JSON text, as in attempts stored as parquet
            with suppress(ValueError, RecursionError):
                rewards = json.loads(given)
        if rewards is None:
            return {}
        if not isinstance(rewards, dict):
            raise RowError(
                f"{self.rewards_column} = {clip(given)}",
                "scores by name; name another column for them, as --columns rewards=scores",
            )
        return rewards

    def _known(self, value: Mapping[str, Any]) -> Question:
        """The question that a row names."""
        assert self._questions is not None
        name = "question_id" if value["question_id"] is not None else "id"
        question = self._questions.get(str(value[name]))
        if question is None:
            expected = f"the id of one of the {len(self._questions)} questions"
            raise RowError(f"{self._columns[name]} = {clip(value[name])}", expected)
        return question

    def _inline(self, value: Mapping[str, Any]) -> Question:
        """The question that a row holds."""
        if not value["question"]:
            expected = "the question's text, or --questions with the question's id in the row"
            raise RowError(f"no {self._columns['question']!r}", expected)
        choices = value["choices"]
        if choices is not None and not _are_choices(choices):
            raise RowError(
                f"{self._columns['choices']} = {clip(choices)}",
                f"a list of up to {len(ascii_uppercase)} texts, none of them empty, or null",
            )
        if choices and value["answer"] is not None and value["answer"] not in choices:
            answer = f"{self._columns['answer']} = {clip(value['answer'])}"
            raise RowError(answer, f"one of the choices {clip(choices)}")
        id = value["question_id"]
        parts = [value[name] for name in ("question", "choices", "context", "answer")]
        return Question(
            id=_digest(parts).hex() if id is None else str(id),
            question=value["question"],
            answer=value["answer"] or "",
            choices=tuple(choices) if choices else None,
            context=value["context"],
        )


class _SeenQuestions:
    """Question id -> hash of its text. On disk, since a file may hold a million questions."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)  # a temporary file of sqlite's
        self._table.execute("CREATE TABLE seen (id BLOB PRIMARY KEY, text BLOB) WITHOUT ROWID")
        self._table.execute("PRAGMA journal_mode=OFF")
        self._table.execute("BEGIN")

    def agrees(self, question: Question) -> bool:
        """Whether the id had this text when it came first; true for a new id."""
        id = _digest(question.id)
        text = _digest([question.question, question.choices, question.context, question.answer])
        self._table.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (id, text))
        (first,) = self._table.execute("SELECT text FROM seen WHERE id = ?", (id,)).fetchone()
        return first == text

    def close(self) -> None:
        self._table.close()


def _are_choices(value: Any) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= len(ascii_uppercase)
        and all(isinstance(choice, str) and choice.strip() for choice in value)
    )


def _attempt(value: Mapping[str, Any], question: Question, where: str) -> Attempt:
    completion = value["completion"]
    if completion is not None:
        reply = parse_reply(completion, question.choices)
        rationale = reply.rationale if value["rationale"] is None else value["rationale"]
        prediction = reply.prediction
    else:
        rationale = value["rationale"]
        prediction = read_prediction(value["prediction"] or "", question.choices)
    return given_attempt(
        where, question, rationale, prediction, writer="file", split="file", model="unknown",
        completion=completion,
    )  # fmt: skip


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=12).digest()
