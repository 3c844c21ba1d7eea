"""Annotators and votes in one SQLite file: a vote is one transaction, on the disk before it is
acknowledged.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from rationalize.errors import UserError

FILE = "votes.sqlite"
TOKEN_BYTES = 24
_TABLES = """
CREATE TABLE secret (value BLOB NOT NULL);
CREATE TABLE annotators (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token BLOB NOT NULL UNIQUE, consented REAL
);
CREATE TABLE votes (
    annotator INTEGER NOT NULL REFERENCES annotators, item INTEGER NOT NULL,
    answers TEXT NOT NULL, first TEXT NOT NULL, seconds REAL NOT NULL, at REAL NOT NULL,
    PRIMARY KEY (annotator, item)
) WITHOUT ROWID;
CREATE TABLE verdicts (
    judge TEXT NOT NULL, item INTEGER NOT NULL, ask TEXT NOT NULL, first TEXT NOT NULL,
    answer TEXT, reply TEXT NOT NULL, PRIMARY KEY (judge, item, ask, first)
) WITHOUT ROWID;
"""
_LOCK_TIMEOUT = 30.0  # seconds to wait for another process's or thread's write


class AlreadyVoted(Exception):
    """The annotator has a vote on the item, which stays."""


@dataclass(frozen=True)
class Annotator:
    """Who a personal link belongs to."""

    id: int
    """From 1, in the order of invitation; decides the order of items."""
    name: str
    consented: bool


@dataclass(frozen=True)
class Vote:
    """An annotator's answers about one item."""

    annotator: int
    item: int
    answers: Mapping[str, str]
    """Of a question about the pair `a`, `b` or `same`; of one about each text, `NAME/a` and
    `NAME/b`: `yes` or `no`.
    """
    first: str
    """The side that stood first, `a` or `b`."""
    seconds: float
    """From the page to the vote."""
    at: float
    """When, in seconds since 1970."""


@dataclass(frozen=True)
class Verdict:
    """A model's answer to one question about one item, in one order."""

    judge: str
    item: int
    ask: str
    first: str
    """The side that stood first; of a question about each text, the side that it was about."""
    answer: str | None
    """`a`, `b` or `same`, or `yes` or `no`; None where it could not be read."""
    reply: str


class Store:
    """The votes of a study's folder. Every call opens its own connection: threads and processes
    can share the file, which needs a local disk.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        if not self.path.is_file():
            raise UserError(f"{self.path}: no such file; it is made by `rationalize study new`")
        with self._connection() as db:
            [(self._secret,)] = db.execute("SELECT value FROM secret").fetchall()

    @classmethod
    def create(cls, folder: Path) -> Store:
        """Make the empty file. Raises `UserError` where it cannot be made."""
        try:
            with closing(sqlite3.connect(folder / FILE)) as db:
                db.execute("PRAGMA journal_mode=WAL")  # readers go on while one writes
                db.executescript(f"BEGIN; {_TABLES}")
                db.execute("INSERT INTO secret VALUES (?)", (secrets.token_bytes(32),))
                db.commit()
        except sqlite3.Error as error:
            raise UserError(f"{folder / FILE}: cannot be made ({error}); free the disk") from error
        return cls(folder)

    def invite(self, name: str, *, renew: bool = False) -> str:
        """The token of a new annotator, as `invite_all`."""
        return self.invite_all([name], renew=renew)[name]

    def invite_all(self, names: Sequence[str], *, renew: bool = False) -> dict[str, str]:
        """The tokens of new annotators, which are stored as their hashes alone; with `renew`, new
        ones for known annotators, whose old links end. Raises `UserError` for a known name, and
        with `renew` for an unknown one: then nobody is invited.
        """
        tokens = {name: secrets.token_urlsafe(TOKEN_BYTES) for name in names}
        with self._connection() as db:
            for name, token in tokens.items():
                known = db.execute("SELECT 1 FROM annotators WHERE name = ?", (name,)).fetchone()
                if bool(known) != renew:
                    what = "invited already; --renew gives a new link" if known else "not invited"
                    raise UserError(f"the annotator {name!r} is {what}")
                if renew:
                    update = "UPDATE annotators SET token = ? WHERE name = ?"
                    db.execute(update, (_hash(token), name))
                else:
                    insert = "INSERT INTO annotators (name, token) VALUES (?, ?)"
                    db.execute(insert, (name, _hash(token)))
        return tokens

    def annotator(self, token: str) -> Annotator | None:
        """Whose link has this token; None: nobody's."""
        query = "SELECT id, name, consented FROM annotators WHERE token = ?"
        with self._connection() as db:
            row = db.execute(query, (_hash(token),)).fetchone()
        return row and Annotator(row[0], row[1], row[2] is not None)

    def annotators(self) -> list[Annotator]:
        """All who were invited, in that order."""
        with self._connection() as db:
            rows = db.execute("SELECT id, name, consented FROM annotators ORDER BY id").fetchall()
        return [Annotator(id, name, consented is not None) for id, name, consented in rows]

    def consent(self, annotator: int) -> None:
        """Remember that an annotator agreed; the first time stays."""
        update = "UPDATE annotators SET consented = ? WHERE id = ? AND consented IS NULL"
        with self._connection() as db:
            db.execute(update, (time.time(), annotator))

    def answered(self, annotator: int) -> set[int]:
        """The items that an annotator has voted on."""
        with self._connection() as db:
            rows = db.execute("SELECT item FROM votes WHERE annotator = ?", (annotator,)).fetchall()
        return {item for (item,) in rows}

    def add(self, vote: Vote) -> None:
        """Store a vote; it is on the disk when this returns. Raises `AlreadyVoted`."""
        row = (
            vote.annotator, vote.item, json.dumps(dict(vote.answers)), vote.first, vote.seconds,
            vote.at,
        )  # fmt: skip
        with self._connection() as db:
            try:
                db.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?)", row)
            except sqlite3.IntegrityError as error:
                raise AlreadyVoted from error

    def votes(self) -> list[Vote]:
        """All votes, by annotator and item."""
        query = "SELECT annotator, item, answers, first, seconds, at FROM votes"
        with self._connection() as db:
            rows = db.execute(f"{query} ORDER BY annotator, item").fetchall()
        return [Vote(who, item, json.loads(answers), *rest) for who, item, answers, *rest in rows]

    def add_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        """Store a model's verdicts in one transaction; one that is there is replaced."""
        rows = [(v.judge, v.item, v.ask, v.first, v.answer, v.reply) for v in verdicts]
        with self._connection() as db:
            db.executemany("INSERT OR REPLACE INTO verdicts VALUES (?, ?, ?, ?, ?, ?)", rows)

    def verdicts(self) -> list[Verdict]:
        """All verdicts of models."""
        query = "SELECT judge, item, ask, first, answer, reply FROM verdicts"
        with self._connection() as db:
            return [Verdict(*row) for row in db.execute(f"{query} ORDER BY 1, 2, 3, 4")]

    def sign(self, *parts: object) -> str:
        """What only this study's server can write for these parts."""
        text = json.dumps(parts).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()

    def signed(self, signature: str, *parts: object) -> bool:
        """Whether `sign` wrote the signature for these parts."""
        return hmac.compare_digest(signature.encode(), self.sign(*parts).encode())

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """One transaction, committed at the end. Failures of the disk are `UserError`s."""
        try:
            with closing(sqlite3.connect(self.path, timeout=_LOCK_TIMEOUT)) as db, db:
                db.execute("PRAGMA synchronous=FULL")  # a vote survives a power cut too
                db.execute("PRAGMA foreign_keys=ON")
                yield db
        except sqlite3.Error as error:
            raise UserError(
                f"{self.path}: the votes cannot be read or stored ({error}); free or repair the "
                "disk. All acknowledged votes are kept"
            ) from error


def _hash(token: str) -> bytes:
    """A token has 192 random bits, so that a plain hash cannot be reversed by guessing."""
    return hashlib.sha256(token.encode()).digest()
