"""A server's replies on disk, by request, so that none is paid for twice. No torch here."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from rationalize.errors import UserError
from rationalize.records import Completion

_TABLE = """CREATE TABLE IF NOT EXISTS replies (
    key BLOB, sample INTEGER, text TEXT, finish TEXT, n_tokens INTEGER, oddities TEXT,
    reasoning TEXT NOT NULL DEFAULT '', ids TEXT NOT NULL DEFAULT '[]', PRIMARY KEY (key, sample)
) WITHOUT ROWID"""
_UNCHECKED = "CREATE TABLE IF NOT EXISTS unchecked (key BLOB PRIMARY KEY) WITHOUT ROWID"
_COLUMNS = ("key", "sample", "text", "finish", "n_tokens", "oddities", "reasoning", "ids")
_INSERT = (
    f"INSERT OR IGNORE INTO replies ({', '.join(_COLUMNS)}) "
    f"VALUES ({', '.join('?' for _ in _COLUMNS)})"
)
_LATER = {"reasoning": "''", "ids": "'[]'"}
"""Columns that files of earlier versions lack, and their defaults."""
_LOCK_TIMEOUT = 60.0  # seconds to wait for another thread's or process's write


@dataclass(frozen=True)
class Reply:
    """One choice of a server's answer."""

    completion: Completion
    oddities: tuple[str, ...] = ()
    """What is odd about it, in a few words; counted in the bill."""
    reasoning: str = ""
    """What a reasoning model wrote beside the text, in a field of its own."""


class ReplyCache:
    """A folder with one SQLite file: (key, sample) -> reply.

    Each call opens its own connection, so that threads and processes can share the file. A reply is
    on disk when `put` returns.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "replies.sqlite"
        with self._reported():
            folder.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection:
                connection.execute(_TABLE)
                connection.execute(_UNCHECKED)
                columns = connection.execute("PRAGMA table_info(replies)").fetchall()
                for name in _LATER.keys() - {name for _, name, *_ in columns}:
                    with suppress(sqlite3.OperationalError):  # another process has added it
                        connection.execute(
                            f"ALTER TABLE replies ADD COLUMN {name} TEXT NOT NULL "
                            f"DEFAULT {_LATER[name]}"
                        )

    def get(self, key: bytes) -> list[Reply]:
        """The stored samples, in order."""
        query = (
            "SELECT text, finish, n_tokens, oddities, reasoning, ids FROM replies WHERE key = ? "
            "ORDER BY sample"
        )
        with self._reported(), closing(self._connect()) as connection:
            rows = connection.execute(query, (key,)).fetchall()
        return [
            Reply(
                Completion(text, finish, n_tokens, tuple(json.loads(ids))),
                tuple(json.loads(oddities)), reasoning,
            )
            for text, finish, n_tokens, oddities, reasoning, ids in rows
        ]  # fmt: skip

    def put(self, key: bytes, first: int, replies: Sequence[Reply]) -> None:
        """Store the samples from number `first` on. A sample that is stored already stays."""
        rows = [
            (key, first + j, r.completion.text, r.completion.finish, r.completion.n_tokens,
             json.dumps(r.oddities), r.reasoning, json.dumps(r.completion.ids))
            for j, r in enumerate(replies)
        ]  # fmt: skip
        with self._reported(), closing(self._connect()) as connection, connection:
            connection.executemany(_INSERT, rows)

    def expect_unchecked(self, keys: Collection[bytes]) -> None:
        """Keep the replies that come under these keys only until `drop_unchecked`, unless `checked`
        is called before.
        """
        with self._reported(), closing(self._connect()) as connection, connection:
            connection.executemany(
                "INSERT OR IGNORE INTO unchecked VALUES (?)", [(k,) for k in keys]
            )

    def checked(self) -> None:
        """Keep what has come."""
        with self._reported(), closing(self._connect()) as connection, connection:
            connection.execute("DELETE FROM unchecked")

    def drop_unchecked(self) -> None:
        """Forget the replies that nobody has checked, also those of a process that was killed."""
        with self._reported(), closing(self._connect()) as connection, connection:
            connection.execute("DELETE FROM replies WHERE key IN (SELECT key FROM unchecked)")
            connection.execute("DELETE FROM unchecked")

    def _connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self._path, timeout=_LOCK_TIMEOUT)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Failures of the disk as `UserError`s."""
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"{self._path}: the cache of replies cannot be used ({error}); free or repair the "
                "disk, or name another folder in the environment variable RATIONALIZE_CACHE"
            ) from error
