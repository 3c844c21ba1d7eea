"""Consistency: how much a rationale helps a reader to the gold answer (mario.md 4.2).

`p(gold | question, rationale) - p(gold | question)` under the answer scorer. For questions without
choices `p` is the scorer's utility of the gold text (coalition.md 3.1). An empty rationale leaves
the reader with the question alone: its consistency is 0. What is too long to read has none.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from rationalize.records import Question
from rationalize.rewards.base import Reward, Scores, column_questions, readable

HELPLESS = frozenset({"empty", "one_word", "options", "other_question", "negation"})
"""Attacks that leave nothing which leads to the gold answer."""


class AnswerProbabilities(Protocol):
    """What consistency asks of an answer scorer."""

    weights_hash: str

    def probabilities(
        self, questions: Sequence[Question], rationales: Sequence[str | None]
    ) -> list[list[float]]:
        """Per question the probability of each choice; without choices, of the gold text alone."""


def score(
    scorer: AnswerProbabilities,
    discrete: bool,
    *,
    rationale,
    question,
    choices,
    gold,
    context,
    question_id,
    **_,
) -> Scores:
    questions = column_questions(question, choices, gold, context, question_id)
    defined = [i for i, q in enumerate(questions) if _is_defined(q, discrete, rationale[i])]
    asked = [questions[i] for i in defined]
    texts = [rationale[i].strip() or None for i in defined]
    without = scorer.probabilities(asked, [None] * len(asked))
    given = scorer.probabilities(asked, texts)
    scores: Scores = [None] * len(questions)
    for i, q, p, p0 in zip(defined, asked, given, without, strict=True):
        at = q.choices.index(q.answer) if q.choices else 0
        scores[i] = _level(p, p0, at) if discrete else p[at] - p0[at]
    return scores


def _is_defined(question: Question, discrete: bool, rationale: str) -> bool:
    if not readable(question, rationale):
        return False
    if question.choices:
        return question.answer in question.choices
    return bool(question.answer) and not discrete


def _level(p_C: list[float], p0_C: list[float], gold: int) -> float:
    """-1: the reader errs with the rationale; +1: it is right only with it; 0: right anyway."""
    if max(range(len(p_C)), key=p_C.__getitem__) != gold:
        return -1.0
    return 0.0 if max(range(len(p0_C)), key=p0_C.__getitem__) == gold else 1.0


def consistency(scorer: AnswerProbabilities) -> Reward:
    return Reward(
        "consistency",
        partial(score, scorer, False),
        range=(-1.0, 1.0),
        needs_gold=True,
        scorer_hash=scorer.weights_hash,
        should_drop=HELPLESS,
    )


def consistency_discrete(scorer: AnswerProbabilities) -> Reward:
    """Three levels instead of a difference; undefined for questions without choices."""
    return Reward(
        "consistency_discrete",
        partial(score, scorer, True),
        range=(-1.0, 1.0),
        needs_gold=True,
        levels=(1.0, 0.0, -1.0),
        scorer_hash=scorer.weights_hash,
        should_drop=HELPLESS,
    )
