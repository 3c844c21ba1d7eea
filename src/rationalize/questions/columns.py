"""From a row of any source to a `Question`. Raises `RowError`.

A mapping names the column of each field, e.g. `{"question": "stem", "choices": "options.text"}`. A
dot enters nested values (and lists), several columns can hold one choice each (`"sol1,sol2"`), and
the answer's column can name its form (`"key:letter"`, see `FORMS`).
"""

from __future__ import annotations

import difflib
import math
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rationalize.answers import has_marker, normalise
from rationalize.errors import UsageError
from rationalize.questions.bad_rows import RowError
from rationalize.records import Question
from rationalize.text import clip

FIELDS = (
    "id", "question", "choices", "labels", "answer", "context", "rationale", "rationales", "kind",
)  # fmt: skip
"""Fields that a mapping can name a column for; `labels` are the labels of the choices, in order."""

FORMS = ("text", "letter", "index", "number", "label")
"""What an answer column can hold: the text, a letter A.., a position from 0 (`index`) or from 1
(`number`), or one of `labels`."""

Columns = Mapping[str, str | Sequence[str]]

_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")
_JOINER = re.compile(r"(\s+or|\s*[,;](\s*or)?)$")  # "(A) more or (B) less"
_INLINE = re.compile(r"\(([A-Za-z])\)")
_MAX_CHOICES = len(string.ascii_uppercase)
_NO_RATIONALE = "dummy"  # in MaRio's released files: there is none
_MISSING = object()


@dataclass(frozen=True)
class Reading:
    """A parsed row."""

    question: Question
    dropped: int
    """Teacher rationales left out because they already contain the answer sentence."""
    has_id: bool
    columns: frozenset[str]
    """Fields that the row has a column for."""


def check_columns(columns: Columns | None) -> dict[str, str | Sequence[str]]:
    """The mapping as a dictionary. Raises `UsageError` for an unknown field."""
    for field in columns or {}:
        if field not in FIELDS:
            near = difflib.get_close_matches(field, FIELDS, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ";"
            raise UsageError(
                f"cannot map a column to {field!r}{hint} expected one of {', '.join(FIELDS)}"
            )
    return dict(columns or {})


def read_row(values: Mapping[str, Any], columns: Columns, fallback_id: str) -> Reading:
    """The question of a row; `fallback_id` is its id if the row has none."""
    # columns -> fields
    answer_column, form = _answer_column(columns)
    paths = {f: columns.get(f, f) for f in FIELDS} | {"answer": answer_column}
    fields = {f: v for f, path in paths.items() if (v := _pick(values, path)) is not _MISSING}
    if isinstance(fields.get("choices"), Mapping) or _are_options(fields.get("choices")):
        fields.setdefault("labels", _pick(fields["choices"], "label"))
        fields["choices"] = _pick(fields["choices"], "text")
    for field in ("question", "answer"):
        if fields.get(field) is None or fields[field] == "":
            present = ", ".join(map(str, values)) or "nothing"
            raise RowError(
                f"no {field} (columns: {clip(present, 100)})", f"a value in {paths[field]!r}"
            )
    # choices: a column, else a list at the question's end, else yes and no
    text, choices = _text(fields["question"], "question"), _choices(fields.get("choices"))
    if not text:
        raise RowError("an empty question", "text")
    answer = fields["answer"]
    if choices is None and (form not in (None, "text") or _is_letter(answer)):
        cut = cut_choices(text)
        if cut is None and form not in (None, "text"):
            raise RowError("no choices", f"choices for an answer given as {form}")
        text, choices = cut or (text, None)
    if choices is None and _yes_or_no(answer):
        choices = ("yes", "no")
    answer = resolve_answer(answer, form, choices, fields.get("labels"))
    rationales, dropped, others = _rationales(fields)
    identity, context, kind = (fields.get(f) for f in ("id", "context", "kind"))
    has_id = identity is not None and identity != ""
    # all other columns are kept in `extra`
    used = {
        p if isinstance(p, str) and p in values else str(p).split(".")[0] for p in paths.values()
    }
    extra = {str(k): v for k, v in values.items() if k not in used} | others
    question = Question(
        id=_scalar(identity, "id") if has_id else fallback_id,
        question=text,
        answer=answer,
        choices=choices,
        context=(_text(context, "context") or None) if context is not None else None,
        rationales=rationales,
        kind=_scalar(kind, "kind") if kind is not None else None,
        extra=extra,
    )
    return Reading(question, dropped, has_id, frozenset(fields))


def cut_choices(text: str) -> tuple[str, tuple[str, ...]] | None:
    """`"Which? (A) ice (B) snow" -> ("Which?", ("ice", "snow"))`; None without such a list."""
    marks = list(_INLINE.finditer(text))
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


def resolve_answer(
    answer: Any, form: str | None, choices: Sequence[str] | None, labels: Any = None
) -> str:
    """The text of the right choice, or of a free-form answer.

    Raises `RowError` if the answer is no choice, two choices have its text, or (without a `form`) a
    number is the text of one choice and the position of another.
    """
    if choices is None:
        text = _scalar(answer, "answer")
        if not text:
            raise RowError("an empty answer", "text or a number")
        return text
    expected = f"one of {clip(list(choices), 160)}"
    if isinstance(answer, bool):
        answer = "yes" if answer else "no"
    index = _position(answer, form, choices, labels)
    if index is None or not 0 <= index < len(choices):
        raise RowError(f"the answer {clip(answer)}" + (f" as {form}" if form else ""), expected)
    right = normalise(choices[index])
    if [normalise(c) for c in choices].count(right) > 1:
        raise RowError(
            f"the right choice {clip(choices[index])} twice", "a right choice unlike the others"
        )
    return choices[index]


def _position(answer: Any, form: str | None, choices: Sequence[str], labels: Any) -> int | None:
    """Index of the right choice: by text, then by label, letter and index, or only as `form`."""
    if form in ("index", "number"):
        text = str(answer).strip()
        return int(text) - (form == "number") if re.fullmatch(r"-?\d{1,9}", text) else None
    text = _scalar(answer, "answer")
    by_text = _find(text, list(choices)) if form in (None, "text") else None
    by_label = by_letter = by_index = None
    if form in (None, "label") and isinstance(labels, list):
        by_label = _find(text, [str(x) for x in labels])
    if form in (None, "letter") and _is_letter(text) and by_label is None:
        letter = _LETTER.fullmatch(text.strip())
        by_letter = string.ascii_uppercase.index(letter.group(1).upper()) if letter else None
    if (
        form is None
        and isinstance(answer, int)
        and not isinstance(answer, bool)
        and by_label is None
    ):
        by_index = answer if 0 <= answer < len(choices) else None
        if None not in (by_text, by_index) and by_text != by_index:
            raise RowError(
                f"the answer {answer}, which is a choice's text and another's position",
                "a mapping that says which, e.g. answer=COLUMN:index or COLUMN:text",
            )
    return next((i for i in (by_text, by_label, by_letter, by_index) if i is not None), None)


def _find(text: str, candidates: list[str]) -> int | None:
    if text in candidates:
        return candidates.index(text)
    matches = [i for i, other in enumerate(candidates) if normalise(other) == normalise(text)]
    return matches[0] if matches else None


def _answer_column(columns: Columns) -> tuple[str, str | None]:
    """Column and form: `"key:letter" -> ("key", "letter")`."""
    column = columns.get("answer", "answer")
    if not isinstance(column, str):
        raise UsageError(f"found {column!r} as the answer's column; expected one name")
    name, _, form = column.rpartition(":")
    return (name, form) if name and form in FORMS else (column, None)


def _pick(values: Any, path: str | Sequence[str]) -> Any:
    """The value at a dotted path, `_MISSING` if there is none; several paths give a list."""
    if not isinstance(path, str) or (
        "," in path and not (isinstance(values, Mapping) and path in values)
    ):
        parts = [p.strip() for p in path.split(",")] if isinstance(path, str) else path
        picked = [_pick(values, part) for part in parts]
        return _MISSING if _MISSING in picked else picked
    if isinstance(values, Mapping):
        if path in values:
            return values[path]
        head, _, rest = path.partition(".")
        return _pick(values[head], rest) if rest and head in values else _MISSING
    if isinstance(values, list):
        inner = [_pick(value, path) for value in values]
        return _MISSING if any(x is _MISSING for x in inner) else inner
    return _MISSING


def _are_options(choices: Any) -> bool:
    """Whether choices are of the form `[{"text": .., "label": ..}, ..]`."""
    return isinstance(choices, list) and any(isinstance(c, Mapping) for c in choices)


def _choices(value: Any) -> tuple[str, ...] | None:
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        problem = "choices without text" if value is _MISSING else f"choices that are {clip(value)}"
        raise RowError(problem, "a list of texts")
    choices = tuple(_scalar(choice, "choice") for choice in value)
    if not all(choices):
        raise RowError(f"an empty choice in {clip(list(choices))}", "text in every choice")
    if not 2 <= len(choices) <= _MAX_CHOICES:
        raise RowError(f"{len(choices)} choices", f"2 to {_MAX_CHOICES}")
    return choices


def _rationales(fields: Mapping[str, Any]) -> tuple[tuple[str, ...], int, dict[str, Any]]:
    """Usable rationales, the number that contain the answer sentence, and entries for `extra`.

    With both fields, `rationales` are used and a different `rationale` goes to `extra`.
    """
    several, single = fields.get("rationales"), fields.get("rationale")
    if several is not None and not isinstance(several, list):
        several = [several]
    if isinstance(single, list):
        several, single = several or single, None
    rationales = several or ([single] if single is not None else [])
    texts = [t for t in (_text(r, "rationale") for r in rationales) if t and t != _NO_RATIONALE]
    usable = tuple(t for t in texts if not has_marker(t))
    extra = (
        {"rationale": single} if several and single is not None and single not in several else {}
    )
    return usable, len(texts) - len(usable), extra


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{clip(value)} as {name}", "text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        surrogate = clip(value[error.start])
        raise RowError(
            f"an unpaired surrogate in the {name} ({surrogate})", "valid Unicode"
        ) from None
    return value.strip()


def _scalar(value: Any, name: str) -> str:
    """Text, or a number as text: `43.0 -> "43"`."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        if abs(value) >= 10**300:  # `str` of a huge number is refused or slow
            raise RowError(f"more than 300 digits as {name}", "text or a number")
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return str(int(value)) if value.is_integer() else repr(value)
    return _text(value, name)


def _is_letter(value: Any) -> bool:
    return isinstance(value, str) and _LETTER.fullmatch(value.strip()) is not None


def _yes_or_no(answer: Any) -> bool:
    return isinstance(answer, bool) or (
        isinstance(answer, str) and normalise(answer) in ("yes", "no")
    )
