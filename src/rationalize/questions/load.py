"""Load questions from a file, a folder, the hub, or the built-in generator."""

from __future__ import annotations

import dataclasses
import difflib
import json
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationalize.errors import UsageError, UserError
from rationalize.questions.bad_rows import BadRow, RowError, settle
from rationalize.questions.builtin import builtin_questions
from rationalize.questions.columns import Columns, check_columns
from rationalize.questions.files import (
    SUFFIXES,
    RawRow,
    has_split,
    is_saved,
    read_rows,
    split_files,
)
from rationalize.questions.forms import read_rows_alike
from rationalize.questions.guess import hint
from rationalize.questions.hub import (
    NAMED,
    find_set,
    nearest,
    on_hub,
    open_hub,
    open_saved,
    table_rows,
)
from rationalize.questions.splits import check_overlap, cut, how_wide, overlaps, with_unique_ids
from rationalize.records import Question
from rationalize.text import clip

log = logging.getLogger(__name__)

SPLITS = ("train", "dev", "test")

_BUILTIN = {"train": 200, "dev": 50, "test": 120, "unseen": 80, "rationales": 2, "seed": 0}


@dataclass(frozen=True)
class ReferenceRationale:
    """A rationale that another model wrote for a test question."""

    id: str
    """Id of the question."""
    model: str
    rationale: str
    predicted: str | None
    correct: bool


@dataclass
class _Rows:
    """Rows of one split, not yet parsed."""

    source: str
    rows: Iterable[RawRow | BadRow]
    columns: Columns
    id_prefix: str
    """Begins the ids of rows that have none."""


def load_questions(
    source: str | Path, split: str = "train", *, columns: Columns | None = None,
    limit: int | None = None, skip_bad_rows: str | Path | None = None,
) -> list[Question]:  # fmt: skip
    """One split of a source, or all of a file.

    A source is a file (JSONL, JSON, parquet, CSV, TSV; also .gz), a folder with one file per split
    (or a clone from the hub, or what `save_to_disk` wrote), the name of a set, a hub id
    (`owner/name[:config]`), or `builtin[:train=200,dev=50,...]`. A missing `dev` or `test` is cut
    from train, a tenth each. Raises `BadRows`, or `UserError` if nothing is left.
    """
    bad: list[BadRow] = []
    opened = _Source(source, columns, bad)
    questions = opened.split(split)
    settle(bad, skip_bad_rows or None)
    opened.say_cut()
    return _non_empty(questions, source, split)[:limit]


def load_splits(
    source: str | Path, *, columns: Columns | None = None, limit: int | None = None,
    skip_bad_rows: str | Path | None = None,
) -> dict[str, list[Question]]:  # fmt: skip
    """Train, dev and test (and the built-in `unseen`), without a question in common.

    A single file is cut into the three. `limit` is per split. If two splits share an id, every id
    gets its split's name as a prefix. Raises `BadRows`, and `UserError` if two splits share a
    question; with `skip_bad_rows`, such a question is removed from the earlier split instead.
    """
    bad: list[BadRow] = []
    opened = _Source(source, columns, bad)
    splits = opened.all()
    if skip_bad_rows:
        for name, question, other, duplicate in overlaps(splits):
            clash = f"the question of {duplicate.id!r} of {other}"
            row = json.dumps(dataclasses.asdict(question), default=str)
            bad.append(BadRow(f"{source} [{name}]", question.id, clash, "each in one split", row))
            splits[name] = [q for q in splits[name] if q is not question]
    settle(bad, skip_bad_rows or None)
    opened.say_cut()
    check_overlap(splits, removable=True)
    splits = with_unique_ids(splits)
    return {name: _non_empty(questions, source, name)[:limit] for name, questions in splits.items()}


def load_sample(
    source: str | Path, count: int = 0, *, seed: int = 0, columns: Columns | None = None,
    skip_bad_rows: str | Path | None = None,
) -> list[Question]:  # fmt: skip
    """`count` random train questions of a source (0: all), for tuning beside other questions.

    No dev or test is cut off. Rows of a hub set are drawn before they are parsed. Raises `BadRows`.
    """
    bad: list[BadRow] = []
    questions = _Source(source, columns, bad).sample(count, seed)
    settle(bad, skip_bad_rows or None)
    return _non_empty(questions, source, "train")


def load_reference_rationales(
    path: str | Path, *, skip_bad_rows: str | Path | None = None
) -> list[ReferenceRationale]:
    """Rationales of other models: rows of `{id, model, rationale, predicted, correct}`.

    Raises `BadRows`.
    """
    bad: list[BadRow] = []
    rationales = []
    types: dict[str, Any] = {
        "id": str, "model": str, "rationale": str, "predicted": str | None, "correct": bool
    }  # fmt: skip
    for row in read_rows(_checked_path(Path(path))):
        if isinstance(row, BadRow):
            bad.append(row)
            continue
        values: dict[str, Any] = {name: row.values.get(name) for name in types}
        wrong = [name for name, kind in types.items() if not isinstance(values[name], kind)]
        if wrong:
            wanted = getattr(types[wrong[0]], "__name__", "text or null")
            bad.append(row.bad(f"{wrong[0]}: {clip(values[wrong[0]])}", wanted))
        else:
            rationales.append(ReferenceRationale(**values))
    settle(bad, skip_bad_rows or None)
    return rationales


def is_builtin(source: str) -> bool:
    """Whether the built-in questions are meant: `builtin`, `builtin:train=200`."""
    return source == "builtin" or source.startswith("builtin:")


def check_source(source: str) -> None:
    """Raise `UserError` where questions can be nowhere; what is on the hub is not looked for."""
    if not is_builtin(source) and not on_hub(source):
        _checked_path(Path(source))


class _Source:
    """A source, opened once. Its bad rows are appended to `bad`."""

    def __init__(self, source: str | Path, columns: Columns | None, bad: list[BadRow]) -> None:
        self.name = str(source)
        self.path = Path(source)
        self.columns = check_columns(columns)
        self.bad = bad
        self.missing: list[str] = []
        self.sizes: dict[str, int] = {}
        self.builtin = is_builtin(self.name)
        on_disk = not self.builtin and self.path.exists()
        self.hub = None if on_disk or self.builtin else find_set(self.name)
        if self.hub is None and not self.builtin:
            _checked_path(self.path)
        self.opened = open_hub(self.hub) if self.hub else {}
        if on_disk and is_saved(self.path):
            self.opened = open_saved(self.path)

    def all(self) -> dict[str, list[Question]]:
        if self.builtin:
            return {s: q for s, q in builtin_questions(**_builtin_options(self.name)).items() if q}
        missing = self._missing()
        splits = {s: self._read(s) for s in SPLITS if s not in missing}
        splits |= self._cut(splits["train"], missing)
        return {split: splits[split] for split in SPLITS}

    def _cut(self, train: list[Question], missing: list[str]) -> dict[str, list[Question]]:
        splits = cut(train, missing)
        self.sizes = {split: len(questions) for split, questions in splits.items()}
        self.missing = missing
        return splits

    def say_cut(self) -> None:
        """Say which splits were cut from train, if any were."""
        if self.missing:
            log.warning(
                "%s has no %s: cut from train by a hash of each question, about a tenth each "
                "(%s); a folder with a file for each split decides it%s",
                self.name, " or ".join(self.missing),
                ", ".join(f"{n} {split}" for split, n in self.sizes.items()),
                how_wide(self.sizes.get("test", 0)),
            )  # fmt: skip

    def split(self, split: str) -> list[Question]:
        if self.builtin:
            return _builtin_split(self.name, split)
        if self.path.is_file():
            return self._read("train")
        missing = self._missing()
        if split in ("train", *missing):
            return self._cut(self._read("train"), missing)[split]
        return self._read(split)

    def sample(self, count: int, seed: int) -> list[Question]:
        if self.builtin:
            train = _builtin_split(self.name, "train")
        else:
            rows = self.opened.get("train")
            # a hub set may be large: draw its rows first, and parse only these
            if count and rows is not None and len(rows) > count:
                self.opened["train"] = rows.shuffle(seed=seed).select(range(count))
            train = self._read("train")
        if not count or len(train) <= count:
            return train
        kept = set(random.Random(seed).sample(range(len(train)), count))
        return [question for i, question in enumerate(train) if i in kept]

    def _missing(self) -> list[str]:
        if self.opened:
            return [s for s in SPLITS[1:] if s not in self.opened]
        if self.path.is_file():
            return ["dev", "test"]
        return [s for s in SPLITS[1:] if not has_split(self.path, s)]

    def _read(self, split: str) -> list[Question]:
        return _questions(self._rows(split), self.bad)

    def _rows(self, split: str) -> _Rows:
        if self.opened:
            if split not in self.opened:
                raise UserError(
                    f"{self.name} has no split {split!r}; expected {', '.join(self.opened)}"
                )
            theirs, name = (self.hub.columns, self.hub.id) if self.hub else ({}, self.name)
            choices = self.hub.choices if self.hub else None
            rows = table_rows(name, split, self.opened[split], choices)
            prefix = f"{name.rstrip('/').rpartition('/')[2]}-{split}"
            return _Rows(self.name, rows, {**theirs, **self.columns}, prefix)
        if self.path.is_file():
            files, prefix = [self.path], self.path.name.split(".")[0]
        else:
            files, prefix = split_files(self.path, split), f"{self.path.resolve().name}-{split}"
        read = (row for file in files for row in read_rows(file))
        return _Rows(self.name, read, self.columns, prefix)


def _questions(source: _Rows, bad: list[BadRow]) -> list[Question]:
    """Parse rows; equal questions without an id become one question with several rationales."""
    questions: dict[str, Question] = {}
    id_of: dict[tuple, str] = {}  # of questions without an id of their own
    fields: set[str] = set()
    names: dict[str, None] = {}  # of all columns
    dropped = 0
    for row, reading in read_rows_alike(source.rows, source.columns, source.id_prefix):
        if isinstance(reading, BadRow):
            bad.append(reading)
            continue
        try:
            dropped += reading.dropped
            fields |= reading.columns
            names |= dict.fromkeys(map(str, row.values))
            question = reading.question
            key = (question.context, question.question, question.choices)
            if not reading.has_id and key in id_of:
                # a further rationale of a question that an earlier row asked
                first = questions[id_of[key]]
                _same_answer(first, question)
                rationales = first.rationales + question.rationales
                questions[first.id] = dataclasses.replace(first, rationales=rationales)
                continue
            if question.id in questions:
                raise RowError(f"the id {clip(question.id)} a second time", "a unique id")
        except RowError as error:
            bad.append(row.bad(error.found, error.expected))
            continue
        questions[question.id] = question
        if not reading.has_id:
            id_of[key] = question.id
    # a mapping to a column that no row has is a mistake, not missing data
    absent = [field for field in source.columns if field not in fields]
    if questions and absent:
        column = source.columns[absent[0]]
        near = hint(names, absent[0], str(column)) or ";"
        raise UserError(
            f"{source.source}: no row has {column!r}, the column given for {absent[0]!r}{near} "
            "expected the name of a column. Correct the mapping, or leave it out"
        )
    if dropped:
        log.warning(
            "%s: left out %d rationales that already contain the answer sentence",
            source.source,
            dropped,
        )
    return list(questions.values())


def _same_answer(first: Question, second: Question) -> None:
    if first.answer != second.answer:
        raise RowError(
            f"the answer {clip(second.answer)} to a question that was {clip(first.answer)} before",
            "one answer per question, or ids",
        )


def _non_empty(questions: list[Question], source: str | Path, split: str) -> list[Question]:
    if not questions:
        raise UserError(f"{source} has no usable question for {split!r}; expected at least one")
    return questions


def _checked_path(path: Path) -> Path:
    if not path.exists():
        raise UserError(
            f"{path}: no such file or folder, and no set of that name{nearest(path)}; "
            f"expected a file ({', '.join(SUFFIXES)}), a folder with train, dev and test, "
            f"one of {', '.join(NAMED)}, a hub id like owner/name, or builtin"
        )
    if path.is_file() and not path.name.endswith(SUFFIXES):
        raise UserError(
            f"{path}: cannot tell its format; expected a name that ends in {', '.join(SUFFIXES)}"
        )
    return path


def _builtin_options(source: str) -> dict[str, int]:
    """`builtin:train=200,seed=1 -> {..., "train": 200, "seed": 1}`."""
    options = dict(_BUILTIN)
    for option in filter(None, source.partition(":")[2].split(",")):
        name, _, value = (part.strip() for part in option.partition("="))
        if name not in options:
            near = difflib.get_close_matches(name, options, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ";"
            raise UsageError(
                f"{source}: unknown option {name!r}{hint} expected one of {', '.join(options)}"
            )
        if not value.isdigit():
            raise UsageError(f"{source}: found {name}={value!r}; expected a number from 0")
        options[name] = int(value)
    return options


def _builtin_split(source: str, split: str) -> list[Question]:
    options = _builtin_options(source)
    names = [n for n in _BUILTIN if n not in ("rationales", "seed")]
    if split not in names:
        raise UserError(f"{source} has no split {split!r}; expected one of {', '.join(names)}")
    others = {name: 0 for name in names if name != split}
    return builtin_questions(**{**options, **others})[split]
