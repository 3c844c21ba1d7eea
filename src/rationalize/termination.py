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
        self.agreed = False
        """Whether several processes end at the same place."""


@dataclass
class _State:
    arrived: bool = False
    """A second SIGTERM changes nothing: the first one is being answered."""
    agreed: bool = False
    """Whether several processes have agreed to end."""
    together: bool = False
    """Whether this is one of several processes, which end at the same place."""
    blocks: int = 0
    """Blocks that are to end first."""


_state = _State()


def heed_sigterm(*, together: bool = False) -> None:
    """From now on SIGTERM raises `Terminated`; in one of several processes, which are to end
    `together`, where they meet next. For the main thread of a program.
    """
    _state.together = together
    signal.signal(signal.SIGTERM, _on_signal)


def arrived() -> bool:
    """Whether a SIGTERM has arrived that nothing has answered so far."""
    return _state.arrived and not _state.agreed


def end_now(*, agreed: bool) -> None:
    """Raise `Terminated` since one of several processes has got a SIGTERM; once, so that what is
    done on the way out can meet again. `agreed`: it is raised in all of them here.
    """
    if not _state.agreed:
        _state.arrived = _state.agreed = True
        stop = Terminated()
        stop.agreed = agreed
        raise stop


def _on_signal(*_: object) -> None:
    first, _state.arrived = not _state.arrived, True
    if first and not _state.blocks and not _state.together:
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
    if _state.arrived and not before and not _state.blocks and not _state.together:
        raise Terminated
