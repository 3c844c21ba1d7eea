"""Task correctness: does the attempt's answer match the gold answer? (MaRio, arXiv 2311.02805;
docs/methods/mario.md, Rewards)
"""

from __future__ import annotations

from rationalize.answers import is_correct
from rationalize.rewards.base import Reward, Scores


def score(*, prediction, gold, choices, accepted=None, **_) -> Scores:
    """1 for the gold answer or another accepted one, 0 for any other answer or none; None without a
    gold answer.
    """
    accepted = accepted or [()] * len(gold)
    return [
        float(any(is_correct(p, answer, c) for answer in (g, *others))) if g else None
        for p, g, c, others in zip(prediction, gold, choices, accepted, strict=True)
    ]


def correctness() -> Reward:
    return Reward("correctness", score, range=(0.0, 1.0), needs_gold=True, levels=(1.0, 0.0))
