"""Answers: write, parse and compare choice labels, numbers, yes and no. No torch here."""

from __future__ import annotations

import math
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass

MARKER = "So the answer is"
"""The sentence that separates the rationale from the answer; the last one in a reply wins."""

# ASCII: Unicode case folding would also match other letters (ſ as s)
_MARKER = re.compile(rf"(?<![a-z]){MARKER}(?![a-z])", re.IGNORECASE | re.ASCII)
_ANSWERED = re.compile(
    rf"{_MARKER.pattern}[\s:*\"'`]*"
    r"(?:\(?[a-z]\)|[-+]?[$£€]?\d|(?:yes|no)\b|[\w-]+[.*\"'`]*[^\S\n]*\n)",
    re.IGNORECASE | re.ASCII,
)
"""The marker with a label, number, yes, no or single word; not `So the answer is not clear`."""
_LETTER = re.compile(r"\(\s*([A-Za-z])\s*(?:\)|$)")
_BARE_LETTER = re.compile(r"([A-Za-z])(?:[).,:;]|$)")
_YES_NO = re.compile(r"\b(yes|no)\b", re.IGNORECASE)
_STOP = re.compile(r"(?<!\b[DMS][rst])\.(?=\s|$)")  # not in 3.5, nor after Mr, Dr or St
_NUMBER = re.compile(
    r"(?<![\w.,-])(?:[-+]?(?:[$£€] ?)?|[$£€][-+])"  # sign and currency
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
)
_CALCULATION = re.compile(r"[-+*/×÷^x().,$£€\d\s=]+")


@dataclass(frozen=True)
class Reply:
    """A parsed completion."""

    rationale: str
    prediction: str | None
    """Choice text, or free-form answer; None if none could be read."""

    @property
    def parsed(self) -> bool:
        return self.prediction is not None


def label(index: int) -> str:
    """`0 -> "(A)"`."""
    return f"({string.ascii_uppercase[index]})"


def answer_label(answer: str, choices: Sequence[str] | None) -> str:
    """What a model writes for this answer: the choice's letter, or the free-form answer."""
    return label(list(choices).index(answer)) if choices else answer


def reply_text(rationale: str, answer: str, choices: Sequence[str] | None) -> str:
    """`{rationale} So the answer is {label}.`; adds a full stop to a rationale without one."""
    rationale = rationale.strip()
    if rationale and rationale[-1] not in ".!?":
        rationale += "."
    sentence = f"{MARKER} {answer_label(answer, choices)}."
    return f"{rationale} {sentence}" if rationale else sentence


def parse_reply(completion: str, choices: Sequence[str] | None) -> Reply:
    """Split a completion at its last marker (case-insensitive) and read the answer after it."""
    markers = list(_MARKER.finditer(completion))
    if not markers:
        return Reply(completion.strip(), None)
    last = markers[-1]
    return Reply(completion[: last.start()].strip(), read_answer(completion[last.end() :], choices))


def has_marker(text: str) -> bool:
    """Whether the text contains the marker, at which a reply is split."""
    return _MARKER.search(text) is not None


def end_after_answer(text: str, stop: str) -> int:
    r"""Where the first `stop` after a reply's first plain answer begins, or -1.

    After few-shot demonstrations, a model often goes on with a question of its own.

    >>> text = "2 + 2 = 4.\n\nSo the answer is 4.\n\nAnn has 3 pens. So the answer is 3."
    >>> text[: end_after_answer(text, "\n\n")]
    '2 + 2 = 4.\n\nSo the answer is 4.'
    """
    answer = _ANSWERED.search(text)
    return text.find(stop, answer.end() - 1) if answer else -1


def read_answer(text: str, choices: Sequence[str] | None) -> str | None:
    """Read a choice, or a free-form answer, from the text after the marker; None without one.

    `(A)` is the first choice, whatever follows. Then come the choices' texts, and then a bare `A`.
    For the choices yes and no, the first of these words counts. A free-form answer ends at the
    first full stop of its line.
    """
    text = text.strip().lstrip(":").strip()
    if not text:
        return None
    line = text.splitlines()[0].strip().rstrip(".").strip()
    if not choices:
        return _STOP.split(line, maxsplit=1)[0].strip() or None
    bare = line.strip("*\"'` ")  # chat models put answers in bold or quotes
    letter = _LETTER.match(bare)
    if not letter:
        texts = {normalise(c): c for c in reversed(choices)}
        for form in (line, bare):
            if normalise(form) in texts:
                return texts[normalise(form)]
        letter = _BARE_LETTER.match(bare)
        if not letter and texts.keys() == {"yes", "no"} and (word := _YES_NO.search(bare)):
            return texts[word.group().lower()]
    index = string.ascii_uppercase.index(letter.group(1).upper()) if letter else len(choices)
    return choices[index] if index < len(choices) else None


def normalise(text: str) -> str:
    """The answer in lower case, with single spaces and without a final full stop."""
    return " ".join(text.strip().rstrip(".").lower().split())


def number(text: str) -> float | None:
    """The number in an answer, without currency, thousands separators and units; else None.

    It is the number at the beginning, the result of a calculation there, or the only number.

    >>> [number(t) for t in ("$1,200 a year", "24 because 12 * 2 = 24", "12 * 2 = 24", "it is 7")]
    [1200.0, 24.0, 24.0, 7.0]
    >>> [number(t) for t in ("7 of them, not 8", "1/2", "3, 4", "Ann 3, Tom 4")]
    [7.0, None, None, None]
    """
    written = _number_in(text)
    return None if written is None else float(re.sub("[,$£€ ]", "", written))


def _number_in(text: str) -> str | None:
    """The text of the number that `number` reads."""
    text = text.replace("−", "-").strip("*\"'` ")
    leading = _CALCULATION.match(text)
    # "12 * 2 = 24": of the sides of a calculation, only those that are one number
    if leading and any(c.isdigit() for c in leading.group()):
        sides = [
            side.strip(" \t(").rstrip(" \t.,()-+*/×÷^x") for side in leading.group().split("=")
        ]
        numbers = [side for side in sides if _NUMBER.fullmatch(side)]
    else:
        numbers = _NUMBER.findall(text)
    return numbers[-1] if len(set(numbers)) == 1 else None


def answer_alone(prediction: str, answer: str, choices: Sequence[str] | None = None) -> str:
    """The number, yes or no in a free-form prediction, if the gold answer is of that form.

    Otherwise the prediction unchanged.

    >>> answer_alone("24 because 12 * 2 = 24", "7")
    '24'
    """
    alone: str | None = None
    if choices:
        return prediction
    if normalise(answer) in ("yes", "no"):
        alone = word.group() if (word := _YES_NO.search(prediction)) else None
    elif _NUMBER.fullmatch(answer.strip()):
        alone = _number_in(prediction)
    return prediction if alone is None else alone


def is_correct(prediction: str | None, answer: str, choices: Sequence[str] | None = None) -> bool:
    """Exact match after `normalise`; free-form answers also match as numbers, and as yes or no."""
    if prediction is None:
        return False
    if normalise(prediction) == normalise(answer):
        return True
    if choices:
        return False
    alone = answer_alone(prediction, answer)
    if normalise(alone) == normalise(answer):
        return True
    if not _NUMBER.fullmatch(answer.strip()):
        return False
    predicted, gold = number(alone), number(answer)
    return (
        predicted is not None
        and gold is not None
        and math.isclose(predicted, gold, rel_tol=0, abs_tol=1e-6)
    )
