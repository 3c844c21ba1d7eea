"""The learned reward: a reward model's score of a reply (docs/methods/self-motivated.md, stage D).

The model was trained on ranks that correctness induces (Self-motivated Learning, arXiv 2404.07017),
so it knows only what right and wrong attempts differ in. It reads the answer sentence if there is
one, and never the gold answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

from rationalize.records import Question
from rationalize.rewards.base import Reward, Scores, column_questions, readable


class ReplyScores(Protocol):
    """The interface of a reward model (`models/reward_model.py`)."""

    weights_hash: str

    def scores(
        self, questions: Sequence[Question], rationales: Sequence[str],
        predictions: Sequence[str | None],
    ) -> list[float]:  # fmt: skip
        """One score per reply."""


def score(
    model: ReplyScores, *, rationale, prediction, question, choices, gold, context, question_id, **_
) -> Scores:
    questions = column_questions(question, choices, gold, context, question_id)
    rows = [i for i, q in enumerate(questions) if readable(q, rationale[i])]
    scores: Scores = [None] * len(questions)
    model_scores = model.scores(
        [questions[i] for i in rows], [rationale[i] for i in rows], [prediction[i] for i in rows]
    )
    for i, model_score in zip(rows, model_scores, strict=True):
        scores[i] = model_score
    return scores


def reward_model(model: ReplyScores) -> Reward:
    return Reward(
        "reward_model", partial(score, model), scorer_hash=model.weights_hash,
        should_drop=frozenset({"empty", "one_word", "other_question"}),
    )  # fmt: skip
