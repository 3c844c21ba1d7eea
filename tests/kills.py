"""Runs in child processes that are killed at a write; every file of a run, to compare."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from rationalize.termination import STATUS, Terminated, heed_sigterm

EXCEPTIONS = {
    "times.jsonl": "a clock: not compared",
    "lock": "the number of the process that wrote last: not compared",
    "stages.json": "`seconds`, a clock: left out",
    "results.json": "`meta.seconds`, a clock: left out",
    "scores.sqlite": "a cache, whose pages lie as they were written: its rows are compared",
}
"""Files that differ by nature, and what is compared of them; of all others every byte is."""

_WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}
_WRITING = os.O_WRONLY | os.O_RDWR


def killed_at(
    write: int | None, folder: Path, work: Callable[[], Any], by: int = signal.SIGKILL
) -> int | None:
    """Do the work in a child that gets a signal just before its n-th write to the folder (from 0),
    or never.

    Returns None if that ended it, else how many writes it made. A failure is an AssertionError.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _work_until_killed(write, str(folder), work, by, writer)
    os.close(writer)
    with os.fdopen(reader) as stream:
        said = stream.read()
    _, status = os.waitpid(child, 0)
    if os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, STATUS):
        return None
    assert os.WIFEXITED(status), f"ended by signal {os.WTERMSIG(status)}"
    assert os.WEXITSTATUS(status) == 0, said
    return int(said)


def _work_until_killed(
    write: int | None, folder: str, work: Callable[[], Any], by: int, out: int
) -> None:
    """In the child: work, count writes, and leave without the parent's clean-up."""
    count = 0

    def audit(event: str, args: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in _WRITES or not str(args[0]).startswith(folder):
            return
        if event == "open" and not args[2] & _WRITING:
            return
        count += 1
        if count - 1 == write:
            os.kill(os.getpid(), by)

    heed_sigterm()
    sys.addaudithook(audit)
    try:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1), os.dup2(quiet, 2)
        work()
        os.write(out, str(count).encode())
        os._exit(0)
    except Terminated:
        os._exit(STATUS)
    except BaseException:
        import traceback

        os.write(out, traceback.format_exc().encode())
        os._exit(1)


def contents(folder: Path) -> dict[str, Any]:
    """Every file of a run, by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _as_compared(path) for path in files}


def _as_compared(path: Path) -> Any:
    if path.name in ("lock", "times.jsonl"):
        return None
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT * FROM scores ORDER BY key").fetchall()
    if path.name not in EXCEPTIONS:
        return path.read_bytes()
    stored = json.loads(path.read_bytes())
    for facts in stored.values():
        if isinstance(facts, dict):
            facts.pop("seconds", None)
    return json.dumps(stored)
