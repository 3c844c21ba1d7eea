"""Diagnostic: the share of the rationale's words that are copied from a choice."""

from __future__ import annotations

from collections.abc import Sequence

from rationalize.rewards.base import Reward, Scores
from rationalize.rewards.mentions import mentions
from rationalize.text import words


def copied_share(text: str, choices: Sequence[str]) -> float:
    """Words inside a mention of a whole choice, over all words; case and punctuation are ignored.

    >>> copied_share("It is the heavy cart.", ["the heavy cart", "the light cart"])
    0.6
    """
    text_words = words(text)
    copied: set[int] = set()
    for choice in choices:
        size = len(words(choice))
        for start in mentions(text_words, choice):
            copied.update(range(start, start + size))
    return len(copied) / len(text_words) if text_words else 0.0


def score(*, rationale, choices, **_) -> Scores:
    return [copied_share(r, c) if c else None for r, c in zip(rationale, choices, strict=True)]


def option_copying() -> Reward:
    return Reward(
        "option_copying", score, range=(0.0, 1.0), trainable=False,
        should_rise=frozenset({"options"}),
    )  # fmt: skip
