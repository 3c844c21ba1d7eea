"""Scores on disk, found by what they are scores of; safe with several processes."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

_TABLE = "CREATE TABLE scores (key BLOB PRIMARY KEY, score REAL) WITHOUT ROWID"
_CHUNK = 500  # keys in one query; SQLite limits a query's parameters
_PATIENCE = 60.0  # seconds to wait for another process's write


class ScoreCache:
    """A folder with one SQLite file: key -> score, where None (undefined) is a score too.

    Each call opens the file anew, so that a cache may cross a fork or a thread. Write-ahead logging
    keeps readers and a writer from blocking each other; it needs a disk of this machine, not a
    network share.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / "scores.sqlite"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not self.path.exists():
            _create(self.path)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, float | None]:
        """The scores of those keys that are known."""
        found: dict[bytes, float | None] = {}
        with closing(self._connect()) as connection:
            for start in range(0, len(keys), _CHUNK):
                part = list(keys[start : start + _CHUNK])
                query = f"SELECT key, score FROM scores WHERE key IN ({','.join('?' * len(part))})"
                found.update(connection.execute(query, part))
        return found

    def put(self, scores: Mapping[bytes, float | None]) -> None:
        """Store scores; a key that is there already keeps its score."""
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?)", scores.items())

    def __len__(self) -> int:
        with closing(self._connect()) as connection:
            return connection.execute("SELECT COUNT(*) FROM scores").fetchone()[0]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_PATIENCE)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection


def _create(path: Path) -> None:
    """Make the file elsewhere and link it into place: no other process ever sees half a file."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        fresh = Path(folder) / path.name
        with closing(sqlite3.connect(fresh)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute(
                "CREATE TABLE scores (key BLOB PRIMARY KEY, score REAL) WITHOUT ROWID"
            )
            connection.commit()
        with suppress(FileExistsError):  # another process was faster
            os.link(fresh, path)
