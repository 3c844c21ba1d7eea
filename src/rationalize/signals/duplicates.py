"""Rationales that say the same thing: by their equations, else by their words.

Rejection-sampling fine-tuning (arXiv 2308.01825) keeps one rationale per distinct list of
equations, and none whose equations are false; text without equations is compared by its set of
words.
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np

from rationalize.signals.filters import first_of_each
from rationalize.text import words

Dedupe = Literal["auto", "equations", "words", "exact", "none"]
"""How equals are told: `auto` by equations where a rationale has some, else by words."""

TOLERANCE = 1e-3
"""Both sides of a true equation differ by less (the rule of 2308.01825)."""

_FIGURES = re.compile(r"[\d.,+\-*/x×÷()%$€£^ \t=]+")
"""A stretch of figures and signs."""
_BREAK = re.compile(r"[,.]\s|(?<=\d)\s+(?=[\d$€£(])|[,.]$")
_TERM = re.compile(r"\d.*[-+*/x×÷^].*\d")
_LONGEST = 120  # characters of a side
_SIGNS = str.maketrans({"x": "*", "×": "*", "÷": "/", **dict.fromkeys(",$€£ \t", "")})
_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}  # fmt: skip


def equations(text: str) -> tuple[str, ...]:
    """The equations of a text in their order, without spaces, currency and thousands separators; a
    chain `a = b = c` is two.

    >>> equations("He pays 3 x $1,200 = $3,600, and 3600 / 2 = 1800 is left.")
    ('3*1200=3600', '3600/2=1800')
    """
    found = []
    for stretch in _FIGURES.findall(text):
        sides = stretch.split("=")
        for left, right in itertools.pairwise(sides):
            before, after = _side(left, last=True), _side(right, last=False)
            if before and after and (_TERM.search(before) or _TERM.search(after)):
                found.append(f"{before}={after}")
    return tuple(found)


def _side(text: str, *, last: bool) -> str:
    """The last, or the first, whole expression of one side of an equals sign; empty if there is
    none.
    """
    parts = [part for part in _BREAK.split(text[-_LONGEST:] if last else text[:_LONGEST]) if part]
    if not parts:
        return ""
    side = parts[-1 if last else 0].strip()
    if last:
        side = re.sub(r"^(?:-\s+|[.,x×÷*/+)%^\s])+", "", side)  # a bullet, or the end of a word
    side = re.sub(r"[-+*/x×÷(^.,\s$€£]+$", "", side).translate(_SIGNS)
    while side.count("(") > side.count(")") and side.startswith("("):
        side = side[1:]
    while side.count(")") > side.count("(") and side.endswith(")"):
        side = side[:-1]
    return side if any(c.isdigit() for c in side) else ""


def equations_hold(text: str) -> bool:
    """Whether every equation of a text is true to `TOLERANCE`; one that cannot be computed is not
    counted against it.
    """
    for equation in equations(text):
        left, _, right = equation.partition("=")
        try:
            if abs(_value(_percent(left)) - _value(_percent(right))) >= TOLERANCE:
                return False
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, OverflowError):
            continue
    return True


def word_set(text: str) -> frozenset[str]:
    """The distinct words of a text; both parts of `it's` count as words of their own.

    >>> sorted(word_set("It's ice, so it slides."))
    ['ice', 'it', 's', 'slides', 'so']
    """
    return frozenset(part for word in words(text) for part in re.split("['’]", word))


def jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    """Shared words over all words; 1 for two empty sets."""
    return len(a & b) / len(a | b) if a or b else 1.0


def distinct(texts_N: Sequence[str], how: Dedupe = "auto", *, above: float = 0.9) -> np.ndarray:
    """Mask (N,) that keeps the first text of each group of equals.

    Two texts with equations are equal when these are; two without, when their words' Jaccard
    similarity exceeds `above`.
    """
    if how == "exact":
        return first_of_each(texts_N)
    keep = np.ones(len(texts_N), dtype=bool)
    if how == "none":
        return keep
    kept_lists: set[tuple[str, ...]] = set()
    kept_words: list[frozenset[str]] = []
    for i, text in enumerate(texts_N):
        found = equations(text) if how in ("auto", "equations") else ()
        if found or how == "equations":
            keep[i] = found not in kept_lists
            kept_lists.add(found)
            continue
        own = word_set(text)
        keep[i] = all(jaccard(own, other) <= above for other in kept_words)
        if keep[i]:
            kept_words.append(own)
    return keep


def _percent(text: str) -> str:
    return re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", text)


def _value(expression: str) -> float:
    """The value of `+ - * /` and parentheses over numbers; nothing else is computed."""
    if len(expression) > 200:
        raise ValueError("an expression this long is no sum of a rationale")

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        raise ValueError(f"{ast.dump(node)[:60]} is no arithmetic")

    return value(ast.parse(re.sub(r"(?<![\d.])0+(?=\d)", "", expression), mode="eval").body)
