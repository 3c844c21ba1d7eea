"""SIGTERM, a scheduler's preemption, as an exception: what is learning stores a checkpoint first.

with postponed():  # a block that must not be left half done
    optimizer.step()
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STATUS = 128 + signal.SIGTERM
"""Exit status of a program that SIGTERM has ended: 143."""


class Terminated(BaseException):
    """Raised in the main thread where a SIGTERM arrived; as with Ctrl-C, nothing swallows it."""

    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        """Where it arrived, from the inside to the outside; filled in on the way up."""


@dataclass
class _State:
    arrived: bool = False
    """A second SIGTERM changes nothing: the first one is being answered."""
    blocks: int = 0
    """Blocks that are to end first."""


_state = _State()


def heed_sigterm() -> None:
    """From now on SIGTERM raises `Terminated`. For the main thread of a program."""
    signal.signal(signal.SIGTERM, _on_signal)


def _on_signal(*_: object) -> None:
    first, _state.arrived = not _state.arrived, True
    if first and not _state.blocks:
        raise Terminated


@contextmanager
def postponed() -> Iterator[None]:
    """Let a block end before a SIGTERM raises."""
    before = _state.arrived
    _state.blocks += 1
    try:
        yield
    finally:
        _state.blocks -= 1
    if _state.arrived and not before and not _state.blocks:
        raise Terminated
