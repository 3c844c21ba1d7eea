"""Several processes that do the same work side by side, as a launcher starts and ends them."""

from __future__ import annotations

import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from rationalize.processes import ProcessLost, leave
from rationalize.progress import hushed
from rationalize.termination import STATUS, Terminated, heed_sigterm

LIMIT = 120.0
"""Seconds after which processes hang."""


def launch(
    work: Callable[[int], Any], said: Path, *, size: int = 2, kill: tuple[int, float] | None = None,
    by: int = signal.SIGKILL,
) -> list[int]:  # fmt: skip
    """Call `work(rank)` in forked processes that find each other; returns their exit statuses.

    `kill`: a rank and after how many seconds it gets a signal; `by` SIGTERM all get it. As
    torchrun does, the end of one by an error ends the others. What a process raises is in a file of
    the folder `said`.
    """
    places, children = environments(size), []
    for rank in range(size):
        child = os.fork()
        if child == 0:
            os.environ |= places[rank]
            _work(work, rank, said)
        children.append(child)
    return _watch(children, kill, by)


def environments(size: int) -> list[dict[str, str]]:
    """What a launcher puts into each process's environment."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    return [
        {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), **meeting}
        for rank in range(size)
    ]


def _work(work: Callable[[int], Any], rank: int, said: Path) -> None:
    heed_sigterm(together=True)
    said.mkdir(exist_ok=True)
    with open(said / f"output{rank}", "a") as out, redirect_stdout(out), redirect_stderr(out):
        status = _status_of(work, rank)
    os._exit(status)


def _status_of(work: Callable[[int], Any], rank: int) -> int:
    try:
        with hushed():
            work(rank)
        leave()
    except Terminated:
        return STATUS
    except ProcessLost:
        return 3
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _watch(children: list[int], kill: tuple[int, float] | None, by: int) -> list[int]:
    started = time.monotonic()
    statuses: dict[int, int] = {}
    ended = 0.0  # when the others were told to end
    while len(statuses) < len(children):
        passed = time.monotonic() - started
        if kill and passed > kill[1]:
            chosen = children if by == signal.SIGTERM else [children[kill[0]]]
            for child in set(chosen) - set(statuses):
                os.kill(child, by)
            kill = None
        for child in set(children) - set(statuses):
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                statuses[child] = os.waitstatus_to_exitcode(status)
        left = set(children) - set(statuses)
        if not ended and any(statuses.values()):
            ended = passed
            for child in left:
                os.kill(child, signal.SIGTERM)
        if passed > LIMIT or (ended and passed > ended + 30):
            for child in left:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.005)
    return [statuses[child] for child in children]
