"""Rows of anybody's file to attempts: a rationale or a completion, and its question.

    {"question": "..", "choices": ["a", "b"], "answer": "a", "rationale": "..", "prediction": "a"}
    {"question_id": "quarel-test-00001", "completion": ".. So the answer is (A)."}

A completion is read as a policy's would be; a rationale with its prediction is put together as one.
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

from rationalize.answers import parse_reply, read_answer
from rationalize.config import nearest
from rationalize.errors import UsageError, UserError
from rationalize.questions.bad_rows import BadRow, RowError, settle
from rationalize.questions.files import RawRow, read_rows
from rationalize.records import Attempt, Question
from rationalize.templates import given_attempt
from rationalize.text import clip

TEXTS = ("question", "answer", "context", "rationale", "completion", "prediction")
FIELDS = (*TEXTS, "id", "question_id", "choices", "rewards")
"""What is read of a row; `columns` maps these to other names."""


@dataclass(frozen=True)
class Rationale:
    """A row that can be scored: as it stood in the file, and as an attempt at its question."""

    row: dict[str, Any]
    question: Question
    attempt: Attempt


class RationaleFile:
    """Rows of a file under a column mapping; their questions may stand in another file.

    The file is read as rows are asked for, in order, each time from its start; nothing that grows
    with it is held in memory. `name` is what messages call it.
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
        self._given = columns
        self._columns = {field: columns.get(field, field) for field in FIELDS}
        self._questions = questions

    @property
    def rewards_column(self) -> str:
        """Where a row's scores stand, and new ones go."""
        return self._columns["rewards"]

    def check(self, skip_bad_rows: Path | str | None) -> int:
        """How many rows can be scored. Raises `BadRows` for the others, or writes them down; raises
        `UserError` where the mapping names a column that no row has.
        """
        good = 0
        absent = {self._columns[field]: field for field in self._given if field != "rewards"}

        def bad() -> Iterator[BadRow]:
            nonlocal good
            for found in self._read():
                if isinstance(found, BadRow):
                    yield found
                else:
                    good += 1
                    for column in absent.keys() & found.row.keys():
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
        with closing(_Asked()) as asked:
            for raw in read_rows(self._path):
                raw = dataclasses.replace(raw, file=self._name)
                if isinstance(raw, BadRow):
                    yield raw
                    continue
                try:
                    rationale = self._rationale(raw)
                    if self._names_its_question(raw) and not asked.agrees(rationale.question):
                        found = f"question {clip(rationale.question.id)} with another text"
                        raise RowError(f"{found} than before", "one question per id")
                    yield rationale
                except RowError as error:
                    yield raw.bad(error.found, error.expected)

    def _names_its_question(self, raw: RawRow) -> bool:
        """Whether the row gives an id beside the question's text: the two may disagree."""
        given = raw.values.get(self._columns["question_id"])
        return self._questions is None and given is not None

    def _rationale(self, raw: RawRow) -> Rationale:
        value = {name: raw.values.get(theirs) for name, theirs in self._columns.items()}
        for name in TEXTS:
            if value[name] is not None and not isinstance(value[name], str):
                raise RowError(f"{self._columns[name]} = {clip(value[name])}", "text")
        if value["completion"] is None and value["rationale"] is None:
            has = ", ".join(map(clip, raw.values)) or "nothing"
            wanted = f"{self._columns['rationale']!r} or {self._columns['completion']!r}"
            raise RowError(f"a row of {has}", wanted)
        question = self._inline(value) if self._questions is None else self._known(value)
        row = {**raw.values, self.rewards_column: self._rewards(value["rewards"])}
        return Rationale(row, question, _attempt(value, question, f"{raw.file}, {raw.place}"))

    def _rewards(self, given: Any) -> dict[str, Any]:
        """The scores that a row has already."""
        rewards = given
        if isinstance(given, str):  # as attempts in parquet hold them
            with suppress(ValueError, RecursionError):
                rewards = json.loads(given)
        if rewards is None:
            return {}
        if not isinstance(rewards, dict):
            found = f"{self.rewards_column} = {clip(given)}"
            other = "scores by name; name another column for them, as --columns rewards=scores"
            raise RowError(found, other)
        return rewards

    def _known(self, value: Mapping[str, Any]) -> Question:
        assert self._questions is not None
        name = "question_id" if value["question_id"] is not None else "id"
        found = self._questions.get(str(value[name]))
        if found is None:
            expected = f"the id of one of the {len(self._questions)} questions"
            raise RowError(f"{self._columns[name]} = {clip(value[name])}", expected)
        return found

    def _inline(self, value: Mapping[str, Any]) -> Question:
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
            found = f"{self._columns['answer']} = {clip(value['answer'])}"
            raise RowError(found, f"one of the choices {clip(choices)}")
        given = value["question_id"]
        parts = [value[name] for name in ("question", "choices", "context", "answer")]
        return Question(
            id=_digest(parts).hex() if given is None else str(given),
            question=value["question"],
            answer=value["answer"] or "",
            choices=tuple(choices) if choices else None,
            context=value["context"],
        )


class _Asked:
    """What each question id stood for. On disk, since a file may ask a million questions."""

    def __init__(self) -> None:
        self._table = sqlite3.connect("", isolation_level=None)  # a private file, gone at the end
        self._table.execute("CREATE TABLE asked (id BLOB PRIMARY KEY, text BLOB) WITHOUT ROWID")
        self._table.execute("PRAGMA journal_mode=OFF")
        self._table.execute("BEGIN")

    def agrees(self, question: Question) -> bool:
        """Whether the id meant this question whenever it came before."""
        id = _digest(question.id)
        text = _digest([question.question, question.choices, question.context, question.answer])
        self._table.execute("INSERT OR IGNORE INTO asked VALUES (?, ?)", (id, text))
        (first,) = self._table.execute("SELECT text FROM asked WHERE id = ?", (id,)).fetchone()
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
        prediction = read_answer(value["prediction"] or "", question.choices)
    return given_attempt(
        where, question, rationale, prediction, writer="file", split="file", model="unknown",
        completion=completion,
    )  # fmt: skip


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=12).digest()
