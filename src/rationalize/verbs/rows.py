"""Rows of anybody's file to attempts: a rationale or a completion, and its question.

    {"question": "..", "choices": ["a", "b"], "answer": "a", "rationale": "..", "prediction": "a"}
    {"question_id": "quarel-test-00001", "completion": ".. So the answer is (A)."}

A completion is read as a policy's would be; a rationale with its prediction is put together as one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationalize.answers import parse_reply, read_answer, reply_text
from rationalize.config import nearest
from rationalize.errors import UsageError
from rationalize.questions.bad_rows import BadRow, RowError, clip
from rationalize.questions.files import RawRow, read_rows
from rationalize.records import Attempt, Question
from rationalize.templates import prompt_text

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
    """Rows of a file under a column mapping; their questions may stand in another file."""

    def __init__(
        self,
        path: Path,
        columns: Mapping[str, str],
        questions: Mapping[str, Question] | None = None,
    ) -> None:
        for name in columns:
            if name not in FIELDS:
                raise UsageError(f"columns: unknown field {name!r}{nearest(name, FIELDS)}")
        self._path = path
        self._columns = {name: columns.get(name, name) for name in FIELDS}
        self._questions = questions

    def bad_rows(self) -> list[BadRow]:
        return [r for r in self._read() if isinstance(r, BadRow)]

    def __iter__(self) -> Iterator[Rationale]:
        """The rows that can be scored, in order; the file is read as the rows are asked for."""
        return (r for r in self._read() if isinstance(r, Rationale))

    def _read(self) -> Iterator[Rationale | BadRow]:
        texts: dict[str, str] = {}  # question id -> digest of its text
        for raw in read_rows(self._path):
            if isinstance(raw, BadRow):
                yield raw
                continue
            try:
                rationale = self._rationale(raw)
                q = rationale.question
                digest = _digest(q.question, q.choices, q.context, q.answer)
                if texts.setdefault(q.id, digest) != digest:
                    raise RowError(
                        f"question {q.id!r} with another text than before", "one question per id"
                    )
                yield rationale
            except RowError as error:
                yield raw.bad(error.found, error.expected)

    def _rationale(self, raw: RawRow) -> Rationale:
        value = {name: raw.values.get(theirs) for name, theirs in self._columns.items()}
        for name in TEXTS:
            if value[name] is not None and not isinstance(value[name], str):
                raise RowError(f"{self._columns[name]} = {clip(value[name])}", "text")
        if value["completion"] is None and value["rationale"] is None:
            has = ", ".join(map(repr, raw.values)) or "nothing"
            wanted = f"{self._columns['rationale']!r} or {self._columns['completion']!r}"
            raise RowError(f"a row of {has}", wanted)
        if isinstance(value["rewards"], str):  # as attempts in parquet hold them
            value["rewards"] = json.loads(value["rewards"])
        if not isinstance(value["rewards"] or {}, dict):
            raise RowError(
                f"{self._columns['rewards']} = {clip(value['rewards'])}", "scores by name"
            )
        question = self._inline(value) if self._questions is None else self._known(value)
        row = {**raw.values, "rewards": value["rewards"] or {}}
        return Rationale(row, question, _attempt(value, question, f"{raw.file}, {raw.place}"))

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
        if choices is not None and not (
            isinstance(choices, list) and choices and all(isinstance(c, str) for c in choices)
        ):
            raise RowError(
                f"{self._columns['choices']} = {clip(choices)}", "a list of texts, or null"
            )
        if choices and value["answer"] is not None and value["answer"] not in choices:
            found = f"{self._columns['answer']} = {clip(value['answer'])}"
            raise RowError(found, f"one of the choices {clip(choices)}")
        given = value["question_id"]
        return Question(
            id=_digest(value["question"], choices, value["context"])
            if given is None
            else str(given),
            question=value["question"],
            answer=value["answer"] or "",
            choices=tuple(choices) if choices else None,
            context=value["context"],
        )


def _attempt(value: Mapping[str, Any], question: Question, where: str) -> Attempt:
    if value["completion"] is not None:
        completion = value["completion"]
        reply = parse_reply(completion, question.choices)
        rationale = reply.rationale if value["rationale"] is None else value["rationale"]
        prediction = reply.prediction
    else:
        rationale = value["rationale"]
        prediction = read_answer(value["prediction"] or "", question.choices)
        completion = (
            reply_text(rationale, prediction, question.choices) if prediction else rationale
        )
    return Attempt(
        id=where, question_id=question.id, mode="rationale_answer",
        prompt=prompt_text("rationale_answer", question), completion=completion,
        rationale=rationale, prediction=prediction, gold=question.answer,
        parsed=prediction is not None, finish="stop", writer="file", model="unknown", round=0,
        step=0, split="file", seed=0, n_tokens=0,
    )  # fmt: skip


def _digest(*parts: Any) -> str:
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()
