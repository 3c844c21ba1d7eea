"""Scores on disk by a hash of what was scored; safe with several processes."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from rationalize.files import make_folder

_TABLE = "CREATE TABLE scores (key BLOB PRIMARY KEY, score REAL) WITHOUT ROWID"
_CHUNK = 500  # keys per query; SQLite limits the parameters of a query
_TIMEOUT = 60.0  # seconds to wait for another process's write


class ScoreCache:
    """A folder with one SQLite file: key -> score, None for an undefined score.

    Every call opens the file again, so that a cache can cross forks and threads. Write-ahead
    logging lets readers and a writer work at the same time; it requires a local disk.
    """

    def __init__(self, folder: Path | str) -> None:
        self.path = Path(folder) / "scores.sqlite"
        make_folder(self.path.parent)
        if self.path.exists():
            return
        # created atomically: no other process sees the file without its table
        # (a run's next start deletes what is called .*.tmp)
        with tempfile.TemporaryDirectory(".tmp", ".scores.", self.path.parent) as beside:
            fresh = Path(beside) / self.path.name
            with closing(sqlite3.connect(fresh)) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(_TABLE)
                connection.commit()
            with suppress(FileExistsError):  # another process was first
                os.link(fresh, self.path)

    def get(self, keys: Sequence[bytes]) -> dict[bytes, float | None]:
        """The stored scores of these keys; a key without one is missing."""
        scores: dict[bytes, float | None] = {}
        with closing(self._connect()) as connection:
            for start in range(0, len(keys), _CHUNK):
                part = list(keys[start : start + _CHUNK])
                query = f"SELECT key, score FROM scores WHERE key IN ({','.join('?' * len(part))})"
                scores.update(connection.execute(query, part))
        return scores

    def put(self, scores: Mapping[bytes, float | None]) -> None:
        """Store scores; a key that is already stored keeps its score."""
        with closing(self._connect()) as connection, connection:
            connection.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?)", scores.items())

    def __len__(self) -> int:
        with closing(self._connect()) as connection:
            return connection.execute("SELECT COUNT(*) FROM scores").fetchone()[0]

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, timeout=_TIMEOUT)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection
