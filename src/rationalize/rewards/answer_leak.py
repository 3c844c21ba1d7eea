"""Diagnostic: does the rationale already state the gold answer, before the answer sentence?

It does if a sentence names the gold choice (by its words, or by its letter in brackets) and no
other choice: `It must be steel` leaks, `Steel is heavier than wood` does not. For a free-form
question every mention of the gold text leaks.
"""

from __future__ import annotations

from collections.abc import Sequence

from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.mentions import names_answer, sentences


def leaks(text: str, gold: str, choices: Sequence[str] | None) -> bool:
    """Whether a sentence of the text names `gold` and no other choice."""
    others = [c for c in choices or () if c != gold]
    return any(
        names_answer(s, gold, choices) and not any(names_answer(s, o, choices) for o in others)
        for s in sentences(text)
    )


def score(*, rationale, gold, choices, **_) -> Scores:
    return [
        float(leaks(r, g, c)) if g else None
        for r, g, c in zip(rationale, gold, choices, strict=True)
    ]


def answer_leak() -> Reward:
    return Reward(
        "answer_leak", score, range=(0.0, 1.0), needs_gold=True, trainable=False,
        should_rise=frozenset({"gold"}),
    )  # fmt: skip
