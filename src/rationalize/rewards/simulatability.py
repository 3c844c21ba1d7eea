"""Diagnostics: does a rationale tell a reader what its writer answers (Hase et al. 2020)?

    simulatability = 1[reader(question, rationale) = prediction] - 1[reader(question) = prediction]

where the reader answers with the answer scorer's likeliest choice, and the prediction is the
attempt's own, right or wrong. Merely naming the prediction wins, so it is read beside
`prediction_leak`: leakage-adjusted simulatability is the mean over the attempts that leak and the
mean over those that do not, averaged (`evaluation/leakage.py`).

Never trained on: the control for leaks compares attempts, no attempt has it by itself, and a writer
paid for this score alone learns to give its answer away. An empty rationale leaves the reader with
the question: 0. Undefined without choices, without a prediction among them, and for what is too
long to read.
"""

from __future__ import annotations

from functools import partial

from rationalize.rewards.answer_leak import leaks
from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.reader import (
    HELPLESS,
    AnswerProbabilities,
    likeliest,
    readings,
    with_and_without,
)


def score(scorer: AnswerProbabilities, *, prediction, rationale, **columns) -> Scores:
    found = readings(prediction, rationale=rationale, **columns)
    found = [r for r in found if r.question.choices]
    scores: Scores = [None] * len(rationale)
    for r, p, p0 in zip(found, *with_and_without(scorer, found), strict=True):
        scores[r.row] = float(likeliest(p) == r.at) - float(likeliest(p0) == r.at)
    return scores


def simulatability(scorer: AnswerProbabilities) -> Reward:
    return Reward(
        "simulatability",
        partial(score, scorer),
        range=(-1.0, 1.0),
        levels=(1.0, 0.0, -1.0),
        trainable=False,
        scorer_hash=scorer.weights_hash,
        should_drop=HELPLESS,
    )


def leak_score(*, rationale, prediction, choices, **_) -> Scores:
    return [
        float(leaks(r, p, c)) if p else None
        for r, p, c in zip(rationale, prediction, choices, strict=True)
    ]


def prediction_leak() -> Reward:
    """Does the rationale state the attempt's own answer outright? (`answer_leak`: the gold one.)"""
    return Reward(
        "prediction_leak",
        leak_score,
        range=(0.0, 1.0),
        levels=(1.0, 0.0),
        trainable=False,
        should_rise=frozenset({"gold"}),
    )
