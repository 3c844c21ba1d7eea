"""Diagnostic: how likely the untouched base model finds the rationale, given the question."""

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
    """Mean log-probability of the rationale's tokens; None for an empty one, or one too
    long to read.
    """
    questions = column_questions(question, choices, gold, context, question_id)
    texts = [r.strip() for r in rationale]
    said = [i for i, text in enumerate(texts) if text and readable(questions[i], text)]
    prompts = [prompt_text("rationale", questions[i]) for i in said]
    scores: Scores = [None] * len(texts)
    for i, [own] in zip(said, scorer.score(prompts, [[texts[i]] for i in said]), strict=True):
        scores[i] = own.mean
    return scores


def fluency(base: Policy) -> Reward:
    from rationalize.models.scorers import ChoiceScorer

    return Reward(
        "fluency",
        partial(score, ChoiceScorer(base)),
        range=(-math.inf, 0.0),
        trainable=False,
        scorer_hash=base.weights_hash,
        should_drop=frozenset({"shuffled"}),
    )
