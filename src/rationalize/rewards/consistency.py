"""Consistency: how much a rationale helps a reader to the gold answer (mario.md 4.2).

`p(gold | question, rationale) - p(gold | question)` under the answer scorer. For questions without
choices `p` is the scorer's utility of the gold text (coalition.md 3.1). An empty rationale leaves
the reader with the question alone: its consistency is 0. What is too long to read has none.
"""

from __future__ import annotations

from functools import partial

from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.reader import (
    HELPLESS,
    AnswerProbabilities,
    likeliest,
    readings,
    with_and_without,
)


def score(scorer: AnswerProbabilities, discrete: bool, *, gold, rationale, **columns) -> Scores:
    found = readings(gold, rationale=rationale, **columns)
    if discrete:
        found = [r for r in found if r.question.choices]
    scores: Scores = [None] * len(rationale)
    for r, p, p0 in zip(found, *with_and_without(scorer, found), strict=True):
        scores[r.row] = _level(p, p0, r.at) if discrete else p[r.at] - p0[r.at]
    return scores


def _level(p_C: list[float], p0_C: list[float], gold: int) -> float:
    """-1: the reader errs with the rationale; +1: it is right only with it; 0: right anyway."""
    if likeliest(p_C) != gold:
        return -1.0
    return 0.0 if likeliest(p0_C) == gold else 1.0


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
