"""Diversity: distinct n-grams over n-grams (MaRio, arXiv 2311.02805; docs/methods/mario.md)."""

from __future__ import annotations

from collections.abc import Sequence

from rationalize.rewards.base import Reward, Scores


def diversity_of(text: str, sizes: Sequence[int] = (2, 3, 4)) -> float:
    """`prod_n (distinct n-grams / n-grams)` of whitespace-separated, case-sensitive words.

    A factor without n-grams counts as 1, so an empty or one-word text has diversity 1: compare
    `length`.

    >>> round(diversity_of("a b a b a"), 5)
    0.33333
    """
    text_words = text.split()
    product = 1.0
    for n in sizes:
        ngrams = list(zip(*(text_words[i:] for i in range(n)), strict=False))
        if ngrams:
            product *= len(set(ngrams)) / len(ngrams)
    return product


def score(*, rationale, **_) -> Scores:
    return [diversity_of(r) for r in rationale]


def diversity() -> Reward:
    return Reward("diversity", score, range=(0.0, 1.0), should_drop=frozenset({"repetition"}))
