"""What rewards that read with an answer scorer share: which attempts can be judged, and how
probable an answer is with the rationale and without it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rationalize.records import Question
from rationalize.rewards.base import column_questions, readable

HELPLESS = frozenset({"empty", "one_word", "options", "other_question", "negation"})
"""Attacks that leave nothing which leads to the gold answer."""


class AnswerProbabilities(Protocol):
    """What these rewards ask of an answer scorer."""

    weights_hash: str

    def probabilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[list[float]]:
        """Per question the probability of each choice; without choices, of its answer alone."""


@dataclass(frozen=True)
class Reading:
    """An attempt that an answer scorer can judge."""

    row: int
    """Its place among the completions."""
    question: Question
    """Its `answer` is the one whose probability is asked for."""
    at: int
    """Where that answer's probability stands."""
    text: str | None
    """The stripped rationale; None where it is empty, which leaves the question alone."""


def readings(
    answers: Sequence[str | None], *, rationale, question, choices, context, question_id, **_
) -> list[Reading]:
    """The attempts whose answer (the gold one, or the predicted one) can be judged.

    Left out are those without an answer, with one that is not among the choices, and texts that are
    too long to read.
    """
    questions = column_questions(question, choices, answers, context, question_id)
    found = []
    for row, (q, text) in enumerate(zip(questions, rationale, strict=True)):
        known = q.answer in q.choices if q.choices else bool(q.answer)
        if known and readable(q, text):
            at = q.choices.index(q.answer) if q.choices else 0
            found.append(Reading(row, q, at, text.strip() or None))
    return found


def with_and_without(
    scorer: AnswerProbabilities, found: Sequence[Reading]
) -> tuple[list[list[float]], list[list[float]]]:
    """`p(. | question, rationale)` and `p(. | question)` of each reading."""
    asked = [r.question for r in found]
    without = scorer.probabilities(asked, [None] * len(asked))
    return scorer.probabilities(asked, [r.text for r in found]), without


def likeliest(p_C: Sequence[float]) -> int:
    """The choice that the scorer would answer; the first of equals."""
    return max(range(len(p_C)), key=p_C.__getitem__)
