"""From a row of any source to a `Question`. Raises `RowError`.

A mapping names the column of each field, e.g. `{"question": "stem", "choices": "options.text"}`. A
dot enters nested values (and lists), several columns can hold one choice each (`"sol1,sol2"`), and
the answer's column can name its form (`"key:letter"`, see `gold.FORMS`).
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rationalize.answers import has_marker
from rationalize.errors import UsageError
from rationalize.questions.bad_rows import RowError
from rationalize.questions.chat import COLUMNS as CHAT_COLUMNS
from rationalize.questions.chat import chat_fields
from rationalize.questions.choices import cut_choices, read_choices, unmapped_choices
from rationalize.questions.gold import (
    FORMS,
    form_of_choice,
    free_form,
    is_letter,
    is_yes_or_no,
    kind_of,
    position,
    resolve_answer,
    solution_answer,
    yes_or_no,
)
from rationalize.questions.guess import hint
from rationalize.questions.scalars import check_unicode, scalar, text_of, texts_of_cell
from rationalize.records import Question
from rationalize.text import clip

FIELDS = (
    "id", "question", "choices", "labels", "answer", "answer_form", "accepted", "context",
    "rationale", "rationales", "kind",
)  # fmt: skip
"""Fields that a mapping can name a column for; `labels` are the labels of the choices, in order,
`answer_form` is one of `gold.FORMS`, and `accepted` are further right answers."""

Columns = Mapping[str, str | Sequence[str]]

_NO_RATIONALE = "dummy"  # in MaRio's released files: there is none
MISSING = object()


@dataclass(frozen=True)
class Reading:
    """A parsed row."""

    question: Question
    dropped: int
    """Teacher rationales left out because they already contain the answer sentence."""
    has_id: bool
    columns: frozenset[str]
    """Fields that the row has a column for."""
    form: tuple[str, str, bool] | None = None
    """Of an answer whose form nothing says: its kind (`text`, `number`), the form it was read in,
    and whether no other could be meant."""


@dataclass(frozen=True)
class Answer:
    """A row's gold answer, with the choices that it decides on."""

    text: str
    choices: tuple[str, ...] | None = None
    accepted: tuple[str, ...] = ()
    solution: str = ""
    """Reasoning that came with it."""
    form: tuple[str, str, bool] | None = None


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


def read_row(
    values: Mapping[str, Any], columns: Columns, fallback_id: str, *, form: str | None = None,
    scored: bool = False,
) -> Reading:  # fmt: skip
    """The question of a row; `fallback_id` is its id if the row has none.

    `form` is the form of an answer where neither mapping nor row says one. `scored` rows may lack
    an answer, and may hold text that is not valid Unicode: they are not trained on.
    """
    fields, used, values = _fields(values, columns)
    stated = answer_column(columns)[1] or _own_form(fields) or form
    for field in ("question",) if scored else ("question", "answer"):
        if fields.get(field) is None or fields[field] == "":
            present = ", ".join(map(str, values)) or "nothing"
            named = str(columns.get(field, field))
            expected = f"a value in {named!r}"
            # a chat's parts have our names already
            if named not in values and not is_chat(values):
                expected += f"; another column is named by --columns {field}=COLUMN"
                expected += hint(values, field, None if not columns else named)
            raise RowError(f"no {field} (columns: {clip(present, 100)})", expected, field)
    text = text_of(fields["question"], "question")
    if not text:
        raise RowError("an empty question", "text", "question")
    choices, labels = read_choices(
        fields.get("choices"), fields.get("labels"), literal=stated == "text"
    )
    for choice in () if scored else choices or ():
        check_unicode(choice, "choice")
    gold = fields.get("answer")
    if gold is None:
        answer = Answer("", choices)
    else:
        if choices is None and (cut := _choices_in(text, gold, stated)):
            text, choices = cut
        if choices is None and stated is None:
            _refuse_other_choices(values, used)
        answer = _answer(gold, stated, choices, labels)
    rationales, dropped, others = _rationales(fields, answer.solution)
    identity, context, kind = (fields.get(f) for f in ("id", "context", "kind"))
    has_id = identity is not None and identity != ""
    question = Question(
        id=scalar(identity, "id") if has_id else fallback_id,
        question=text,
        answer=answer.text,
        choices=answer.choices,
        context=(text_of(context, "context") or None) if context is not None else None,
        rationales=rationales,
        kind=scalar(kind, "kind") if kind is not None else None,
        extra={str(k): v for k, v in values.items() if k not in used} | others,
        accepted=_accepted(fields.get("accepted"), answer),
    )
    if not scored:
        _check_unicode(question)
    return Reading(question, dropped, has_id, frozenset(fields), answer.form)


def _fields(
    values: Mapping[str, Any], columns: Columns
) -> tuple[dict[str, Any], set[str], Mapping[str, Any]]:
    """The row's fields, the columns that they come from, and the row (a chat's with its parts)."""
    chat = next((name for name in CHAT_COLUMNS if isinstance(values.get(name), list)), None)
    if chat and columns.get("question", "question") == "question" and is_chat(values):
        values = {**chat_fields(values[chat]), **{k: v for k, v in values.items() if k != chat}}
    paths = {f: columns.get(f, f) for f in FIELDS} | {"answer": answer_column(columns)[0]}
    fields = {f: v for f, path in paths.items() if (v := pick(values, path)) is not MISSING}
    # all other columns are kept in `extra`
    used = {
        p if isinstance(p, str) and p in values else str(p).split(".")[0] for p in paths.values()
    }
    return fields, used, values


def is_chat(values: Mapping[str, Any]) -> bool:
    """Whether a row's question and answer are the messages of a chat."""
    return "question" not in values and any(
        isinstance(values.get(name), list) for name in CHAT_COLUMNS
    )


def _own_form(fields: Mapping[str, Any]) -> str | None:
    form = fields.get("answer_form")
    if form not in (None, *FORMS):
        raise RowError(f"{clip(form)} as answer_form", f"one of {', '.join(FORMS)}")
    return form


def _choices_in(text: str, gold: Any, form: str | None) -> tuple[str, tuple[str, ...]] | None:
    """Question and choices where the choices stand at the question's end and the answer is one of
    them.
    """
    if form == "text" or isinstance(gold, list | dict):
        return None
    cut = cut_choices(text)
    if form in (None, "solution"):
        if cut is None:
            return None
        names_one = any(position(gold, f, cut[1], None) is not None for f in ("text", "letter"))
        return cut if names_one or is_letter(gold) or _solves(gold, cut[1]) else None
    if cut is None:
        raise RowError("no choices", f"choices for an answer given as {form}", "choices")
    return cut


def _solves(gold: Any, choices: tuple[str, ...]) -> bool:
    """Whether a solution ends in one of the choices."""
    solved = solution_answer(gold, choices) if isinstance(gold, str) else None
    forms = ("text", "letter")
    return solved is not None and any(
        position(solved[0], f, choices, None) is not None for f in forms
    )


def _answer(
    gold: Any, form: str | None, choices: tuple[str, ...] | None, labels: list[str] | None
) -> Answer:
    solution = ""
    if form in (None, "solution") and isinstance(gold, str):
        plain = choices is not None and position(gold, "text", choices, labels) is not None
        solved = None if plain else solution_answer(gold, choices)
        if solved:
            gold, solution = solved
        elif form == "solution":
            raise RowError(
                f"a solution without an answer ({clip(gold)})",
                "'#### ANSWER', '\\boxed{ANSWER}' or 'So the answer is ANSWER.' at its end",
                "answer",
            )
        form = None
    if choices:
        if form is None:
            read_as, sole = form_of_choice(gold, choices, labels)
            text = resolve_answer(gold, read_as, choices, labels)
            return Answer(text, choices, (), solution, (kind_of(gold), read_as, sole))
        return Answer(resolve_answer(gold, form, choices, labels), choices, (), solution)
    if form != "text" and is_yes_or_no(gold):
        return Answer(yes_or_no(gold), ("yes", "no"), (), solution)
    # a solution's answer may be a letter: it is marked as the answer
    text, accepted = free_form(gold, "text" if solution else form)
    return Answer(text, None, accepted, solution)


def _accepted(value: Any, answer: Answer) -> tuple[str, ...]:
    if value is None or value == []:
        return answer.accepted
    if answer.choices or not isinstance(value, list):
        expected = "no further answers beside choices" if answer.choices else "a list of texts"
        raise RowError(f"accepted = {clip(value)}", expected, "accepted")
    further = (*answer.accepted, *(scalar(one, "accepted") for one in value))
    return tuple(dict.fromkeys(one for one in further if one and one != answer.text))


def _refuse_other_choices(values: Mapping[str, Any], used: set[str]) -> None:
    others = {k: v for k, v in values.items() if k not in used}
    if columns := unmapped_choices(others):
        raise RowError(
            f"no choices, but the columns {clip(columns)}",
            f"a mapping, --columns choices={columns}; or answer=COLUMN:text for free-form answers",
            "choices",
        )


def _check_unicode(question: Question) -> None:
    texts = [("question", question.question), ("context", question.context or "")]
    texts += [("answer", text) for text in (question.answer, *question.accepted)]
    texts += [("rationale", text) for text in question.rationales]
    for name, text in (*texts, ("id", question.id), ("kind", question.kind or "")):
        check_unicode(text, name)


def answer_column(columns: Columns) -> tuple[str, str | None]:
    """Column and form: `"key:letter" -> ("key", "letter")`."""
    column = columns.get("answer", "answer")
    if not isinstance(column, str):
        raise UsageError(f"found {column!r} as the answer's column; expected one name")
    name, _, form = column.rpartition(":")
    return (name, form) if name and form in FORMS else (column, None)


def pick(values: Any, path: str | Sequence[str]) -> Any:
    """The value at a dotted path, `MISSING` if there is none; several paths give a list, with None
    for those at its end that the row lacks.
    """
    if not isinstance(path, str) or (
        "," in path and not (isinstance(values, Mapping) and path in values)
    ):
        parts = [p.strip() for p in path.split(",")] if isinstance(path, str) else path
        picked = [pick(values, part) for part in parts]
        while len(picked) > 1 and picked[-1] is MISSING:
            picked.pop()
        return MISSING if MISSING in picked else picked
    if isinstance(values, Mapping):
        if path in values:
            return values[path]
        head, _, rest = path.partition(".")
        return pick(values[head], rest) if rest and head in values else MISSING
    if isinstance(values, list):
        inner = [pick(value, path) for value in values]
        return MISSING if any(x is MISSING for x in inner) else inner
    return MISSING


def _rationales(
    fields: Mapping[str, Any], solution: str
) -> tuple[tuple[str, ...], int, dict[str, Any]]:
    """Usable rationales, the number that contain the answer sentence, and entries for `extra`.

    With both fields, `rationales` are used and a different `rationale` goes to `extra`. Without
    either, the reasoning of the answer's `solution` is used.
    """
    several, single = (texts_of_cell(fields.get(name)) for name in ("rationales", "rationale"))
    if several is not None and not isinstance(several, list):
        several = [several]
    if isinstance(single, list):
        several, single = several or single, None
    rationales = several or ([single] if single is not None else [])
    if not rationales and solution:
        rationales = [solution]
    texts = [text_of(r, "rationale") for r in rationales if r is not None]
    texts = [text for text in texts if text and text != _NO_RATIONALE]
    usable = tuple(t for t in texts if not has_marker(t))
    extra = (
        {"rationale": single} if several and single is not None and single not in several else {}
    )
    return usable, len(texts) - len(usable), extra
