"""Stream the rows of question files: JSONL, JSONL.gz, one JSON document, parquet, CSV, TSV."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from rationalize.errors import UserError
from rationalize.questions.bad_rows import BadRow
from rationalize.text import clip

SUFFIXES = (
    ".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz",
)  # fmt: skip


def without_suffix(name: str) -> str:
    """A file's name without the ending that says its format.

    >>> without_suffix("gpt-4.1.jsonl.gz")
    'gpt-4.1'
    """
    ending = max((s for s in SUFFIXES if name.endswith(s)), key=len, default="")
    return name[: len(name) - len(ending)]


SPLIT_ALIASES = {
    "train": ("train",), "dev": ("dev", "validation", "valid", "val"), "test": ("test",),
}  # fmt: skip
"""Our split -> what files and hub sets call it."""

_TABLES = (".csv", ".tsv")
_NOT_UTF8 = re.compile("[\udc80-\udcff]")
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_BATCH = 1000  # parquet rows in memory at a time
_BUFFER = 1 << 20  # bytes read ahead per parquet column; without it, pyarrow reads whole columns


@dataclass(frozen=True)
class RawRow:
    """A row as a dictionary, with its place in its file."""

    file: str
    place: str
    values: dict[str, Any]

    def bad(self, found: str, expected: str) -> BadRow:
        row = json.dumps(self.values, default=str)
        return BadRow(self.file, self.place, found, expected, row)


def read_rows(path: Path) -> Iterator[RawRow | BadRow]:
    """The rows of a file in order; one that cannot be parsed is a `BadRow`, not an exception.

    Raises `UserError` if the file cannot be opened.
    """
    empty = True
    try:
        for row in _rows(path):
            empty = False
            yield row
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        yield BadRow(str(path), "", f"a damaged file ({error})", "a complete file")
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if empty:
        yield BadRow(str(path), "", "an empty file", "at least one question")


def _rows(path: Path) -> Iterator[RawRow | BadRow]:
    if _is_parquet(path):
        return _parquet_rows(path)
    name = path.name.removesuffix(".gz")
    if name.endswith(_TABLES):
        return _table_rows(path, "\t" if name.endswith(".tsv") else ",")
    return _json_rows(path)


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder, or in its `data/` (a clone from the hub): one file, or all
    its shards.
    """
    paths = _files_of(folder, split)
    shards = [path for path in paths if "-of-" in path.name]
    if not paths:
        present = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        wanted = " or ".join(f"{n}.jsonl" for n in SPLIT_ALIASES.get(split, (split,)))
        files = [p for p in folder.iterdir() if p.is_file() and p.name.endswith(SUFFIXES)]
        itself = f". Or name {files[0]} itself, which is cut into splits" if len(files) == 1 else ""
        raise UserError(
            f"{folder}: no file for the split {split!r} (the folder holds {present}); "
            f"expected {wanted}, or one that ends in {', '.join(SUFFIXES[1:])}{itself}"
        )
    if len(paths) > 1 and len(shards) != len(paths):
        raise UserError(
            f"{folder}: the split {split!r} is in {' and in '.join(p.name for p in paths)}; "
            "expected one file. Move the others away, or name the file itself"
        )
    return paths


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder has a file for the split, or a table of its own (`save_to_disk`)."""
    if is_saved(folder):
        return any(name in saved_splits(folder) for name in SPLIT_ALIASES.get(split, (split,)))
    return bool(_files_of(folder, split))


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of `datasets` wrote the folder."""
    return any((folder / name).is_file() for name in ("dataset_dict.json", "state.json"))


def saved_splits(folder: Path) -> tuple[str, ...]:
    """The splits of a folder that `save_to_disk` wrote; a set without splits is its train split."""
    file = folder / "dataset_dict.json"
    return tuple(json.loads(file.read_bytes())["splits"]) if file.is_file() else ("train",)


def _files_of(folder: Path, split: str) -> list[Path]:
    places = [folder, folder / "data"]
    return next((files for place in places if (files := _files_in(place, split))), [])


def _files_in(folder: Path, split: str) -> list[Path]:
    names = SPLIT_ALIASES.get(split, (split,))
    return [
        path
        for path in (sorted(folder.iterdir()) if folder.is_dir() else ())
        for suffix in SUFFIXES
        if path.name.endswith(suffix) and _stem(path.name.removesuffix(suffix)) in names
    ]


def _stem(name: str) -> str:
    """The split in a file's name: `train-00000-of-00002 -> train`."""
    head, of, _ = name.rpartition("-of-")
    return head.rpartition("-")[0] if of else name


def _is_parquet(path: Path) -> bool:
    """By the file's name, else by its first bytes."""
    if path.name.endswith(".parquet"):
        return True
    with open(path, "rb") as file:
        return file.read(len(_PARQUET)) == _PARQUET


def _open(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        zipped = file.read(2) == _GZIP
    return gzip.open(path) if zipped else open(path, "rb")  # type: ignore[return-value]


def _json_rows(path: Path) -> Iterator[RawRow | BadRow]:
    """JSONL or one JSON document, by content: MaRio's released `.jsonl` files are documents."""
    with _open(path) as file:
        first = _first_line(file)
        single = _document(file, first, path)
    if single is not None:
        yield from _entries(str(path), single)
        return
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:  # byte order mark
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _parse(str(path), f"line {number}", line)


def _table_rows(path: Path, delimiter: str) -> Iterator[RawRow | BadRow]:
    """The rows of a table whose first row names the columns; an empty cell is None."""
    csv.field_size_limit(sys.maxsize)
    # surrogateescape: a byte that is not UTF-8 spoils its own row only
    with io.TextIOWrapper(_open(path), "utf-8-sig", "surrogateescape", newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        names = _column_names(path, next(reader, []))
        start = reader.line_num + 1
        while True:
            try:
                cells = next(reader, None)
            except csv.Error as error:
                text = f"a broken table ({error})"
                yield BadRow(str(path), f"line {start}", text, "cells as CSV quotes them")
                return
            if cells is None:
                return
            place, start = f"line {start}", reader.line_num + 1
            if not cells:
                continue
            row = delimiter.join(cells).encode("utf-8", "backslashreplace").decode()
            if len(cells) != len(names):
                found = f"{len(cells)} cells"
                yield BadRow(str(path), place, found, f"{len(names)}, as the first row has", row)
            elif any(_NOT_UTF8.search(cell) for cell in cells):
                yield BadRow(str(path), place, "a byte that is not UTF-8", "text in UTF-8", row)
            else:
                values = {name: cell or None for name, cell in zip(names, cells, strict=True)}
                yield RawRow(str(path), place, values)


def _column_names(path: Path, names: list[str]) -> list[str]:
    """The names of a table's columns. Raises `UserError` if the first row has none."""
    names = [name.strip() for name in names]
    wrong = (
        "an empty name" if "" in names else "a name twice" if len(set(names)) < len(names) else ""
    )
    if len(names) == 1 and re.search("[;\t|,]", names[0]):
        wrong = "one column"
    if wrong:
        shown = clip(", ".join(names))
        raise UserError(
            f"{path}, line 1: found {wrong} ({shown}); expected the names of the columns, "
            "with commas between them in .csv and tabs in .tsv"
        )
    return names


def _first_line(file: IO[bytes]) -> bytes:
    for line in file:
        line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            return line
    return b""


def _document(file: IO[bytes], first: bytes, path: Path) -> Any:
    """The parsed document if the file is one JSON document, else None.

    Only a first line that can begin a document makes it read the whole file.
    """
    name = path.name.removesuffix(".gz")
    if first.strip() not in (b"{", b"[") and not name.endswith(".json"):
        value = _loads(first)
        one_line = _first_line(file) == b""
        return value if one_line and _is_index(value) else None
    value = _loads(first + file.read())
    return value if isinstance(value, list) or _is_index(value) else None


def _is_index(value: Any) -> bool:
    """Whether this is a whole set: a list, or `{"0": {...}, "1": {...}}`."""
    if isinstance(value, list):
        return True
    return (
        isinstance(value, dict) and bool(value) and all(isinstance(v, dict) for v in value.values())
    )


def _loads(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError):
        return None


def _entries(file: str, document: Any) -> Iterator[RawRow | BadRow]:
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for name, values in entries:
        place = f'entry "{name}"' if isinstance(document, dict) else f"entry {name}"
        if isinstance(values, dict):
            yield RawRow(file, place, values)
        else:
            yield BadRow(file, place, clip(values), "a JSON object", json.dumps(values))


def _parse(file: str, place: str, line: bytes) -> RawRow | BadRow:
    text = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        byte = f"{line[error.start]:#04x} at byte {error.start + 1}"
        return BadRow(file, place, f"a byte that is not UTF-8 ({byte})", "text in UTF-8", text)
    except RecursionError:
        return BadRow(file, place, "JSON nested too deeply", "a JSON object", text)
    except ValueError as error:
        here = "a number of too many digits"
        if isinstance(error, json.JSONDecodeError):
            here = f"column {error.colno}: {error.msg[0].lower()}{error.msg[1:]}"
        return BadRow(file, place, f"broken JSON ({here})", "one JSON object a line", text)
    if not isinstance(values, dict):
        return BadRow(file, place, clip(values), "one JSON object a line", text)
    return RawRow(file, place, values)


def _parquet_rows(path: Path) -> Iterator[RawRow | BadRow]:
    number = 0
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            for values in _batch_rows(batch):
                number += 1
                place = f"row {number}"
                if values is None:
                    yield BadRow(str(path), place, "a byte that is not UTF-8", "text in UTF-8")
                else:
                    yield RawRow(str(path), place, values)


def _batch_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    """The rows of a batch, None for one whose text is not UTF-8."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        # pyarrow checks text when it is read, and does not say which row is bad: bisect
        if batch.num_rows == 1:
            return [None]
        half = batch.num_rows // 2
        return _batch_rows(batch.slice(0, half)) + _batch_rows(batch.slice(half))
