"""Find duplicate rationales: by their equations, or by their words if they have none.

Rejection-sampling fine-tuning (RFT, arXiv 2308.01825) keeps one rationale per distinct list of
equations. Comparing the other texts by their words is our choice (docs/methods/self-motivated.md,
stage B).
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
    by_words: dict[int, frozenset[str]] = {}
    for i, text in enumerate(texts_N):
        steps = equations(text) if how in ("auto", "equations") else ()
        # with equations: a list that was seen is a duplicate
        if steps or how == "equations":
            keep[i] = steps not in kept_equations
            kept_equations.add(steps)
        else:
            by_words[i] = word_set(text)
    keep[list(by_words)] = _distinct_words(list(by_words.values()), above)
    return keep


def _distinct_words(sets: Sequence[frozenset[str]], above: float) -> list[bool]:
    """Whether each set is no more than `above` alike to every one before it that was kept.

    Only sets with a common key are compared; the result is that of comparing all.
    """
    counts = Counter(word for words_of in sets for word in words_of)
    kept_with: dict[tuple[str, ...], list[frozenset[str]]] = {}
    result = []
    for words_of in sets:
        keys = list(_keys(words_of, counts, above))
        compared = (kept for key in keys for kept in kept_with.get(key, ()))
        new = all(jaccard(words_of, kept) <= above for kept in compared)
        for key in keys if new else ():
            kept_with.setdefault(key, []).append(words_of)
        result.append(new)
    return result


def _keys(
    words_of: frozenset[str], counts: Mapping[str, int], above: float
) -> Iterator[tuple[str, ...]]:
    """Two sets that are more alike than t have one of these in common.

    They share more than t n words of the n of either. So whatever the order of all words, the first
    two that they share are among the first `n - ceil(t n) + 2` of each (prefix filtering: Bayardo
    et al., "Scaling up all pairs similarity search", WWW 2007, section 3). With rare words first,
    hardly any other sets have a pair of those.
    """
    if above < 0.5:
        yield ()  # all are compared
    elif len(words_of) < 2:
        yield tuple(words_of)  # alike to an equal one alone
    else:
        shared = math.ceil(above * len(words_of) - 1e-9)
        in_order = sorted(words_of, key=lambda word: (counts[word], word))
        yield from itertools.combinations(in_order[: max(2, len(words_of) - shared + 2)], 2)
