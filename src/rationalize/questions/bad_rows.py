"""Bad rows of question files: all listed in one error, or written to a file and skipped."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, replace
from itertools import chain, groupby, islice
from pathlib import Path
from tempfile import TemporaryFile

from rationalize.errors import UserError
from rationalize.files import make_folder, replacing

log = logging.getLogger(__name__)

_SHOWN = 10
_KEYS = {"file", "place", "found", "expected", "row"}
_dry = ContextVar("dry", default=False)


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used, and why."""

    file: str
    place: str
    """Where in the file: `line 3`, `entry "17"` or `row 5`."""
    found: str
    expected: str
    row: str = ""
    """The row's text, or its values as JSON."""

    def __str__(self) -> str:
        place = f"{self.file}, {self.place}" if self.place else self.file
        return f"{place}: found {self.found}; expected {self.expected}"


class RowError(ValueError):
    """What is wrong with a row; raised where its file and place are not known."""

    def __init__(self, found: str, expected: str, field: str = "") -> None:
        super().__init__(f"found {found}; expected {expected}")
        self.found = found
        self.expected = expected
        self.field = field
        """The field of a question that it is about, where it is about one."""


class BadRows(UserError):
    """Rows that cannot be used; the message lists the first ten and says what to do."""

    def __init__(self, rows: Iterable[BadRow]) -> None:
        remaining = iter(rows)
        self.rows = list(islice(remaining, _SHOWN))
        """The first ten."""
        self.count = len(self.rows) + sum(1 for _ in remaining)
        title = "1 bad row" if self.count == 1 else f"{self.count} bad rows"
        if self.count > _SHOWN:
            title += f" (the first {_SHOWN} follow)"
        lines = [f"{title}:", *(f"  {line}" for line in _together(self.rows))]
        self._listed = "\n".join(lines)
        super().__init__(
            f"{self._listed}\ncorrect them, or skip them with --skip-bad-rows FILE "
            "(skip_bad_rows=... in Python), which writes them to FILE"
        )

    def to_correct(self) -> UserError:
        """The same of a command that cannot skip them."""
        return UserError(f"{self._listed}\ncorrect them")


def _together(rows: Iterable[BadRow]) -> Iterator[str]:
    """A line per row; rows in a row that have the same fault share one."""
    for _, alike in groupby(rows, key=lambda row: (row.file, row.found, row.expected)):
        first, *others = alike
        place = f"{first.place} to {others[-1].place}" if others else first.place
        yield str(replace(first, place=place))


@contextmanager
def bad_rows_only_told() -> Iterator[None]:
    """Within it, bad rows that are to be skipped are counted, and no file of them is written."""
    token = _dry.set(True)
    try:
        yield
    finally:
        _dry.reset(token)


def settle(bad: Iterable[BadRow], skip_bad_rows: Path | str | None) -> None:
    """Raise `BadRows` if there is a bad row; with `skip_bad_rows`, write all to that file instead.

    Rows are streamed: a file may consist of bad ones.
    """
    remaining = iter(bad)
    first = next(remaining, None)
    if first is None:
        return
    if skip_bad_rows is None:
        raise BadRows(chain([first], remaining))
    path = Path(skip_bad_rows)
    _refuse_other(path)
    files, count = set(), 0
    with TemporaryFile("w+", encoding="utf-8", newline="\n") as rows:
        for row in chain([first], remaining):
            rows.write(json.dumps(asdict(row)) + "\n")
            files.add(row.file)
            count += 1
        named = ", ".join(sorted(files))
        if _dry.get():
            log.warning("%d bad rows of %s would be left out, listed in %s", count, named, path)
            return
        rows.seek(0)
        make_folder(path.parent)
        with replacing(path) as fresh, open(fresh, "w", encoding="utf-8", newline="\n") as file:
            # keep what an earlier call wrote about other files
            file.writelines(line for line in _lines(path) if json.loads(line)["file"] not in files)
            shutil.copyfileobj(rows, file)
    log.warning("left out %d bad rows of %s, listed in %s", count, named, path)


def _refuse_other(path: Path) -> None:
    """Raise `UserError` if the path exists and is not a list of bad rows."""
    try:
        if all(json.loads(line).keys() == _KEYS for line in _lines(path)):
            return
    except (ValueError, AttributeError, OSError):
        pass
    raise UserError(f"{path} exists and is not a list of bad rows; choose another file for them")


def _lines(path: Path) -> Iterator[str]:
    if path.exists():
        with open(path, encoding="utf-8") as file:
            yield from file
