"""Diagnostic: number of words of the rationale. Short texts get high scores from some rewards."""

from __future__ import annotations

import math

from rationalize.rewards.base import Reward, Scores


def score(*, rationale, **_) -> Scores:
    return [float(len(r.split())) for r in rationale]


def length() -> Reward:
    return Reward(
        "length", score, range=(0.0, math.inf), trainable=False,
        should_drop=frozenset({"empty", "one_word"}), should_rise=frozenset({"repetition"}),
    )  # fmt: skip
