"""Pair accuracy: of the pairs of attempts at a question, the share that something has in order.

It is measured on questions whose pairs were not learned from: a reward model's scores, and the
implicit reward of DPO (iterative DPO and COALITION's SRO).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rationalize.evaluation.intervals import bootstrap_mean
from rationalize.questions import hold_out
from rationalize.records import Question
from rationalize.runs import Stage
from rationalize.signals.ranks import rates_in_order
from rationalize.training.preference import PairTexts

PAIRS = "held_out_pair_accuracy"


def with_interval(name: str, rates: Sequence[float]) -> dict[str, float]:
    """A mean over questions, and its 95 % interval (`_low`, `_high`); without any, nothing is
    known: one half, between 0 and 1.
    """
    if not rates:
        return {name: 0.5, f"{name}_low": 0.0, f"{name}_high": 1.0}
    interval = bootstrap_mean(rates, bounds=(0.0, 1.0))
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def held_out_questions(questions: Sequence[Question], share: float, seed: int) -> set[str]:
    """Ids of the questions whose pairs are kept aside; duplicates stay together. One remains to
    learn from.
    """
    return {questions[i].id for i in hold_out(questions, share, f"{seed}/pairs")[1]}


def log_held_out(
    stage: Stage, pairs: Sequence[PairTexts], margins: Sequence[float], learned: int
) -> dict[str, Any]:
    """What a stage of DPO ends with, logged under `held_out` too: `pairs` learned from,
    `held_out_pairs`, and where there are some `held_out_pair_accuracy` with its interval over
    prompts.
    """
    facts: dict[str, Any] = {"pairs": learned, "held_out_pairs": len(pairs)}
    if pairs:
        facts |= with_interval(PAIRS, rates_in_order([p.prompt for p in pairs], margins))
    stage.log("held_out", 0, [facts])
    return facts
