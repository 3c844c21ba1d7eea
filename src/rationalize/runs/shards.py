"""Work on many rows, cut into fixed shards: the unit of a resume within a part of a run, and what
the processes of a launch share out among themselves.

    with kept_in(folder):                        # while the part is being made
        for at, values in by_shards(rows, work, settings=[..]):
            ..                                   # values of rows[at]

The cut does not depend on who works, and `work` sees the rows of one shard alone: the values are
the same for any number of processes. A finished shard is a file in `folder`, which is not written
again; a process takes the next shard that nobody has claimed, and looks for the files of the
others. Without a folder every process does all shards itself.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rationalize.files import write_text
from rationalize.processes import alone, by_first, wait, world
from rationalize.progress import progress_bar

Row = TypeVar("Row")

SHARD = 64
"""Rows of a shard: few, so that processes and resumes lose little, and enough to fill a batch on a
processor. 200 greedy replies of 135M parameters took 1.02 times the seconds of the processor that
one batch of all took (24 tokens, one thread, two runs each).
"""

_LOOK_EVERY = (0.01, 0.5)
"""Seconds between two looks for the files of others: at first, and at most."""


@dataclass(frozen=True)
class Shard:
    """A shard that is made elsewhere."""

    number: int
    rows: Sequence[Any]
    file: Path
    """Where its values are stored."""


Elsewhere = Callable[[Sequence[Shard]], Iterator[tuple[int, list[Any]]]]
"""Makes and stores shards, and returns their numbers and values in any order."""


@dataclass
class _Place:
    folder: Path
    processes: int
    """How many share it: what one of them does alone meanwhile is not kept here."""
    calls: int = 0
    """Calls of `deal` so far. All processes make the same calls in the same order."""


_place: ContextVar[_Place | None] = ContextVar("place", default=None)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """A block whose finished shards are kept in `folder`, for a second start and for the other
    processes of the launch. Whoever stores what the block makes calls `forget`.
    """
    by_first(partial(_let_go, folder))
    token = _place.set(_Place(folder, world().size))
    try:
        yield
    finally:
        _place.reset(token)


def forget(folder: Path) -> None:
    """Delete the shards of a part that is stored, when all processes have read them."""
    by_first(partial(_delete, folder))


def _delete(folder: Path) -> None:
    if folder.is_dir():
        shutil.rmtree(folder)
        with suppress(OSError):  # another part's shards lie beside it
            folder.parent.rmdir()


def _let_go(folder: Path) -> None:
    for claim in folder.glob("*.claim"):  # of a launch that was killed
        claim.unlink(missing_ok=True)


def deal(
    shards: Iterable[tuple[int, Sequence[Row]]], work: Callable[[Sequence[Row]], list[Any]], *,
    settings: Any, elsewhere: Elsewhere | None = None,
) -> Iterator[tuple[int, list[Any]]]:  # fmt: skip
    """Each shard's number and values: those that can be had at once in the order given, then those
    that others make.

    `work` returns a value per row, in JSON's types (a tuple comes back as a list). Rows and
    `settings`, plain values too, say all that the values depend on, beside what is the same in
    every start of the part (weights). `elsewhere` makes what lacks in the place of this process.
    """
    place, me = _place.get(), world()
    if place is None or place.processes != me.size:
        for n, rows in shards:
            yield n, work(rows)
        return
    call = place.calls
    place.calls += 1
    lacking: list[tuple[int, Path]] = []
    sent: list[Shard] = []
    for n, rows in shards:
        file = place.folder / f"{call:04d}-{n:06d}-{_digest([settings, rows])}.json"
        values = read(file)
        if values is None and elsewhere:
            sent.append(Shard(n, rows, file))
        elif values is None and (me.alone or _claim(file)):
            values = _made(work, rows, file)
        elif values is None:
            lacking.append((n, file))
        if values is not None:
            yield n, values
    if elsewhere and sent:
        yield from elsewhere(sent)
    pause, longest = _LOOK_EVERY
    while lacking:
        there = [(n, file) for n, file in lacking if file.exists()]
        for n, file in there:
            lacking.remove((n, file))
            yield n, read(file) or []
        if not there:
            wait(pause)
            pause = min(2 * pause, longest)


def by_shards(
    rows: Sequence[Row], work: Callable[[Sequence[Row]], list[Any]], *, settings: Any,
    size: int = SHARD, elsewhere: Elsewhere | None = None,
) -> Iterator[tuple[slice, list[Any]]]:  # fmt: skip
    """Where each shard of the rows lies among them, and its values (see `deal`)."""
    cut = [slice(at, min(at + size, len(rows))) for at in range(0, len(rows), size)]
    shards = ((n, rows[at]) for n, at in enumerate(cut))
    for n, values in deal(shards, work, settings=settings, elsewhere=elsewhere):
        yield cut[n], values


def in_shards(
    rows: Sequence[Row], work: Callable[[Sequence[Row]], list[Any]], *, settings: Any,
    size: int = SHARD, label: str = "rows",
) -> list[Any]:  # fmt: skip
    """The values of all rows, in their order; `label`: what is told where that takes long."""
    found: list[Any] = [None] * len(rows)
    done = 0
    with progress_bar(label, "texts", if_long=True) as progress:
        for at, values in by_shards(rows, work, settings=settings, size=size):
            found[at] = values
            done += len(values)
            progress(done, len(rows), 0)
    return found


def store(file: Path, values: list[Any]) -> None:
    """Store the values of a shard."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(values))


def read(file: Path) -> list[Any] | None:
    """The values of a shard, None while they are not stored."""
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None


def _made(work: Callable[[Sequence[Row]], list[Any]], rows: Sequence[Row], file: Path) -> list[Any]:
    """The values of a shard, stored."""
    token = _place.set(None)  # what is called in here is this process's own affair
    try:
        with alone():
            values = work(rows)
    finally:
        _place.reset(token)
    store(file, values)
    return values


def _claim(file: Path) -> bool:
    """Whether this process is the first to claim a shard."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(file.with_suffix(".claim"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, default=repr).encode(), digest_size=8).hexdigest()
