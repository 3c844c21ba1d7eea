"""Rows of question files, one by one: JSONL, JSONL.gz, whole JSON documents, parquet."""

from __future__ import annotations

import gzip
import json
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

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".parquet")

_ALIASES = {"dev": ("dev", "validation", "valid", "val"), "train": ("train",), "test": ("test",)}
_GZIP = b"\x1f\x8b"
_PARQUET = b"PAR1"
_BATCH = 1000  # parquet rows held at a time
_BUFFER = 1 << 20  # bytes read ahead in each parquet column, where it would else be read whole


@dataclass(frozen=True)
class RawRow:
    """A row as a dictionary, and where it stands."""

    file: str
    place: str
    values: dict[str, Any]

    def bad(self, found: str, expected: str) -> BadRow:
        row = json.dumps(self.values, default=str)
        return BadRow(self.file, self.place, found, expected, row)


def read_rows(path: Path) -> Iterator[RawRow | BadRow]:
    """The rows of a file in order; what is no row comes as a `BadRow`, not as an exception."""
    empty = True
    try:
        for row in _parquet_rows(path) if _is_parquet(path) else _json_rows(path):
            empty = False
            yield row
    except (EOFError, zlib.error, gzip.BadGzipFile, pa.ArrowException) as error:
        yield BadRow(str(path), "", f"a damaged file ({error})", "a whole one")
        return
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    if empty:
        yield BadRow(str(path), "", "an empty file", "at least one question")


def split_files(folder: Path, split: str) -> list[Path]:
    """The files of a split in a folder: one, or the shards of one."""
    names = _ALIASES.get(split, (split,))
    found = []
    for path in sorted(folder.iterdir()):
        suffix = next((s for s in SUFFIXES if path.name.endswith(s)), None)
        if suffix and _stem(path.name.removesuffix(suffix)) in names:
            found.append(path)
    shards = [path for path in found if "-of-" in path.name]
    if not found:
        there = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        wanted = " or ".join(f"{n}.jsonl" for n in names)
        raise UserError(
            f"{folder}: no file for the split {split!r} (there: {there}); "
            f"expected {wanted}, or one that ends in {', '.join(SUFFIXES[1:])}"
        )
    if len(found) > 1 and len(shards) != len(found):
        raise UserError(
            f"{folder}: the split {split!r} is in {' and in '.join(p.name for p in found)}; "
            "expected one file. Move the others away, or name the file itself"
        )
    return found


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder has a file for the split."""
    return any(
        _stem(path.name.removesuffix(suffix)) in _ALIASES.get(split, (split,))
        for path in folder.iterdir()
        for suffix in SUFFIXES
        if path.name.endswith(suffix)
    )


def _stem(name: str) -> str:
    """`train-00000-of-00002` is a shard of `train`."""
    head, of, _ = name.rpartition("-of-")
    return head.rpartition("-")[0] if of else name


def _is_parquet(path: Path) -> bool:
    """By its name, or by how it begins where it has none."""
    if path.name.endswith(".parquet"):
        return True
    with open(path, "rb") as file:
        return file.read(len(_PARQUET)) == _PARQUET


def _open(path: Path) -> IO[bytes]:
    with open(path, "rb") as file:
        zipped = file.read(2) == _GZIP
    return gzip.open(path) if zipped else open(path, "rb")  # type: ignore[return-value]


def _json_rows(path: Path) -> Iterator[RawRow | BadRow]:
    """JSONL, or one JSON document, whatever its name: the released files are called `.jsonl`."""
    with _open(path) as file:
        first = _first_line(file)
        single = _document(file, first, path)
    if single is not None:
        yield from _entries(str(path), single)
        return
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield _parsed(str(path), f"line {number}", line)


def _first_line(file: IO[bytes]) -> bytes:
    for line in file:
        line = line.removeprefix(b"\xef\xbb\xbf")
        if line.strip():
            return line
    return b""


def _document(file: IO[bytes], first: bytes, path: Path) -> Any:
    """The parsed document if the file is one, else None."""
    name = path.name.removesuffix(".gz")
    if first.strip() not in (b"{", b"[") and not name.endswith(".json"):
        value = _loads(first)
        one_line = _first_line(file) == b""
        return value if one_line and _is_index(value) else None
    value = _loads(first + file.read())
    return value if isinstance(value, list) or _is_index(value) else None


def _is_index(value: Any) -> bool:
    """`{"0": {...}, "1": {...}}`, or a list in a line of its own."""
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
    named = document.items() if isinstance(document, dict) else enumerate(document)
    for name, values in named:
        place = f'entry "{name}"' if isinstance(document, dict) else f"entry {name}"
        if isinstance(values, dict):
            yield RawRow(file, place, values)
        else:
            yield BadRow(file, place, clip(values), "a JSON object", json.dumps(values))


def _parsed(file: str, place: str, line: bytes) -> RawRow | BadRow:
    shown = line.decode("utf-8", "backslashreplace").rstrip("\r\n")
    try:
        values = json.loads(line.decode())
    except UnicodeDecodeError as error:
        found = f"a byte that is not UTF-8 ({line[error.start]:#04x} at byte {error.start + 1})"
        return BadRow(file, place, found, "text in UTF-8", shown)
    except RecursionError:
        return BadRow(file, place, "JSON nested too deeply", "a JSON object", shown)
    except ValueError as error:
        return BadRow(file, place, f"broken JSON ({error})", "one JSON object a line", shown)
    if not isinstance(values, dict):
        return BadRow(file, place, clip(values), "one JSON object a line", shown)
    return RawRow(file, place, values)


def _parquet_rows(path: Path) -> Iterator[RawRow | BadRow]:
    number = 0
    with pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False) as file:
        for batch in file.iter_batches(batch_size=_BATCH):
            for values in _batch_rows(batch):
                number += 1
                place = f"row {number}"
                if values is None:
                    found = "a byte that is not UTF-8"
                    yield BadRow(str(path), place, found, "text in UTF-8")
                else:
                    yield RawRow(str(path), place, values)


def _batch_rows(batch: pa.RecordBatch) -> list[dict[str, Any] | None]:
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:  # parquet text is checked only when it is read: find the row
        if batch.num_rows == 1:
            return [None]
        half = batch.num_rows // 2
        return _batch_rows(batch.slice(0, half)) + _batch_rows(batch.slice(half))
