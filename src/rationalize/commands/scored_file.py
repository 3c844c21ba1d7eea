"""Scored rows on their way into one file. The rows are the only state: a killed call leaves whole
lines and at most one cut line, which a second start drops and writes again.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from uuid import UUID

from rationalize.errors import UserError
from rationalize.evaluation.leakage import LEAK, SCORE
from rationalize.files import number_or_text, put_in_place, replacing
from rationalize.records import Question
from rationalize.text import escaped_json, one_line

if TYPE_CHECKING:
    from rationalize.rewards.base import Reward


@dataclass
class Mean:
    """A running mean of scores."""

    total: float = 0.0
    defined: int = 0
    undefined: int = 0

    def add(self, score: float | None) -> None:
        if score is None:
            self.undefined += 1
        else:
            self.total += score
            self.defined += 1


class ScoredRows:
    """Rows with their scores under `column`, appended to a file in `folder`.

    `count` and `means` cover all rows of the file, also those of earlier starts.
    """

    def __init__(self, folder: Path, names: Sequence[str], column: str) -> None:
        self._path = folder / "rows.jsonl"
        self._column = column
        self.count = 0
        self.means = {name: Mean() for name in names}
        self.by_leak = (Mean(), Mean())
        """Simulatability of rationales that do not name their answer, and of those that do."""
        self._path.touch()
        complete = 0  # bytes up to the end of the last complete row
        with open(self._path, "rb") as file:
            for line in file:
                row = _row(line)
                if row is None:
                    break
                self._count(row)
                complete += len(line)
        with open(self._path, "r+b") as file:
            file.truncate(complete)

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Append a batch of rows, in readable UTF-8 with risky characters escaped."""
        with open(self._path, "ab") as file:
            for row in rows:
                text = json.dumps(row, ensure_ascii=False, default=_json_value)
                file.write(escaped_json(text).encode() + b"\n")
                self._count(row)

    def become(self, out: Path) -> None:
        """Move the rows to `out`, compressed where its name ends in .gz."""
        if not out.name.endswith(".gz"):
            put_in_place(self._path, out)
            return
        with (
            replacing(out) as fresh,
            open(self._path, "rb") as file,
            open(fresh, "wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as zipped,  # equal rows, equal files
        ):
            shutil.copyfileobj(file, zipped)
        self._path.unlink()

    def _count(self, row: Mapping[str, Any]) -> None:
        self.count += 1
        for name, mean in self.means.items():
            mean.add(row[self._column][name])
        leak = row[self._column].get(LEAK)
        if SCORE in self.means and leak is not None:
            self.by_leak[int(leak)].add(row[self._column][SCORE])


def means_table(means: Mapping[str, Mean]) -> str:
    lines = [f"{'reward':<24}{'mean':>10}{'undefined':>12}"]
    for name, mean in means.items():
        value = f"{mean.total / mean.defined:.4f}" if mean.defined else "-"
        lines.append(f"{one_line(name):<24}{value:>10}{mean.undefined:>12}")
    return "\n".join(lines)


def leak_line(by_leak: tuple[Mean, Mean]) -> str | None:
    """Leakage-adjusted simulatability in a line; None where no row has its scores."""
    if not any(mean.defined for mean in by_leak):
        return None
    means = [mean.total / mean.defined if mean.defined else None for mean in by_leak]
    known = [m for m in means if m is not None]
    texts = ["undefined" if m is None else f"{m:.4f}" for m in means]
    adjusted = f"{sum(known) / 2:.4f}" if len(known) == 2 else "undefined"
    n = [mean.defined for mean in by_leak]
    return (
        f"simulatability: {texts[0]} where the rationale does not name its answer (n = {n[0]}), "
        f"{texts[1]} where it does (n = {n[1]}), adjusted for leaks {adjusted}"
    )


def copied(source: BinaryIO, file: Path) -> Path:
    """A pipe's content as a file. Rows are read twice: checked, then scored."""
    with open(file, "wb") as copy:
        shutil.copyfileobj(source, copy)
    return file


def file_digest(file: Path) -> str:
    """Hash of a file's bytes."""
    try:
        with open(file, "rb") as rows:
            return hashlib.file_digest(rows, "blake2b").hexdigest()[:32]
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror or error}") from error


def questions_digest(questions: Iterable[Question]) -> str:
    """Hash of the fields that rewards read from questions; a user's reward may read `extra`."""
    hash = hashlib.blake2b(digest_size=16)
    for q in questions:
        read = [q.id, q.question, q.choices, q.context, q.answer, q.accepted, q.extra]
        hash.update(json.dumps(read, default=str).encode())
    return hash.hexdigest()


def source_digest(reward: Reward) -> str | None:
    """Hash of the module of a user's own reward, which must not change within a file; else None."""
    if not reward.source:
        return None
    module = sys.modules[reward.source.partition(":")[0]]
    return file_digest(Path(module.__file__)) if module.__file__ else None


def _row(line: bytes) -> dict[str, Any] | None:
    """The row of a complete line; None for a line that a kill or a power cut left behind."""
    if not line.endswith(b"\n"):
        return None
    try:
        return json.loads(line)
    except ValueError:
        return None


def _json_value(value: Any) -> Any:
    """Parquet's types that JSON lacks, as text: ISO dates; bytes as UTF-8, or else base64."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal | UUID | timedelta):
        return str(value)
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return base64.b64encode(value).decode()
    return number_or_text(value)
