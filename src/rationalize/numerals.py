"""Numbers as people and models write them: currency, groups of three, LaTeX, powers, fractions.

A number is read as itself or not at all: where more belongs to it than is understood (`9_500`,
`3-5`, `2.5.1`), there is no number, never its first digits. No torch here.
"""

from __future__ import annotations

import re
import unicodedata
from fractions import Fraction

_WRAPPERS = (
    "boxed|fbox|mbox|hbox|text|textbf|textit|textrm|emph|mathrm|mathbf|mathit|mathsf|operatorname"
)
_WRAPPED = re.compile(rf"\\(?:{_WRAPPERS})\s*\{{((?:[^{{}}]|\{{,\}})*)\}}")
_FRACTION_LATEX = re.compile(r"(\d?)\\[dtc]?frac\s*(?:\{([^{}]*)\}\s*\{([^{}]*)\}|(\d)\s*(\d))")
_THIN_SPACE = re.compile(
    r"(?<=\d)(?:\{,\}|\\[,!;: ]|~|[\u00a0\u2007\u2009\u202f])(?=\d{3}(?:\D|$))"
)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SUPERSCRIPT = re.compile(r"([⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_VULGAR = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_DASH = re.compile(r"[‐‑‒–−﹣－](?=\s?[$£€¥]?\s?[\d.])")  # not the em dash: it separates
_TAGS = re.compile(r"</?(?:b|i|em|strong|u|code|span|p|mark|answer)\s*>", re.IGNORECASE)

_DOT = re.compile(r"(?<=[\w)}%])(\s?)[·⋅∙]")  # multiplies; at the start it is a bullet
_SIGNS = {"times": "×", "cdot": "×", "div": "÷", "pm": "±", "%": "%", "$": "$"}
_LATEX_SIGN = re.compile(r"\\(?:(times|cdot|div|pm)(?![A-Za-z])|([%$]))")
_SIGN_WORD = re.compile(
    r"(?:\bnegative|(^|[=:(,]\s?|\b(?:is|was|be|equals)\s)minus)\s(?=[$£€]?\.?\d)", re.IGNORECASE
)

_COUNTS = ("hundred", "thousand", "million", "billion", "trillion")
_POWERS = dict(zip(_COUNTS, (2, 3, 6, 9, 12), strict=True))
_COUNT = f"(?i:{'|'.join(_COUNTS)})"
_DIGITS = r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_OPERAND = r"(?:[\d(\\√π]|sqrt|pi\b)"
_SHORTER = r"h(?:ou)?rs?|min(?:ute)?s?|days?|weeks?"
_LARGER = rf"(?:{_SHORTER}|years?|f(?:oo|ee)?t|yards?|lbs?|pounds?|km|kg)"
_SMALLER = rf"(?:{_SHORTER}|sec(?:ond)?s?|months?|in(?:ch(?:es)?)?|oz|ounces?|m|g)"
_MORE = (
    r"(?![\d_²³½¼¾\\{π√∞⁄αβγδεθλρστφψω]|['’,.:]\d|\s:\s\d|[eE][-+]?\d|[kKMBinxyz]\b"
    r"|\s?\*\*\s?\d|\s+\d+\s*/|/[nxyz]\b|\s[<>≤≥]=?\s|\s+(?:remainder|rem\.?|[rR])\s?\d"
    rf"|\s?{_LARGER}\.?,?\s(?:and\s)?\d+\s?{_SMALLER}\b"
    rf"|\s?(?:{_COUNT}s?\b|\^|√|π|sqrt|\\sqrt|\\?pi\b|squared\b|cubed\b|[-/±×÷]\s?{_OPERAND})"
    rf"|(?:[+*]|\s[+*]\s){_OPERAND}|\s?[+±×÷]\s?[b-z]\b"
    r"|\s+(?:and|or|to|point|plus|minus|times|mod|(?:divided|multiplied)\s+by)"
    r"\s+(?:a\s+half|(?:\w\s?=\s?)?[-$£€]?\d)"
    # 5 apples + 3 apples; a dash may also separate (24 packs - 12 * 2 = 24), but not one unit
    r"|(?P<unit>\s?(?:%|[^\W\d_]+))(?:[\s/][^\W\d_]+){0,2}"
    r"(?:\s?[+×÷*]\s?[$£€]?\d|\sx\s\d|\s?-\s?[$£€]?\d+(?P=unit))"
    r"|\s?%\s+of\s+[$£€]?\d[^=\n]{0,80}=)"
)
"""What may not follow: the number would go on."""
_SIGNED = r"(?:[-+]?(?:[$£€¥] ?)?|[$£€¥][-+])"
_NUMBER = re.compile(
    r"(?<![\w.,^√±-])(?<![Mm]inus )"
    rf"{_SIGNED}{_DIGITS}(?:[eE][-+]?\d+(?!\w)|\s?{_COUNT}\b)?{_MORE}"
)
_SCIENTIFIC = re.compile(rf"({_SIGNED}{_DIGITS})\s*[*×x]\s*10\s*(?:\^|\*\*)\s*([-+]?\d+)")
_POWER = re.compile(r"([-+]?)(\d+)\s*(?:\^|\*\*)\s*([-+]?\d+)")
_FRACTION = re.compile(r"([-+]?)(?:(\d+)\s+)?(\d+)\s*/\s*(\d+)")
_SPECIAL = (_SCIENTIFIC, _POWER, _FRACTION)
_CALCULATION = re.compile(rf"(?:[-+*/×÷^x().,$£€¥\d\s=]|(?<=\d)[eE](?=[-+]?\d)|\b{_COUNT}\b)+")
_RESTATED = re.compile(r"\s*(.+?)\s*\(([^()]+)\)[\s.]*")
"""A number, and the same in brackets: `0.75 (3/4)`."""
_UNIT = re.compile(r"\s*(?:%|percent|per\s?cent|°\s?[CF]?|[$£€¥])\s*$", re.IGNORECASE)
_FUNCTION = re.compile(
    r"\\(?!(?:approx|simeq|displaystyle|[q]?quad|left|right|therefore|implies|[lL]ongrightarrow"
    r"|[rR]ightarrow|to|times|cdot|div|degree|circ|le|ge|leq|geq|[cl]?dots)(?![A-Za-z]))[A-Za-z]+"
    r"|√|\b(?:sqrt|log|ln|sin|cos|tan|exp)\s?[(\d]|(?i:\b(?:half|twice|root)\s(?:of\s)?[$£€]?\d)"
)
"""What makes another number of what follows: `\\sqrt`, `\\log`, `\\pi`, `sqrt(`, `half of`."""
_INEQUALITY = re.compile(r"(?<![-=])[<>≤≥]=?\s?[-$£€]?\.?\d")  # no arrow
_GREATEST = 10**308
"""What a float holds."""
_LONGEST = 300
"""Digits, and size of an exponent, up to which a number is read."""


_DEEPEST = 9
"""Commands of LaTeX within each other that are taken off."""


def plain(text: str) -> str:
    r"""The text without LaTeX and mark-up, with ASCII signs, letters and digits.

    >>> plain("$\\boxed{9{,}500}$"), plain("**Ｂ**。"), plain("−2\\frac{1}{2}"), plain("10²")
    ('9,500', 'B.', '-2 1/2', '10^2')
    """
    text = re.sub(r"\*\*([^*]+)\*\*", r"\1", _TAGS.sub("", text))
    text = _THIN_SPACE.sub(",", text)
    text = _SUPERSCRIPT.sub(r"^\1", text)
    text = _VULGAR.sub(" ", text.translate(_SUPERSCRIPTS))
    text = unicodedata.normalize("NFKC", _DASH.sub("-", text))
    text = text.replace("\u2044", "/").replace("。", ".").replace("．", ".")
    text = re.sub(r"(?<!\\)\$\$?([^$\n]+?)(?<!\\)\$\$?(?!\d)", r"\1", text)
    text = re.sub(r"\\[()\[\]]|^\s*\$\$\s*$", "", text, flags=re.MULTILINE)
    for _ in range(_DEEPEST):  # from the inside out
        before = text
        text = _WRAPPED.sub(r"\1", text)
        text = _FRACTION_LATEX.sub(_written_fraction, text)
        text = re.sub(r"\^\{([-+]?\d+)\}", r"^\1", text)
        if text == before:
            break
    text = re.sub(r"\s?\\[,!;:]\s?|\\ ", " ", text)
    text = _LATEX_SIGN.sub(lambda m: _SIGNS[m[1] or m[2]], _DOT.sub(r"\1×", text))
    text = re.sub(r"\^\s*(?:\\circ|\{\\circ\})|\\degree", "°", text)
    text = _DASH.sub("-", text).strip().strip("*\"'`_“”‘’«» ").strip()
    return _SIGN_WORD.sub(r"\1-", text)


def _written_fraction(match: re.Match[str]) -> str:
    whole, above, below = match[1], match[2] or match[4], match[3] or match[5]
    return f"{whole} {above}/{below}" if whole else f"{above}/{below}"


def number(text: str) -> float | None:
    """The number in an answer, without currency, thousands separators and units; else None.

    It is the number at the beginning, the result of a calculation there, or the only number.

    >>> [number(t) for t in ("$1,200 a year", "24 because 12 * 2 = 24", "12 * 2 = 24", "it is 7")]
    [1200.0, 24.0, 24.0, 7.0]
    >>> [number(t) for t in ("7 of them, not 8", "1/2", "3 × 10^4", "1.5 million")]
    [7.0, 0.5, 30000.0, 1500000.0]
    >>> [number(t) for t in ("3, 4", "Ann 3, Tom 4", "9_500", "3-5", "1.200,50")]
    [None, None, None, None, None]
    """
    exact = exact_number(text)
    if exact is None or abs(exact) > _GREATEST:
        return None
    return float(exact)


def exact_number(text: str) -> Fraction | None:
    """`number`, without rounding."""
    written = number_text(text)
    return None if written is None else _value(written)


def whole_number(text: str) -> Fraction | None:
    """The value of a text that is one number, perhaps with a currency, `%` or degrees."""
    alone = _UNIT.sub("", plain(text)).rstrip(". ")
    return _value(alone)


def number_text(text: str) -> str | None:
    """The text of the number that `number` reads."""
    text = plain(text)
    leading = _CALCULATION.match(text)
    if not leading or not any(c.isdigit() for c in leading.group()):
        numbers = [m.group() for m in _NUMBER.finditer(text)]
        # what is left over has a number that is not understood
        if _FUNCTION.search(text) or _INEQUALITY.search(re.sub(r"</?[a-z][^<>]*>", "", text)):
            return None
        if re.search(r"(?<![\w^])\d", _NUMBER.sub(" ", text)) or re.match(r"(?i)not\b", text):
            return None
        return _agreed(numbers)
    if re.match(r"\s*[a-z]\s?=\s?\S", text[leading.end() :]):  # x = 2, y = 3
        return None
    if len(leading.group()) <= _LONGEST and (restated := _RESTATED.fullmatch(leading.group())):
        once, again = _value(restated[1]), _value(restated[2])
        if once is not None and once == again:
            return restated[1]
    # "12 * 2 = 24": of the sides of a calculation, only those that are one number
    sides, start = [], 0
    for side in leading.group().split("="):
        stripped = side.strip(" \t\n(").rstrip(" \t\n.,()-+*/×÷^x$£€¥")
        begin = start + side.find(stripped) if stripped else start
        sides.append((stripped, begin, begin + len(stripped)))
        start += len(side) + 1
    plain_sides = [
        side for side, begin, end in sides
        if (match := _NUMBER.match(text, begin)) and match.end() == end
    ]  # fmt: skip
    if plain_sides or len(sides) > 1:
        return _agreed(plain_sides)
    # 1/2, 2^10 or 3 × 10^8, and nothing that goes on with them
    side, _, end = sides[0]
    rest = text[end:].lstrip()
    goes_on = re.match(r"[\w\\{π√:'’]|[.,]\d", text[end:]) or re.match(
        r"of\b|[-+*/^\d(:]|(?:or|and|to)\s+[-$£€]?\d", rest
    )
    special = any(form.fullmatch(side) for form in _SPECIAL)
    return side if special and not goes_on and _value(side) is not None else None


def _agreed(numbers: list[str]) -> str | None:
    values = {_value(n) for n in numbers}
    return numbers[-1] if len(values) == 1 and None not in values else None


def _value(written: str) -> Fraction | None:
    """The value of a text that is a number and nothing else."""
    written = written.strip()
    if len(written) > _LONGEST:
        return None
    if match := _SCIENTIFIC.fullmatch(written):
        base, power = _value(match[1]), int(match[2])
        return None if base is None or abs(power) > _LONGEST else base * Fraction(10) ** power
    if match := _POWER.fullmatch(written):
        base, power = Fraction(int(match[2])), int(match[3])
        if abs(power) * len(match[2]) > _LONGEST or (base == 0 and power <= 0):
            return None
        return base**power * (-1 if match[1] == "-" else 1)
    if match := _FRACTION.fullmatch(written):
        if int(match[4]) == 0:
            return None
        value = int(match[2] or 0) + Fraction(int(match[3]), int(match[4]))
        return -value if match[1] == "-" else value
    if not _NUMBER.fullmatch(written):
        return None
    digits, _, count = re.sub(rf"\s?({_COUNT})$", r" \1", written).rpartition(" ")
    if (count := count.lower()) not in _POWERS:
        digits, count = written, ""
    digits = re.sub("[,$£€¥ ]", "", digits)
    _, _, exponent = digits.lower().partition("e")
    if exponent and abs(int(exponent)) > _LONGEST:
        return None
    return Fraction(digits) * 10 ** _POWERS.get(count, 0)
