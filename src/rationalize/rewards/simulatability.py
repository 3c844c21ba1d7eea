"""Diagnostics: does a rationale tell a reader what its writer answers?

    simulatability = 1[reader(question, rationale) = prediction] - 1[reader(question) = prediction]

(Hase et al., arXiv 2010.04119), where `reader` is the answer scorer's most probable choice, and
`prediction` is the attempt's answer, right or wrong. Naming the prediction is enough for a high
score, so compare it with `prediction_leak`: leakage-adjusted simulatability averages the mean over
the attempts that leak and the mean over those that do not (`evaluation/leakage.py`).

Never trained on: a writer that is trained on it learns to give its answer away, and the adjustment
exists only over many attempts. An empty rationale scores 0. Undefined for a free-form question,
without a prediction among the choices, and for a text that is too long to read.
"""

from __future__ import annotations

from functools import partial

from rationalize.rewards.answer_leak import score as leak_score
from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.reader import (
    HELPLESS,
    AnswerProbabilities,
    likeliest,
    readings,
    with_and_without,
)


def score(scorer: AnswerProbabilities, *, prediction, rationale, **columns) -> Scores:
    asked = readings(prediction, rationale=rationale, **columns)
    asked = [r for r in asked if r.question.choices]
    scores: Scores = [None] * len(rationale)
    for r, p_C, p0_C in zip(asked, *with_and_without(scorer, asked), strict=True):
        scores[r.row] = float(likeliest(p_C) == r.at) - float(likeliest(p0_C) == r.at)
    return scores


def simulatability(scorer: AnswerProbabilities) -> Reward:
    return Reward(
        "simulatability", partial(score, scorer), range=(-1.0, 1.0), levels=(1.0, 0.0, -1.0),
        trainable=False, scorer_hash=scorer.weights_hash, should_drop=HELPLESS,
    )  # fmt: skip


def prediction_leak() -> Reward:
    """Does the rationale already state the attempt's answer? (`answer_leak`: the gold answer.)"""

    def score(*, rationale, prediction, choices, **_) -> Scores:
        return leak_score(rationale=rationale, gold=prediction, choices=choices)

    return Reward(
        "prediction_leak", score, range=(0.0, 1.0), levels=(1.0, 0.0), trainable=False,
        should_rise=frozenset({"gold"}),
    )  # fmt: skip
