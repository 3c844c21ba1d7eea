"""Diagnostic: the share of the rationale's words that repeat an earlier run of words."""

from __future__ import annotations

from rationalize.rewards.base import Reward, Scores
from rationalize.text import words

_SPAN = 3  # words of a run


def repeated_share(text: str) -> float:
    """Share of words in a run of three that occurred before; case and punctuation are ignored.

    >>> repeated_share("He is tall, so he is tall.")
    0.42857142857142855
    """
    text_words = words(text)
    seen: set[tuple[str, ...]] = set()
    repeated: set[int] = set()
    for start in range(len(text_words) - _SPAN + 1):
        run = tuple(text_words[start : start + _SPAN])
        if run in seen:
            repeated.update(range(start, start + _SPAN))
        seen.add(run)
    return len(repeated) / len(text_words) if text_words else 0.0


def score(*, rationale, **_) -> Scores:
    return [repeated_share(r) for r in rationale]


def repetition() -> Reward:
    return Reward(
        "repetition", score, range=(0.0, 1.0), trainable=False,
        should_rise=frozenset({"repetition"}),
    )  # fmt: skip
