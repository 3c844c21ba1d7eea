"""Information gain: what a rationale tells a reader about the gold answer, in nats.

`log p(gold | question, rationale) - log p(gold | question)` under the answer scorer: the pointwise
mutual information of rationale and answer, given the question. It orders the rationales of one
question as consistency does, but 0.01 -> 0.1 is worth as much as 0.1 -> 1. For questions without
choices `p` is the scorer's utility, so it is nats a token. An empty rationale tells nothing: 0.

It may be trained on, as consistency may: every attempt has its own, and it is won by what leads a
reader to the gold answer, naming it included (see `answer_leak`). Undefined without a gold answer,
for what is too long to read, and where a probability is 0 in floating point.
"""

from __future__ import annotations

import math
from functools import partial

from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.reader import HELPLESS, AnswerProbabilities, readings, with_and_without


def score(scorer: AnswerProbabilities, *, gold, rationale, **columns) -> Scores:
    found = readings(gold, rationale=rationale, **columns)
    scores: Scores = [None] * len(rationale)
    for r, p, p0 in zip(found, *with_and_without(scorer, found), strict=True):
        if p[r.at] > 0 and p0[r.at] > 0:
            scores[r.row] = math.log(p[r.at]) - math.log(p0[r.at])
    return scores


def information_gain(scorer: AnswerProbabilities) -> Reward:
    return Reward(
        "information_gain",
        partial(score, scorer),
        needs_gold=True,
        scorer_hash=scorer.weights_hash,
        should_drop=HELPLESS,
    )
