"""Find duplicate rationales: by their equations, or by their words if they have none.

Rejection-sampling fine-tuning (RFT, arXiv 2308.01825) keeps one rationale per distinct list of
equations, and none with a false equation. Comparing the other texts by their words is our choice
(docs/methods/self-motivated.md, stage B).
"""

from __future__ import annotations

import ast
import itertools
import math
import operator
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np

from rationalize.signals.filters import first_of_each
from rationalize.text import words

Dedupe = Literal["auto", "equations", "words", "exact", "none"]
"""What makes two rationales equal. `auto`: their equations if they have any, else their words."""

TOLERANCE = 1e-3
"""The sides of a true equation differ by less (RFT's rule)."""

_FIGURES = re.compile(r"[\d.,+\-*/x×÷()%$€£^ \t=]+")
"""A stretch of numbers and operators."""
_BREAK = re.compile(r"[,.]\s|(?<=\d)\s+(?=[\d$€£(])|[,.]$")
_TERM = re.compile(r"\d.*[-+*/x×÷^].*\d")
_LONGEST = 120  # characters of a side that are read
_SIGNS = str.maketrans({"x": "*", "×": "*", "÷": "/", **dict.fromkeys(",$€£ \t", "")})
_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}  # fmt: skip


def equations(text: str) -> tuple[str, ...]:
    """The equations of a text in order, without spaces, currency and thousands separators.

    A chain `a = b = c` is two equations.

    >>> equations("He pays 3 x $1,200 = $3,600, and 3600 / 2 = 1800 is left.")
    ('3*1200=3600', '3600/2=1800')
    """
    pairs = []
    for stretch in _FIGURES.findall(text):
        sides = stretch.split("=")
        for left, right in itertools.pairwise(sides):
            before, after = _side(left, last=True), _side(right, last=False)
            # `x = 3` computes nothing: one side must hold an operator
            if before and after and (_TERM.search(before) or _TERM.search(after)):
                pairs.append(f"{before}={after}")
    return tuple(pairs)


def _side(text: str, *, last: bool) -> str:
    """The expression next to an equals sign: the last of its left side, the first of its right.

    Empty if there is none.
    """
    parts = [part for part in _BREAK.split(text[-_LONGEST:] if last else text[:_LONGEST]) if part]
    if not parts:
        return ""
    side = parts[-1 if last else 0].strip()
    if last:
        # remove a bullet, or the x that ends a word
        side = re.sub(r"^(?:-\s+|[.,x×÷*/+)%^\s])+", "", side)
    side = re.sub(r"[-+*/x×÷(^.,\s$€£]+$", "", side).translate(_SIGNS)
    # drop a parenthesis whose partner is outside of this side
    while side.count("(") > side.count(")") and side.startswith("("):
        side = side[1:]
    while side.count(")") > side.count("(") and side.endswith(")"):
        side = side[:-1]
    return side if any(c.isdigit() for c in side) else ""


def equations_hold(text: str) -> bool:
    """Whether no equation of a text is false by `TOLERANCE` or more.

    An equation that cannot be computed counts as true.
    """
    for equation in equations(text):
        left, _, right = equation.partition("=")
        try:
            if abs(_value(left) - _value(right)) >= TOLERANCE:
                return False
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, OverflowError):
            continue
    return True


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


def _value(expression: str) -> float:
    """The value of an expression of numbers, `+ - * /` and parentheses; else `ValueError`."""
    expression = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", expression)  # 50% -> (50/100)
    if len(expression) > 200:
        raise ValueError("an expression of more than 200 characters")

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        raise ValueError(f"{ast.dump(node)[:60]} is not arithmetic")

    return value(ast.parse(re.sub(r"(?<![\d.])0+(?=\d)", "", expression), mode="eval").body)
