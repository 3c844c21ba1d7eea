"""Consistency: how much a rationale helps a reader to find the gold answer.

    consistency = p(gold | question, rationale) - p(gold | question)

under the answer scorer (MaRio, arXiv 2311.02805; docs/methods/mario.md, Rewards). For a free-form
question `p` is COALITION's utility of the gold text (arXiv 2503.02463; docs/methods/coalition.md,
step 3). An empty rationale scores 0: the reader has the question alone both times. Undefined
without a gold answer, and for a text that is too long to read.
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
    asked = readings(gold, rationale=rationale, **columns)
    if discrete:
        asked = [r for r in asked if r.question.choices]
    scores: Scores = [None] * len(rationale)
    for r, p_C, p0_C in zip(asked, *with_and_without(scorer, asked), strict=True):
        scores[r.row] = _level(p_C, p0_C, r.at) if discrete else p_C[r.at] - p0_C[r.at]
    return scores


def _level(p_C: list[float], p0_C: list[float], gold: int) -> float:
    """-1: the reader is wrong with the rationale; +1: right only with it; 0: right either way."""
    if likeliest(p_C) != gold:
        return -1.0
    return 0.0 if likeliest(p0_C) == gold else 1.0


def consistency(scorer: AnswerProbabilities) -> Reward:
    return Reward(
        "consistency", partial(score, scorer, False), range=(-1.0, 1.0), needs_gold=True,
        scorer_hash=scorer.weights_hash, should_drop=HELPLESS,
    )  # fmt: skip


def consistency_discrete(scorer: AnswerProbabilities) -> Reward:
    """Three levels (see `_level`) instead of a difference; undefined for free-form questions."""
    return Reward(
        "consistency_discrete", partial(score, scorer, True), range=(-1.0, 1.0), needs_gold=True,
        levels=(1.0, 0.0, -1.0), scorer_hash=scorer.weights_hash, should_drop=HELPLESS,
    )  # fmt: skip
