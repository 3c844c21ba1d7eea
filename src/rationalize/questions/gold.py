"""What a row's answer means: one of the choices, a free-form answer, or the answer of a solution.

A choice can be named by its text, its label, a letter or a position. Where the row does not say
which, an answer that names two choices is `Ambiguous`. Raises `RowError`.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence
from typing import Any

from rationalize.answers import has_marker, normalise, parse_reply
from rationalize.questions.bad_rows import RowError
from rationalize.questions.scalars import scalar
from rationalize.text import clip

FORMS = ("text", "letter", "index", "number", "label", "solution")
"""What an answer column can hold: the text, a letter A.., a position from 0 (`index`) or from 1
(`number`), one of `labels`, or a `solution` that ends in the answer."""

_POSITIONS = ("index", "number")
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_LABEL = re.compile(r"\(?(\w+)[).:]?")
_LABEL_AND_TEXT = re.compile(r"\(?(\w+)(?:\)\s*|[.:]\s+)(\S.*)", re.DOTALL)
_POSITION = re.compile(r"(-?\d{1,9})(?:\.0+)?")
_SAME = ({"yes", "true"}, {"no", "false"})
_CALCULATOR = re.compile(r"<<[^<>\n]*>>")  # GSM8K: 3+4=<<3+4=7>>7
_GSM8K = "####"
_NUMBER = re.compile(r"[-+]?[$£€]?\d{1,3}(?:,\d{3})+(?:\.\d+)?|[-+]?[$£€]?\d+(?:\.\d+)?")


class Ambiguous(RowError):
    """An answer that names different choices in different forms."""

    def __init__(self, answer: Any, other: str) -> None:
        first, second = ("index", "text") if other == "position" else ("text", other)
        super().__init__(
            f"the answer {clip(answer)}, which is a choice's text and another's {other}",
            f"a mapping that says which, e.g. answer=COLUMN:{first} or COLUMN:{second}",
            "answer",
        )
        self.kind = kind_of(answer)


def kind_of(answer: Any) -> str:
    """Whether an answer is text or a number. A column may hold both, each in a form of its own."""
    return "text" if isinstance(answer, str) else "number"


def form_of_choice(
    answer: Any, choices: Sequence[str], labels: Sequence[str] | None
) -> tuple[str, bool]:
    """The form in which an answer names a choice, and whether no other form could be meant.

    Labels that the row has come first. Raises `Ambiguous` where the choice depends on the form,
    `RowError` where no form names a choice.
    """
    named = {
        form: index
        for form in FORMS[:-1]
        if (index := position(answer, form, choices, labels)) is not None
    }
    if "label" in named:
        return "label", False  # of this row alone
    if labels:
        for form in _POSITIONS:
            named.pop(form, None)
        if "text" in named or any(label.isalpha() for label in labels):
            named.pop("letter", None)
    if "text" in named:
        for form in ("letter", *_POSITIONS):
            if named.get(form, named["text"]) != named["text"]:
                raise Ambiguous(answer, "letter" if form == "letter" else "position")
        return "text", len(named) == 1
    if "letter" in named:
        return "letter", True
    if "index" in named and isinstance(answer, int | float):
        return "index", named.get("number") is None
    expected = f"one of {clip(list(choices), 160)}"
    if named:
        expected += (
            "; or a mapping that says what it counts from, answer=COLUMN:index (0) or :number (1)"
        )
    raise RowError(f"the answer {clip(answer)}", expected, "answer")


def resolve_answer(
    answer: Any, form: str | None, choices: Sequence[str], labels: Sequence[str] | None = None
) -> str:
    """The text of the right choice, read in `form`, or in the only form that can be meant."""
    if form is None:
        form, named = form_of_choice(answer, choices, labels)[0], ""
    else:
        named = f" as {form}"
    index = position(answer, form, choices, labels)
    if index is None:
        raise RowError(
            f"the answer {clip(answer)}{named}", f"one of {clip(list(choices), 160)}", "answer"
        )
    same = normalise if form == "text" else str  # a label names one of two that differ in case
    if [same(choice) for choice in choices].count(same(choices[index])) > 1:
        raise RowError(
            f"the right choice {clip(choices[index])} twice", "a right choice unlike the others"
        )
    return choices[index]


def position(
    answer: Any, form: str, choices: Sequence[str], labels: Sequence[str] | None
) -> int | None:
    """Index of the choice that an answer names in this form, None if it names none."""
    text = scalar(answer, "answer")
    if form == "text":
        index = _find(text, choices)
        if index is None and (same := next((s for s in _SAME if normalise(text) in s), None)):
            matches = [i for i, choice in enumerate(choices) if normalise(choice) in same]
            index = matches[0] if len(matches) == 1 else None
        return index
    if form == "label":
        return _by_label(text, choices, labels) if labels else None
    if form == "letter":
        return _by_label(text, choices, string.ascii_uppercase[: len(choices)])
    match = _POSITION.fullmatch(text)
    if form not in _POSITIONS or not match or isinstance(answer, bool):
        return None
    index = int(match.group(1)) - (form == "number")
    return index if 0 <= index < len(choices) else None


def _by_label(text: str, choices: Sequence[str], labels: Sequence[str]) -> int | None:
    """`"B"`, `"(b)"` and `"B) snow"`, whose text must be that of its choice."""
    if (index := _find(text, labels)) is not None:
        return index
    match = _LABEL.fullmatch(text) or _LABEL_AND_TEXT.fullmatch(text)
    index = _find(match.group(1), labels) if match else None
    if match is None or index is None:
        return None
    said = match.group(2) if match.re is _LABEL_AND_TEXT else choices[index]
    return index if normalise(said) == normalise(choices[index]) else None


def _find(text: str, candidates: Sequence[str]) -> int | None:
    if text in candidates:
        return list(candidates).index(text)
    matches = [i for i, other in enumerate(candidates) if normalise(other) == normalise(text)]
    return matches[0] if matches else None


def is_letter(value: Any) -> bool:
    """Whether an answer is a single letter, which names a choice and is no free-form answer."""
    return isinstance(value, str) and _LETTER.fullmatch(value.strip()) is not None


def is_yes_or_no(answer: Any) -> bool:
    """Whether an answer is yes or no, true or false, as text or as JSON's own."""
    return isinstance(answer, bool) or (
        isinstance(answer, str) and any(normalise(answer) in same for same in _SAME)
    )


def yes_or_no(answer: Any) -> str:
    """`"yes"` or `"no"`."""
    return "yes" if normalise(scalar(answer, "answer")) in _SAME[0] else "no"


def free_form(answer: Any, form: str | None) -> tuple[str, tuple[str, ...]]:
    """A free-form answer, and further ones that are right too (of a list of several).

    Without a `form`, what may be something else is refused: a letter, several lines.
    """
    if isinstance(answer, list):
        if any(isinstance(one, list) for one in answer):
            raise RowError(f"{clip(answer)} as answer", "text, or a list of texts", "answer")
        texts = list(dict.fromkeys(free_form(one, form)[0] for one in answer))
        if not texts:
            raise RowError("no answer in an empty list", "at least one", "answer")
        return texts[0], tuple(texts[1:])
    if isinstance(answer, dict):
        keys = ", ".join(map(str, answer))
        raise RowError(
            f"an answer with the keys {clip(keys)}",
            "a mapping to one of them, e.g. --columns answer=COLUMN.KEY",
            "answer",
        )
    text = scalar(answer, "answer")
    if not text:
        raise RowError("an empty answer", "text or a number", "answer")
    if form is None and is_letter(text):
        raise RowError(
            f"the answer {clip(text)} and no choices",
            "choices (map their column, --columns choices=COLUMN), or answer=COLUMN:text for a "
            "free-form answer of one letter",
            "answer",
        )
    if form is None and len(text.splitlines()) > 1:
        raise RowError(
            f"an answer of {len(text.splitlines())} lines ({clip(text)})",
            "one line, or a solution that ends in '#### ANSWER', '\\boxed{ANSWER}' or 'So the "
            "answer is ANSWER.'; or answer=COLUMN:text",
            "answer",
        )
    return text, ()


def solution_answer(text: str, choices: Sequence[str] | None = None) -> tuple[str, str] | None:
    r"""`(answer, reasoning)` of a solution: `#### 7` (GSM8K), the last `\boxed{}` (MATH), or our
    own answer sentence; None for a text without any.

    >>> solution_answer("3+4=<<3+4=7>>7 pens.\n#### 7")
    ('7', '3+4=7 pens.')
    """
    if _GSM8K in text:
        reasoning, _, answer = text.rpartition(_GSM8K)
        answer = answer.strip()
        if not answer or len(answer.splitlines()) > 1:
            raise RowError(
                f"a solution with {clip(answer)} after its last ####", "the answer, in one line",
                "answer",
            )  # fmt: skip
        return _plain_number(answer), _CALCULATOR.sub("", reasoning).strip()
    if "\\boxed" in text:
        answer = _last_box(text)
        alone = text.strip().strip("$. ") in (f"\\boxed{{{answer}}}", f"\\boxed {answer}")
        return answer, "" if alone else text.strip()
    if has_marker(text):
        reply = parse_reply(text, choices)
        if reply.prediction is None:
            raise RowError(
                f"an answer sentence that cannot be read ({clip(text[-60:])})",
                "So the answer is ANSWER.",
                "answer",
            )
        return reply.prediction, reply.rationale
    return None


def _plain_number(text: str) -> str:
    """`"$1,200" -> "1200"`; other text unchanged."""
    return re.sub("[,$£€]", "", text) if _NUMBER.fullmatch(text) else text


def _last_box(text: str) -> str:
    r"""What the last `\boxed{..}` (or `\boxed 7`) holds."""
    rest = text[text.rindex("\\boxed") + len("\\boxed") :].lstrip()
    answer = ""
    if rest.startswith("{"):
        depth = 0
        for i, character in enumerate(rest):
            escaped = rest[i - 1 : i] == "\\"
            depth += ((character == "{") - (character == "}")) * (not escaped)
            if depth == 0:
                answer = rest[1:i].strip()
                break
    elif match := re.match(r"[^\s$]+", rest):
        answer = match.group().rstrip(".,")
    if not answer:
        raise RowError(f"a \\boxed without its end ({clip(rest)})", "\\boxed{ANSWER}", "answer")
    return answer
