r"""The equations of a rationale, and whether they are true.

Rejection-sampling fine-tuning (RFT, arXiv 2308.01825) learns from no rationale with a false
equation. People and models also write what is no equation as a whole, and it is not dropped:

    27 - 2 = 25 / 5 = 5        a running result: 27 - 2 = 25, then 25 / 5 = 5
    10 / 3 = 3.33              rounded to the decimals that are shown
    3 boxes * 4 + 2 = 14       a term in words: the rest cannot be computed
    half of 50 + 3 = 28        the same
    2x + 3 = 11                an unknown: cannot be computed
    3 \times 4 = 12            LaTeX: read as plain text
"""

from __future__ import annotations

import ast
import itertools
import operator
import re
from typing import NamedTuple

TOLERANCE = 1e-3
"""The sides of a true equation differ by less (RFT's rule)."""


class Equation(NamedTuple):
    """Two sides without spaces, currency and thousands separators."""

    left: str
    right: str
    cut: bool = False
    """Whether a term may be missing, so that the sides may differ and nothing is false."""


_FIGURES = re.compile(r"[\d.,+\-*/x×÷()%$€£^ \t=]+")
"""A stretch of numbers and operators."""
_BREAK = re.compile(r"[,.]\s|(?<=\d)\s+(?=[\d$€£(])|[,.]$")
_TERM = re.compile(r"\d.*[-+*/x×÷^].*\d")
_LONGEST = 120  # characters of a side that are read
_SIGNS = str.maketrans({"x": "*", "×": "*", "÷": "/", **dict.fromkeys(",$€£ \t", "")})
_OTHER_SIGNS = str.maketrans({"−": "-", "–": "-", "·": "×", "⋅": "×", "∙": "×"})
_GOES_ON = re.compile(
    r"\s?(?:(?:k|m|bn|[rR]|rem|remainder|hundred|thousand|million|billion|trillion)\b|[¼-¾⅐-⅞])"
)
"""What changes the number before it: `1 million`, `3 remainder 2`, `6k`, `2½`."""
_FIRST = re.compile(r"-?\d+(?:\.\d+)?(?=[-+*/])")
"""The number that a calculation goes on from."""
_UNKNOWN = re.compile(r"(?:(?<=[\d(])|(?<=[-+*/=] ))x(?!\s*[\d$€£(])")
"""An x that multiplies nothing."""
_MIXED = re.compile(r"\d%?\s+[\d(]")
"""Two numbers side by side: perhaps a mixed number, `1 1/2`."""
_LATEX = (
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{[^{}]{0,60}\}|\\[,;! ]|\\left|\\right|\\\$"), " "),
    (re.compile(r"\\d?frac\s*\{([^{}]{1,40})\}\s*\{([^{}]{1,40})\}"), r"(\1)/(\2)"),
    (re.compile(r"\\(?:times|cdot)\b"), "*"),
    (re.compile(r"\\div\b"), "/"),
    (re.compile(r"\\%"), "%"),
)
_ADDED_PERCENT = re.compile(r"[\d)%][+-]\d+(?:\.\d+)?%")
_NO_PERCENT = re.compile(r"\d(?![\d.%])")
_IN_WORDS = re.compile(
    r"(?:(?:[\d%]|\b(?:percent|half|third|quarter|fourth|fifth|sixth|eighth|tenth|root)s?)\s+of"
    r"|\b(?:half|twice|double|triple|times|minus|plus|mod|modulo|sqrt|root)"
    r"|\b(?:divided|multiplied)\s+by|[\d)]\s+over)\s*$",
    re.IGNORECASE,
)
"""What makes a term of the number after it: `20% of`, `10 minus`."""
_OPERATORS = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}  # fmt: skip


def equations(text: str) -> tuple[str, ...]:
    """The equations of a text in order, without spaces, currency and thousands separators.

    A chain `a = b = c` is two equations; where b goes on calculating from the result of a, the
    first ends at that result.

    >>> equations("He pays 3 x $1,200 = $3,600, and 3600 / 2 = 1800 is left.")
    ('3*1200=3600', '3600/2=1800')
    >>> equations("27 - 2 = 25 / 5 = 5")
    ('27-2=25', '25/5=5')
    """
    return tuple(f"{e.left}={e.right}" for e in read_equations(text))


def equations_hold(text: str) -> bool:
    """Whether no equation of a text is false: by `TOLERANCE` or more, and by more than rounding to
    the decimals of its result.

    An equation that cannot be computed, or of which a term may be missing, counts as true.
    """
    return not any(is_false(equation) for equation in read_equations(text))


def is_false(equation: Equation) -> bool:
    """Whether both sides can be computed and differ.

    A result in percent may also be the number alone: 30 / 40 = 75%, and (30 / 40) * 100 = 75%.
    Percent that are added to a number or taken off it may be of that number, so that
    nothing is false: 80 + 10% = 88.
    """
    left, right = equation.left, equation.right
    if any(_ADDED_PERCENT.search(side) and _NO_PERCENT.search(side) for side in (left, right)):
        return False
    return not equation.cut and _differ(left, right) and _differ(left, right.removesuffix("%"))


def _differ(left_side: str, right_side: str) -> bool:
    left, right = value_of(left_side), value_of(right_side)
    if left is None or right is None:
        return False
    decimals = re.fullmatch(r"-?\d*(?:\.(\d+))?(%?)", right_side)
    rounding = 0.0
    if decimals and (decimals[1] or decimals[2]):
        places = len(decimals[1] or "") + (2 if decimals[2] else 0)
        rounding = 0.5 * 10.0**-places * (1 + 1e-9)
    return not abs(left - right) < TOLERANCE and abs(left - right) > rounding


def read_equations(text: str) -> list[Equation]:
    """The equations of a text in order."""
    text = text.translate(_OTHER_SIGNS)
    for pattern, plain in _LATEX:
        text = pattern.sub(plain, text)
    found = []
    for stretch in _FIGURES.finditer(text):
        sides = stretch[0].split("=")
        for i, (left, right) in enumerate(itertools.pairwise(sides)):
            before, after = _side(left, last=True), _side(right, last=False)
            # `x = 3` computes nothing: one side must hold an operator
            if not (before and after and (_TERM.search(before) or _TERM.search(after))):
                continue
            last = i + 2 == len(sides)
            cut = (i == 0 and _starts_inside(text, stretch.start(), left)) or any(
                pattern.search(side[:_LONGEST] if side is right else side[-_LONGEST:])
                for pattern in (_UNKNOWN, _MIXED)
                for side in (left, right)
            )
            if last:
                cut = cut or bool(_GOES_ON.match(text, stretch.start() + len(stretch[0].rstrip())))
                found.append(Equation(before, after, cut))
            else:  # the right side is itself calculated
                found.append(Equation(before, _result(before, after), cut))
    return found


def _result(before: str, after: str) -> str:
    """The right side of an equation in a chain: all of it, or the number that it goes on from,
    where that alone is the left side's value.
    """
    first = _FIRST.match(after)
    if first and is_false(Equation(before, after)) and not is_false(Equation(before, first[0])):
        return first[0]
    return after


def _starts_inside(text: str, start: int, left: str) -> bool:
    """Whether a stretch goes on from what is not a number: `boxes * 4`, `5:30 + 2`, `y2 + 3`,
    `half of 50 + 3`, `sqrt(16) + 2`.
    """
    if _IN_WORDS.search(text[max(0, start - 30) : start]):
        return True
    before = text[start - 1 : start]
    if not before or before.isspace():
        return False
    if left[:1].isdigit() or (before == ":" and text[start - 2 : start - 1].isdigit()):
        return True  # nothing but a sign of punctuation stands between
    if before.isalpha() and left.startswith("(") and ")" in left:
        return True
    operator_first = re.match(r"\s*[*/+×÷-]|\s+x", left)
    return bool(operator_first) and (before.isalnum() or before in ")]}")


def _side(text: str, *, last: bool) -> str:
    """The expression next to an equals sign: the last of its left side, the first of its right.

    Empty if there is none.
    """
    parts = [part for part in _BREAK.split(text[-_LONGEST:] if last else text[:_LONGEST]) if part]
    if not parts:
        return ""
    side = parts[-1 if last else 0].strip()
    if last:
        # remove a bullet, or the x that ends a word, and not the point of .5
        side = re.sub(r"^(?:-\s+|\.(?!\d)|[,x×÷*/+)%^\s])+", "", side)
    side = re.sub(r"[-+*/x×÷(^.,\s$€£]+$", "", side).translate(_SIGNS)
    # drop a parenthesis whose partner is outside of this side
    while side.count("(") > side.count(")") and side.startswith("("):
        side = side[1:]
    while side.count(")") > side.count("(") and side.endswith(")"):
        side = side[:-1]
    return side if any(c.isdigit() for c in side) else ""


def value_of(expression: str) -> float | None:
    """The value of an expression of numbers, `+ - * /` and parentheses; None for any other.

    >>> value_of("2*(3+4)"), value_of("50%*10"), value_of("9**9")
    (14.0, 5.0, None)
    """
    expression = re.sub(r"(\d+(?:\.\d+)?)%", r"(\1/100)", expression)  # 50% -> (50/100)
    if len(expression) > 200:
        return None

    def value(node: ast.expr) -> float:
        if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
            return _OPERATORS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            return -value(node.operand)
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return float(node.value)
        raise ValueError(f"{ast.dump(node)[:60]} is not arithmetic")

    try:
        plain = re.sub(r"(?<![\d.])0+(?=\d)", "", expression)
        return value(ast.parse(plain, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, OverflowError, MemoryError):
        return None
