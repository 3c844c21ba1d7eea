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
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from rationalize.files import plain, write_text
from rationalize.processes import world

Row = TypeVar("Row")

SHARD = 64
"""Rows of a shard: few, so that processes and resumes lose little, and enough to fill a batch on a
processor. 200 greedy replies of 135M parameters took 1.02 times the seconds of the processor that
one batch of all took (24 tokens, one thread, two runs each).
"""

_LOOK_EVERY = (0.01, 0.5)
"""Seconds between two looks for the files of others: at first, and at most."""


@dataclass
class _Place:
    folder: Path
    calls: int = 0
    """Calls of `by_shards` so far. All processes make the same calls in the same order."""


_place: ContextVar[_Place | None] = ContextVar("place", default=None)


@contextmanager
def kept_in(folder: Path) -> Iterator[None]:
    """A block whose finished shards are kept in `folder`, for a second start and for the other
    processes of the launch. Whoever stores what the block makes calls `forget`.
    """
    if world().first:
        for claim in folder.glob("*.claim"):  # of a launch that was killed
            claim.unlink(missing_ok=True)
    token = _place.set(_Place(folder))
    try:
        yield
    finally:
        _place.reset(token)


def forget(folder: Path) -> None:
    """Delete the shards of a part that is stored."""
    if world().first and folder.is_dir():
        shutil.rmtree(folder)
        with suppress(OSError):  # another part's shards lie beside it
            folder.parent.rmdir()


def by_shards(
    rows: Sequence[Row], work: Callable[[Sequence[Row]], list[Any]], *, settings: Any,
    size: int = SHARD,
) -> Iterator[tuple[slice, list[Any]]]:  # fmt: skip
    """Where each shard lies among the rows, and its values, in any order of the shards.

    `work` returns a value per row, in JSON's types (a tuple comes back as a list). Rows and
    `settings`, plain values too, say all that the values depend on, beside what is the same in
    every start of the part (weights).
    """
    shards = [slice(at, min(at + size, len(rows))) for at in range(0, len(rows), size)]
    place = _place.get()
    if place is None:
        for shard in shards:
            yield shard, work(rows[shard])
        return
    me, call = world(), place.calls
    place.calls += 1
    files = [
        place.folder / f"{call:04d}-{n:06d}-{_digest([settings, rows[shard]])}.json"
        for n, shard in enumerate(shards)
    ]
    # first its own, then from the end what the others have not come to
    own = range(me.rank, len(shards), me.size)
    lacking = [*own, *(n for n in reversed(range(len(shards))) if n not in own)]
    pause, longest = _LOOK_EVERY
    while lacking:
        found = False
        for n in tuple(lacking):
            values = _read(files[n])
            if values is None and (me.alone or _claim(files[n])):
                values = _made(work, rows[shards[n]], files[n])
            if values is not None:
                lacking.remove(n)
                found = True
                yield shards[n], values
        if lacking and not found:
            time.sleep(pause)
            pause = min(2 * pause, longest)


def in_shards(
    rows: Sequence[Row], work: Callable[[Sequence[Row]], list[Any]], *, settings: Any,
    size: int = SHARD,
) -> list[Any]:  # fmt: skip
    """The values of all rows, in their order (see `by_shards`)."""
    parts = sorted(
        (at.start, values) for at, values in by_shards(rows, work, settings=settings, size=size)
    )
    return [value for _, values in parts for value in values]


def _made(work: Callable[[Sequence[Row]], list[Any]], rows: Sequence[Row], file: Path) -> list[Any]:
    """The values of a shard, stored."""
    token = _place.set(None)  # what is called in here is this process's own affair
    try:
        values = work(rows)
    finally:
        _place.reset(token)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(values))
    return values


def _claim(file: Path) -> bool:
    """Whether this process is the first to claim a shard."""
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.close(os.open(file.with_suffix(".claim"), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _read(file: Path) -> list[Any] | None:
    try:
        return json.loads(file.read_bytes())
    except FileNotFoundError:
        return None


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(plain(value)).encode(), digest_size=8).hexdigest()
