"""Read the rows of a file alike: where a row's answer can mean two choices, all the others say in
which form the column is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from rationalize.questions.bad_rows import BadRow, RowError
from rationalize.questions.columns import Columns, Reading, read_row
from rationalize.questions.files import RawRow
from rationalize.questions.gold import Ambiguous

ENOUGH = 20
"""Rows that settle the form of a column's answers, if they all agree; fewer settle nothing."""

_COUNTS_FROM = RowError(
    "a number as answer, and none of the file's is 0: they may count from 0 or from 1",
    "a mapping that says which, answer=COLUMN:index (from 0) or answer=COLUMN:number (from 1)",
    "answer",
)

Read = tuple[RawRow, Reading | BadRow]


def read_rows_alike(
    rows: Iterable[RawRow | BadRow], columns: Columns, id_prefix: str
) -> Iterator[Read]:
    """Every row with its reading, or with what is wrong with it, in order."""
    read: list[tuple[RawRow | BadRow, int, Reading | RowError | None]] = []
    sole: Counter[tuple[str, str]] = Counter()  # (kind, form) of answers that mean one thing only
    either: Counter[tuple[str, str]] = Counter()  # of those that may be meant in another form too
    for number, row in enumerate(rows):
        if isinstance(row, BadRow):
            read.append((row, number, None))
            continue
        try:
            reading = read_row(row.values, columns, f"{id_prefix}-{number:05d}")
        except RowError as error:
            read.append((row, number, error))
            continue
        read.append((row, number, reading))
        if reading.form:
            kind, form, only = reading.form
            (sole if only else either)[kind, form] += 1
    settled = {kind: _settled(kind, sole) for kind in ("text", "number")}
    from_one = either["number", "index"] >= ENOUGH and not sole["number", "index"]
    for row, number, outcome in read:
        if isinstance(row, BadRow):
            yield RawRow(row.file, row.place, {}), row
            continue
        if isinstance(outcome, Ambiguous) and (known := settled[outcome.kind]):
            outcome = _again(row, columns, f"{id_prefix}-{number:05d}", known)
        elif from_one and isinstance(outcome, Reading) and outcome.form:
            outcome = _COUNTS_FROM if outcome.form[:2] == ("number", "index") else outcome
        if isinstance(outcome, RowError):
            yield row, row.bad(outcome.found, outcome.expected)
        elif outcome:
            yield row, outcome


def _settled(kind: str, sole: Counter[tuple[str, str]]) -> str | None:
    """The form of all answers of a kind that mean one thing only, if there are enough."""
    forms = [form for (of, form), count in sole.items() if of == kind and count]
    return forms[0] if len(forms) == 1 and sole[kind, forms[0]] >= ENOUGH else None


def _again(row: RawRow, columns: Columns, fallback_id: str, form: str) -> Reading | RowError:
    try:
        return read_row(row.values, columns, fallback_id, form=form)
    except RowError as error:
        return error
