"""Information gain: what a rationale tells a reader about the gold answer, in nats.

    gain = log p(gold | question, rationale) - log p(gold | question)

under the answer scorer: the pointwise mutual information of rationale and answer, given the
question. It ranks the rationales of one question as consistency does, but 0.01 -> 0.1 gains as much
as 0.1 -> 1. For a free-form question `p` is the scorer's utility, and the unit is nats per token.
An empty rationale scores 0.

Like consistency it can be trained on, and like it, it rewards a rationale that names the gold
answer (see `answer_leak`). Undefined without a gold answer, for a text that is too long to read,
and if a probability is 0 in floating point.
"""

from __future__ import annotations

import math
from functools import partial

from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.reader import HELPLESS, AnswerProbabilities, readings, with_and_without


def score(scorer: AnswerProbabilities, *, gold, rationale, **columns) -> Scores:
    asked = readings(gold, rationale=rationale, **columns)
    scores: Scores = [None] * len(rationale)
    for r, p_C, p0_C in zip(asked, *with_and_without(scorer, asked), strict=True):
        if p_C[r.at] > 0 and p0_C[r.at] > 0:
            scores[r.row] = math.log(p_C[r.at]) - math.log(p0_C[r.at])
    return scores


def information_gain(scorer: AnswerProbabilities) -> Reward:
    return Reward(
        "information_gain", partial(score, scorer), needs_gold=True,
        scorer_hash=scorer.weights_hash, should_drop=HELPLESS,
    )  # fmt: skip
