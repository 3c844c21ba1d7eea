"""The learned reward: what a reward model makes of a reply (self_motivated.md 2.D).

It was trained on ranks that correctness induced, so it knows no more of a rationale's quality than
right and wrong attempts differ in. It reads the answer sentence where there is one, never the gold
answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from rationalize.records import Question
from rationalize.rewards.base import Reward, Scores, column_questions, readable


class ReplyScores(Protocol):
    """What this reward asks of a reward model."""

    weights_hash: str

    def scores(
        self,
        questions: Sequence[Question],
        rationales: Sequence[str],
        predictions: Sequence[str | None],
    ) -> list[float]:
        """One score per reply."""


def score(
    model: ReplyScores, *, rationale, prediction, question, choices, gold, context, question_id, **_
) -> Scores:
    questions = column_questions(question, choices, gold, context, question_id)
    read = [i for i, q in enumerate(questions) if readable(q, rationale[i])]
    found: Scores = [None] * len(questions)
    scores = model.scores(
        [questions[i] for i in read], [rationale[i] for i in read], [prediction[i] for i in read]
    )
    for i, own in zip(read, scores, strict=True):
        found[i] = own
    return found


def reward_model(model: ReplyScores) -> Reward:
    return Reward(
        "reward_model",
        partial(score, model),
        scorer_hash=model.weights_hash,
        should_drop=frozenset({"empty", "one_word", "other_question"}),
    )
