"""Diagnostic: the share of the rationale's words that merely repeat a choice."""

from __future__ import annotations

from collections.abc import Sequence

from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.mentions import mentions
from rationalize.text import words


def copied_share(text: str, choices: Sequence[str]) -> float:
    """Words inside a verbatim mention of a choice, over all words; case and signs are ignored.

    >>> copied_share("It is the heavy cart.", ["the heavy cart", "the light cart"])
    0.6
    """
    own = words(text)
    copied: set[int] = set()
    for choice in choices:
        size = len(words(choice))
        for at in mentions(own, choice):
            copied.update(range(at, at + size))
    return len(copied) / len(own) if own else 0.0


def score(*, rationale, choices, **_) -> Scores:
    return [copied_share(r, c) if c else None for r, c in zip(rationale, choices, strict=True)]


def option_copying() -> Reward:
    return Reward(
        "option_copying",
        score,
        range=(0.0, 1.0),
        trainable=False,
        should_rise=frozenset({"options"}),
    )
