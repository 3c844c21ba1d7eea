"""Find duplicate rationales: by their equations, or by their words if they have none.

Rejection-sampling fine-tuning (RFT, arXiv 2308.01825) keeps one rationale per distinct list of
equations. Comparing the other texts by their words is our choice (docs/methods/self-motivated.md,
stage B).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rationalize.signals.equations import equations
from rationalize.signals.filters import first_of_each
from rationalize.text import words

Dedupe = Literal["auto", "equations", "words", "exact", "none"]
"""What makes two rationales equal. `auto`: their equations if they have any, else their words."""


def word_set(text: str) -> frozenset[str]:
    """The distinct words of a text; `it's` counts as two, `it` and `s`."""
    return frozenset(part for word in words(text) for part in re.split("['’]", word))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Jaccard similarity: shared words over all words; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def distinct(texts_N: Sequence[str], how: Dedupe = "auto", *, above: float = 0.9) -> np.ndarray:
    """Mask (N,) of the first text of each group of duplicates.

    Texts with equations are duplicates if their lists of equations are equal; texts without, if the
    Jaccard similarity of their words exceeds `above`.
    """
    if how == "exact":
        return first_of_each(texts_N)
    keep = np.ones(len(texts_N), dtype=bool)
    if how == "none":
        return keep
    kept_equations: set[tuple[str, ...]] = set()
    kept_words: list[frozenset[str]] = []
    for i, text in enumerate(texts_N):
        steps = equations(text) if how in ("auto", "equations") else ()
        # with equations: a list that was seen is a duplicate
        if steps or how == "equations":
            keep[i] = steps not in kept_equations
            kept_equations.add(steps)
            continue
        # without: compare the words with those of every kept text
        text_words = word_set(text)
        keep[i] = all(jaccard(text_words, kept) <= above for kept in kept_words)
        if keep[i]:
            kept_words.append(text_words)
    return keep
