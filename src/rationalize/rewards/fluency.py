"""Diagnostic: log-likelihood of the rationale given the question under the base model."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING

from rationalize.rewards.base import Reward, Scores, column_questions, readable
from rationalize.templates import prompt_text

if TYPE_CHECKING:
    from rationalize.models.policy import Policy
    from rationalize.models.scorers import ChoiceScorer


def score(
    scorer: ChoiceScorer, *, rationale, question, choices, gold, context, question_id, **_
) -> Scores:
    """Mean log-probability (nats) of the rationale's tokens; None if it is empty or too long."""
    questions = column_questions(question, choices, gold, context, question_id)
    texts = [r.strip() for r in rationale]
    rows = [i for i, text in enumerate(texts) if text and readable(questions[i], text)]
    prompts = [prompt_text("rationale", questions[i]) for i in rows]
    scores: Scores = [None] * len(texts)
    for i, [score_of_text] in zip(
        rows, scorer.score(prompts, [[texts[i]] for i in rows]), strict=True
    ):
        scores[i] = score_of_text.mean
    return scores


def fluency(base: Policy) -> Reward:
    from rationalize.models.scorers import ChoiceScorer

    return Reward(
        "fluency", partial(score, ChoiceScorer(base)), range=(-math.inf, 0.0), trainable=False,
        scorer_hash=base.weights_hash, should_drop=frozenset({"shuffled"}),
    )  # fmt: skip
