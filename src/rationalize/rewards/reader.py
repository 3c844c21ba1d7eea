"""Shared by the rewards that ask an answer scorer: which attempts it can read, and the probability
of an answer with and without the rationale.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rationalize.records import Question
from rationalize.rewards.base import column_questions, readable

HELPLESS = frozenset({"empty", "one_word", "options", "other_question", "negation"})
"""Attacks after which no rationale leads to the gold answer."""


class AnswerProbabilities(Protocol):
    """The interface of an answer scorer (`models/scorers.py`)."""

    weights_hash: str

    def probabilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[list[float]]:
        """Per question the probabilities (C,) of its choices; (1,) of the answer if free-form."""


@dataclass(frozen=True)
class Reading:
    """An attempt that an answer scorer can read."""

    row: int
    """Index among the completions."""
    question: Question
    """Its `answer` is the answer whose probability is wanted."""
    at: int
    """Index of that answer among the probabilities."""
    text: str | None
    """The stripped rationale; None if it is empty: the scorer then reads the question alone."""


def readings(
    answers: Sequence[str | None], *, rationale, question, choices, context, question_id, **_
) -> list[Reading]:
    """The attempts that the scorer can read, for `answers` that are gold or predicted.

    Left out: an attempt without an answer, with an answer that is no choice, and a text that is too
    long.
    """
    questions = column_questions(question, choices, answers, context, question_id)
    kept = []
    for row, (q, text) in enumerate(zip(questions, rationale, strict=True)):
        known = q.answer in q.choices if q.choices else bool(q.answer)
        if known and readable(q, text):
            at = q.choices.index(q.answer) if q.choices else 0
            kept.append(Reading(row, q, at, text.strip() or None))
    return kept


def with_and_without(
    scorer: AnswerProbabilities, asked: Sequence[Reading]
) -> tuple[list[list[float]], list[list[float]]]:
    """`p(. | question, rationale)` and `p(. | question)`, (C,) each per reading."""
    questions = [r.question for r in asked]
    without = scorer.probabilities(questions, [None] * len(questions))
    return scorer.probabilities(questions, [r.text for r in asked]), without


def likeliest(p_C: Sequence[float]) -> int:
    """Index of the most probable choice; the first of equal ones."""
    return max(range(len(p_C)), key=p_C.__getitem__)
