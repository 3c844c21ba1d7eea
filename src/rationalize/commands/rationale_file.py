"""Rows of any file to attempts: a rationale or a completion, and its question.

    {"question": "..", "choices": ["a", "b"], "answer": "a", "rationale": "..", "prediction": "a"}
    {"question_id": "quarel-test-00001", "completion": ".. So the answer is (A)."}
    {"question": "..", "answer": "7", "rationales": ["..", ".."]}

A completion is parsed as a policy's is. A rationale and its prediction are joined to a completion.
A question's `rationales` are a row each. Questions have every shape that `load_questions` reads.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationalize.answers import has_marker, parse_answer, parse_reply, read_prediction
from rationalize.config import nearest
from rationalize.errors import UsageError, UserError
from rationalize.questions.bad_rows import BadRow, RowError, settle
from rationalize.questions.columns import MISSING, answer_column, is_chat, pick, read_row
from rationalize.questions.files import RawRow, read_rows
from rationalize.questions.gold import Ambiguous
from rationalize.questions.guess import hint
from rationalize.questions.scalars import scalar, texts_of_cell
from rationalize.records import Attempt, Question
from rationalize.templates import ANSWER_ALONE, given_attempt
from rationalize.text import clip

TEXTS = ("rationale", "completion", "prediction", "mode")
OF_QUESTION = (
    "question", "choices", "labels", "answer", "answer_form", "accepted", "context", "rationales",
)  # fmt: skip
FIELDS = (*TEXTS, *OF_QUESTION, "id", "question_id", "rewards")
"""Fields that are read from a row; `columns` maps them to other names."""


@dataclass(frozen=True)
class Rationale:
    """A row that can be scored: as it is in the file, and as an attempt at its question."""

    row: dict[str, Any]
    question: Question
    attempt: Attempt


def _plain(value: Any) -> Any:
    """A value as a file would hold it: lists for tuples and arrays, numbers for numpy's."""
    if isinstance(value, tuple):
        return list(value)
    return value.tolist() if type(value).__module__ == "numpy" else value


def _id(value: Any) -> str:
    """An id as question files are read: 1.0 is `1`."""
    return scalar(value, "id") if isinstance(value, int | float) else str(value)


class RationaleFile:
    """Rows of a file, or of a list, under a column mapping. `questions`, by id, where the rows only
    name theirs.

    Each iteration streams the file from its start, in constant memory. Messages call it `name`.
    `readers` are the rewards that read a row's prediction: with one of them, a rationale without a
    column for it is a bad row. A null there is a reply without an answer.
    """

    def __init__(
        self,
        source: Path | Sequence[Mapping[str, Any]],
        columns: Mapping[str, str],
        questions: Mapping[str, Question] | None = None,
        name: str | None = None,
        readers: Sequence[str] = (),
    ) -> None:
        for field in columns:
            if field not in FIELDS:
                raise UsageError(f"columns: unknown field {field!r}{nearest(field, FIELDS)}")
        self._source = source
        self._name = name or (str(source) if isinstance(source, Path) else "rows")
        self._mapped = tuple(columns)
        self._columns = {field: columns.get(field, field) for field in FIELDS}
        self._questions = questions
        self._readers = readers

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
        absent = set(self._mapped) - {"rewards"}

        def bad() -> Iterator[BadRow]:
            nonlocal good
            for rationale in self._read(absent):
                if isinstance(rationale, BadRow):
                    yield rationale
                else:
                    good += 1

        settle(bad(), skip_bad_rows)
        for field in sorted(absent) if good else ():
            column = self._columns[field]
            raise UserError(
                f"{self._name}: no row has {column!r}, the column given for {field!r}; expected "
                "the name of a column. Correct --columns, or leave it out"
            )
        return good

    def __iter__(self) -> Iterator[Rationale]:
        """The rows that can be scored, in order."""
        return (r for r in self._read() if isinstance(r, Rationale))

    def _read(self, absent: set[str] | None = None) -> Iterator[Rationale | BadRow]:
        """All rows; removes from `absent` the fields that a good row has a column for."""
        with closing(_SeenQuestions()) as seen:
            for raw in self._rows():
                raw = dataclasses.replace(raw, file=self._name)
                if isinstance(raw, BadRow):
                    yield raw
                    continue
                try:
                    rationales = self._rationales(raw)
                    if self._has_id_and_text(raw) and not seen.agrees(rationales[0].question):
                        id = clip(rationales[0].question.id)
                        raise RowError(
                            f"question {id} with another text than before", "one question per id"
                        )
                except RowError as error:
                    yield raw.bad(error.found, error.expected)
                    continue
                yield from rationales
                if absent:
                    absent -= {field for field in absent if self._has(raw, field)}

    def _rows(self) -> Iterator[RawRow | BadRow]:
        if isinstance(self._source, Path):
            return read_rows(self._source)
        rows = ({name: _plain(v) for name, v in row.items()} for row in self._source)
        return (RawRow("", f"row {i}", row) for i, row in enumerate(rows, 1))

    def _has(self, raw: RawRow, field: str) -> bool:
        """Whether a row has a column for the field."""
        column = self._columns[field]
        if field == "answer":
            column = answer_column(self._columns)[0]
        return pick(raw.values, column) is not MISSING

    def _has_id_and_text(self, raw: RawRow) -> bool:
        """Whether the row gives both its question's id and text: ids may then clash."""
        return self._questions is None and raw.values.get(self._columns["question_id"]) is not None

    def _rationales(self, raw: RawRow) -> list[Rationale]:
        """The row's rationale, or one for each of a question's `rationales`; at least one."""
        value = {
            name: raw.values.get(self._columns[name])
            for name in (*TEXTS, "rationales", "id", "question_id", "rewards")
        }
        value["rationales"] = texts_of_cell(value["rationales"])
        if isinstance(value["prediction"], int | float):
            value["prediction"] = scalar(value["prediction"], "prediction")
        for name in TEXTS:
            if value[name] is not None and not isinstance(value[name], str):
                raise RowError(f"{self._columns[name]} = {clip(value[name])}", "text")
        question = self._inline(raw) if self._questions is None else self._known(value)
        rewards = {self.rewards_column: self._rewards(value["rewards"])}
        where = f"{raw.file}, {raw.place}"
        told = (value["completion"], value["rationale"], value["rationales"])
        has_column = self._columns["rationale"] in raw.values
        if has_column and told == (None, None, None) and not question.rationales:
            value["rationale"] = ""  # an empty cell of a table
        if value["completion"] is None and (
            value["rationale"] is None or (value["prediction"] is None and value["rationales"])
        ):
            rows = [{**row, **rewards} for row in self._taught(raw, value, question)]
            return [
                Rationale(row, question, _attempt(self._fields(row), question, f"{where}, {i}"))
                for i, row in enumerate(rows)
            ]
        if value["completion"] is None:
            self._check_prediction(raw)
        return [Rationale({**raw.values, **rewards}, question, _attempt(value, question, where))]

    def _check_prediction(self, raw: RawRow) -> None:
        """Raise `RowError` where a row has no column for the prediction that a reward reads."""
        column = self._columns["prediction"]
        if not self._readers or column in raw.values:
            return
        expected = "the answer that its writer gave, null for none; or other --rewards"
        if like := next((name for name in raw.values if "pred" in str(name).lower()), None):
            expected += f"; here perhaps --columns prediction={like}"
        raise RowError(f"no {column!r}, which {', '.join(self._readers)} reads", expected)

    def _taught(
        self, raw: RawRow, value: Mapping[str, Any], question: Question
    ) -> list[dict[str, Any]]:
        """A row for each rationale of a question, with the answer that its teacher gave."""
        texts = value["rationales"] or list(question.rationales)
        texts = texts if isinstance(texts, list) else [texts]
        if not texts:
            columns = ", ".join(map(clip, raw.values)) or "nothing"
            names = ("rationale", "completion", "rationales")
            expected = " or ".join(repr(self._columns[name]) for name in names)
            raise RowError(f"a row of {columns}", expected)
        answers = texts_of_cell(raw.values.get("teacher_answers")) or [question.answer] * len(texts)
        if not isinstance(answers, list) or len(answers) != len(texts):
            raise RowError(f"teacher_answers = {clip(answers)}", f"{len(texts)} answers")
        row = {k: v for k, v in raw.values.items() if k != self._columns["rationales"]}
        rows = []
        for text, answer in zip(texts, answers, strict=True):
            if not isinstance(text, str):
                raise RowError(f"{clip(text)} as rationale", "text")
            # with the answer sentence in it, it is a completion
            said = "completion" if has_marker(text) else "rationale"
            own: dict[str, str | None] = {self._columns[said]: text}
            if said == "rationale":
                own[self._columns["prediction"]] = answer or None
            rows.append({**row, **own})
        return rows

    def _fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return {name: row.get(self._columns[name]) for name in TEXTS}

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
        question = self._questions.get(_id(value[name]))
        if question is None:
            expected = f"the id of one of the {len(self._questions)} questions"
            raise RowError(f"{self._columns[name]} = {clip(value[name])}", expected)
        return question

    def _inline(self, raw: RawRow) -> Question:
        """The question that a row holds."""
        columns = {name: self._columns[name] for name in OF_QUESTION} | {
            "id": self._columns["question_id"]
        }
        if pick(raw.values, columns["question"]) in (MISSING, None, "") and not is_chat(raw.values):
            expected = "the question's text, or --questions with the question's id in the row"
            if columns["question"] == "question":
                expected += hint(raw.values, "question", None)
            raise RowError(f"no {columns['question']!r}", expected)
        try:
            question = read_row(raw.values, columns, "", scored=True).question
        except RowError as error:
            given = raw.values.get(str(columns.get(error.field)))
            if isinstance(error, Ambiguous) or given is None:
                raise
            expected = error.expected.replace("one of [", "one of the choices [")
            raise RowError(f"{columns[error.field]} = {clip(given)}", expected) from None
        if question.id:
            return question
        own = raw.values.get(self._columns["id"])
        parts = [question.question, question.choices, question.context, question.answer or None]
        # in a file of questions with rationales, the id is a question's
        teaches = question.rationales or raw.values.get(self._columns["rationales"])
        id = str(own) if own is not None and teaches else _digest(parts).hex()
        return dataclasses.replace(question, id=id)


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


def _attempt(value: Mapping[str, Any], question: Question, where: str) -> Attempt:
    completion = value["completion"]
    if completion is not None and value["mode"] in ANSWER_ALONE:
        rationale, prediction = "", parse_answer(completion, question.choices).prediction
    elif completion is not None:
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
