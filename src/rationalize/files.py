"""Atomic writes, JSON lines that survive a crash, and values in JSON's types."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

from rationalize.errors import UserError

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path that replaces `path` atomically if the block raises nothing."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield fresh
        put_in_place(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def put_in_place(fresh: Path, path: Path) -> None:
    """Rename a finished file to `path`, atomically, also across a power cut."""
    _sync(fresh)
    os.replace(fresh, path)
    if os.name == "posix":  # other systems cannot open a folder
        _sync(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's files are on the disk; a power cut no longer cuts them."""
    for path in (*folder.rglob("*"), folder, folder.parent):
        if path.is_file() or os.name == "posix":  # other systems cannot open a folder
            _sync(path)


def link_or_copy(source: str | Path, target: str | Path) -> None:
    """A hard link where the file system has them, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replacing(path) as fresh:
        fresh.write_text(text, encoding="utf-8", newline="\n")


def looks_local(name: str) -> bool:
    """Whether a name that no file or folder has can only be meant as one, not as a hub id.

    >>> looks_local("./model"), looks_local("data/sets/quarel"), looks_local("owner/name")
    (True, True, False)
    """
    first, *others = name.partition(":")[0].split("/")
    return (
        name.startswith((".", "/", "~"))
        or "\\" in name
        or len(others) > 1
        or (bool(others) and Path(first).is_dir())
        or name.endswith((".jsonl", ".json", ".gz", ".parquet", ".csv", ".tsv", ".gguf", ".yaml"))
    )


def make_folder(path: Path) -> None:
    """Make a folder and its parents. Raises `UserError` where that cannot be."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: the folder cannot be made ({error.strerror}); name another place"
        ) from error


def cache_folder() -> Path:
    """The folder for what runs share: `RATIONALIZE_CACHE`, or `~/.cache/rationalize`."""
    return Path(os.environ.get("RATIONALIZE_CACHE") or Path.home() / ".cache" / "rationalize")


def plain(value: Any, *, finite: bool = True) -> Any:
    """The value in JSON's types; with `finite`, infinities and NaN become None.

    Raises `TypeError` for a value that has no JSON form.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v, finite=finite) for k, v in value.items()}
    if isinstance(value, Enum):
        return plain(value.value, finite=finite)
    if isinstance(value, (set, frozenset)):
        return sorted(plain(v, finite=finite) for v in value)
    if isinstance(value, (list, tuple)):
        return [plain(v, finite=finite) for v in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: plain(getattr(value, f.name), finite=finite) for f in dataclasses.fields(value)
        }
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if value is None or isinstance(value, (str, bool)):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) or not finite else None
    if hasattr(value, "tolist"):  # numpy and torch
        return plain(value.tolist(), finite=finite)
    return number_or_text(value)


def number_or_text(value: Any) -> Any:
    """For `json.dumps(default=...)`: numpy and torch scalars become Python numbers."""
    if hasattr(value, "item"):
        return value.item()
    raise TypeError(
        f"cannot store {type(value).__name__} {value!r} as JSON; "
        "expected text, numbers, lists or dictionaries"
    )


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file; an unfinished last line is ignored.

    Raises `UserError` for any other line that is not JSON.
    """
    if not path.exists():
        return []
    # what follows the last line break is still being written, or was cut
    lines = path.read_bytes().split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise UserError(
            f"{path}: {error}; expected one JSON object a line. Correct or delete the bad line"
        ) from error


def mend_lines(path: Path) -> None:
    """Drop what a crash left after the last complete line, so that lines can be appended again."""
    if not path.exists():
        return
    content = path.read_bytes()
    kept = content[: content.rfind(b"\n") + 1]
    # after a power cut, complete lines can be garbage too
    while kept and not _is_json(kept[kept.rfind(b"\n", 0, -1) + 1 :]):
        kept = kept[: kept.rfind(b"\n", 0, -1) + 1]
    if kept != content:
        log.warning(
            "%s: dropped %d bytes of a line that was cut short", path, len(content) - len(kept)
        )
        write_text(path, kept.decode())


def _is_json(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
