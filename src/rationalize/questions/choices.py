"""The choices of a row in every shape that sets have: lists, options with labels, dictionaries, one
column a choice, text, or a list at the question's end. Raises `RowError` for any other shape.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Mapping, Sequence
from typing import Any

from rationalize.questions.bad_rows import RowError
from rationalize.questions.scalars import of_cell, scalar
from rationalize.text import clip

Choices = tuple[str, ...]

MAX_CHOICES = len(string.ascii_uppercase)

_JOINER = re.compile(r"(\s+or|\s*[,;](\s*or)?)$")  # "(A) more or (B) less"
_STEM_MARKS = (
    re.compile(r"\(([A-Za-z])\)"),  # Which? (A) ice (B) snow
    re.compile(r"(?<!\S)([A-Za-z])\)(?=\s)"),  # Which? A) ice B) snow
    re.compile(r"(?m)^[^\S\n]*([A-Za-z])[.:](?=\s)"),  # a line each: A. ice
)
_OWN_LABEL = re.compile(r"\(?([A-Z])(?:\)\s*|[.:]\s+)(\S.*)", re.DOTALL)
_KEY = re.compile(r"(?:option|opt|choice|ending|answer|sol)?[ _]?([A-Za-z]|\d{1,2})", re.IGNORECASE)
_TEXT_NAMES, _LABEL_NAMES = ("text", "content", "value"), ("label", "key", "id")

# columns that hold choices in some set, where no mapping names them
_LISTS = {"options", "endings", "candidates", "alternatives", "answer_choices", "answer_options"}
_PREFIXES = {
    "", "a", "ans", "answer", "candidate", "choice", "ending", "op", "opt", "option", "q_op", "sol",
    "solution",
}  # fmt: skip


def read_choices(value: Any, labels: Any = None, *, literal: bool = False) -> tuple:
    """`(choices, labels)`, either of them None where the row has none.

    Nulls at the end pad rows with fewer choices, and are none. Labels before every choice
    (`"A) ice"`) are cut, unless `literal`.
    """
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = of_cell(value)
        except ValueError:
            found, expected = f"choices that are {clip(value)}", "a list of texts, as JSON"
            raise RowError(found, expected, "choices") from None
    if isinstance(value, Mapping) or _are_options(value):
        value, own = _options(value)
        labels = own if labels is None else labels
    if value is None or value == []:
        return None, None
    if not isinstance(value, list):
        raise RowError(f"choices that are {clip(value)}", "a list of texts", "choices")
    value = _without_padding(value)
    if not value:
        return None, None
    if any(_is_null(choice) for choice in value):
        raise RowError(
            f"an empty choice in {clip(value)}", "text in every choice before the last", "choices"
        )
    choices = tuple(scalar(choice, "choice") for choice in value)
    if not all(choices):
        raise RowError(
            f"an empty choice in {clip(list(choices))}", "text in every choice", "choices"
        )
    if not 2 <= len(choices) <= MAX_CHOICES:
        raise RowError(f"{len(choices)} choices", f"2 to {MAX_CHOICES}", "choices")
    labels = _labels(labels, len(choices))
    if not literal and (cut := _without_labels(choices)):
        choices, labels = cut, labels or list(string.ascii_uppercase[: len(cut)])
    return choices, labels


def cut_choices(text: str) -> tuple[str, Choices] | None:
    """`"Which? (A) ice (B) snow" -> ("Which?", ("ice", "snow"))`; None without such a list.

    Also `A) ice B) snow`, and lines that begin with `A.` or `A:`.
    """
    return next((cut for marks in _STEM_MARKS if (cut := _cut(text, marks))), None)


def _cut(text: str, pattern: re.Pattern[str]) -> tuple[str, Choices] | None:
    marks = list(pattern.finditer(text))
    # the last marks that count up from A: letters in brackets before them belong to the question
    for start in range(len(marks) - 2, -1, -1):
        labels = "".join(m.group(1) for m in marks[start:])
        if labels in (string.ascii_uppercase[: len(labels)], string.ascii_lowercase[: len(labels)]):
            ends = [m.start() for m in marks[start + 1 :]] + [len(text)]
            parts = [text[m.end() : e].strip() for m, e in zip(marks[start:], ends)]
            choices = (*(_JOINER.sub("", part) for part in parts[:-1]), parts[-1])
            stem = text[: marks[start].start()].strip()
            return (stem, choices) if stem and all(choices) else None
    return None


def unmapped_choices(values: Mapping[str, Any]) -> str | None:
    """Columns of a row that look like choices, as a mapping names them; None without any.

    >>> unmapped_choices({"question": "?", "option_a": "ice", "option_b": "snow"})
    'option_a,option_b'
    """
    for name, value in values.items():
        if str(name).lower() in _LISTS and isinstance(value, list | Mapping) and len(value) > 1:
            return str(name)
    for first in values:
        prefix, last = str(first)[:-1], str(first)[-1:]
        if last not in ("A", "a", "0", "1") or prefix.lower().rstrip("_ ") not in _PREFIXES:
            continue
        columns = [prefix + chr(ord(last) + i) for i in range(9)]
        present = [c for c in columns if c in values and isinstance(values[c], str | int | float)]
        if len(present) > 1 and present == columns[: len(present)]:
            return ",".join(present)
    return None


def _are_options(value: Any) -> bool:
    """Whether choices are of the form `[{"text": .., "label": ..}, ..]`."""
    return isinstance(value, list) and any(isinstance(c, Mapping) for c in value)


def _options(value: Any) -> tuple[Any, list | None]:
    """Texts and labels of `{"text": [..], "label": [..]}`, `[{"text": .., "label": ..}, ..]`, and
    `{"A": .., "B": ..}`.
    """
    if isinstance(value, Mapping):
        for name in _TEXT_NAMES[:1]:
            if isinstance(value.get(name), list):
                return value[name], _first(value, _LABEL_NAMES)
        keys = [_KEY.fullmatch(str(key)) for key in value]
        if value and all(keys) and not any(isinstance(v, list | Mapping) for v in value.values()):
            return list(value.values()), [key.group(1) for key in keys if key]
    elif all(isinstance(option, Mapping) for option in value):
        texts = [_first(option, _TEXT_NAMES) for option in value]
        labels = [_first(option, _LABEL_NAMES) for option in value]
        if None not in texts:
            return texts, labels if None not in labels else None
        if all(len(option) == 1 for option in value):  # [{"A": ..}, {"B": ..}]
            return _options({key: text for option in value for key, text in option.items()})
    raise RowError(
        f"choices without text: {clip(value)}",
        "a list of texts, {text, label} lists, or texts by label",
        "choices",
    )


def _first(values: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((values[name] for name in names if values.get(name) is not None), None)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _without_padding(values: list) -> list:
    end = len(values)
    while end and _is_null(values[end - 1]):
        end -= 1
    return values[:end]


def _labels(value: Any, count: int) -> list[str] | None:
    if not isinstance(value, list):
        return None
    if len(value) > count and all(_is_null(v) for v in value[count:]):
        value = value[:count]
    labels = [scalar(label, "label") for label in value[:count]]
    # a dictionary's keys may go on where its texts are padded with nulls
    if len(labels) < count or len(set(labels)) < count:
        raise RowError(f"labels that are {clip(value)}", f"{count} labels, each once", "labels")
    return labels


def _without_labels(choices: Choices) -> Choices | None:
    """`("A) ice", "B) snow") -> ("ice", "snow")`; None where a choice has not its own label."""
    matches = [_OWN_LABEL.fullmatch(choice) for choice in choices]
    labels = "".join(m.group(1) for m in matches if m)
    if labels != string.ascii_uppercase[: len(choices)]:
        return None
    return tuple(m.group(2) for m in matches if m)
