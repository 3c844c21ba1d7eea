"""The processes of a launch: `torchrun`, `srun` or `accelerate launch` start several, which run the
same program side by side, and each finds its place here.

All of them go through the same lines with the same settings, so they hold the same weights, the
same attempts and the same state of the run. Two rules keep that so:

    what a run has stored is read by the first process and sent to all
    what is written is written by the first, while all others wait     by_first(write)

Work for one process alone stands in `alone()`. torch is imported where several processes meet.
"""

from __future__ import annotations

import os
import pickle
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rationalize.errors import UsageError, UserError
from rationalize.termination import arrived, end_now

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")

_STARTERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),  # torchrun, accelerate
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),  # srun; a batch script has no step
)

_PATIENCE = timedelta(days=2)
"""How long a process waits for the others: the first one may write or compare for hours. One that
has ended is noticed at once by its closed connection, and its launcher ends the rest.
"""
_VISIBLE = 120.0
"""Seconds until a file of another machine must be seen on a shared file system."""


@dataclass(frozen=True)
class World:
    """This process among those of its launch."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Among those of its machine: which accelerator it takes."""

    @property
    def first(self) -> bool:
        """Whether this process writes metrics, results and pages."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.size == 1


class ProcessLost(UserError):
    """Another process of the launch has ended, and this one cannot go on without it."""

    def __init__(self, why: object) -> None:
        # without the place in the library's code that the message begins with
        first = re.sub(r"^\[\S+\] ", "", str(why).partition("\n")[0]).partition(". ")[0]
        super().__init__(
            "another process of this launch has ended, so this one ends too; that process or the "
            f"launcher tells why ({first}). Start the same command again to go on"
        )


_by_itself: ContextVar[bool] = ContextVar("by_itself", default=False)


def world() -> World:
    """This process's place, as its starter says it. Raises `UsageError` where that is no place."""
    return World() if _by_itself.get() else launched()


def launched() -> World:
    """As `world`, also in what a process does by itself."""
    for names in _STARTERS:
        found = [os.environ.get(name) for name in names]
        if found[0] is None or found[1] is None:
            continue
        try:
            rank, size, local = (int(value or 0) for value in found)
        except ValueError:
            rank, size, local = -1, 0, 0
        if not 0 <= rank < size or local < 0:
            told = ", ".join(f"{n}={v}" for n, v in zip(names, found, strict=True))
            raise UsageError(
                f"{told}: no place among processes; expected 0 <= {names[0]} < {names[1]}"
            )
        return World(rank, size, local)
    return World()


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process acts as if it were the only one: it waits for no other."""
    token = _by_itself.set(True)
    try:
        yield
    finally:
        _by_itself.reset(token)


def by_first(act: Callable[[], Value]) -> Value:
    """What `act` returns in the first process; the others wait meanwhile, and get it too.

    What it raises is raised in all. Every process must come to the same calls in the same order.
    A SIGTERM that any of them has got raises `Terminated` here, in all.
    """
    place = world()
    if place.alone:
        return act()
    meet()
    import torch.distributed as dist

    if not place.first:
        sent: list[Any] = [None]
        with _together():
            dist.broadcast_object_list(sent, src=0)
        received, told = sent[0]
        if told is not None:
            raise told
        return received
    try:
        with alone():
            value = act()
    except Exception as error:
        with _together():
            dist.broadcast_object_list([(None, _sendable(error))], src=0)
        raise
    with _together():
        dist.broadcast_object_list([(value, None)], src=0)
    return value


def _sendable(error: Exception) -> Exception:
    """The error, or its text in one that can be sent as a pickle."""
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return (UserError if isinstance(error, UserError) else RuntimeError)(str(error))


def gather(value: Value) -> list[Value]:
    """Every process's value, by rank. All must call it; values travel as pickles."""
    place = world()
    if place.alone:
        return [value]
    join()
    import torch.distributed as dist

    values: list[Any] = [None] * place.size
    with _together():
        dist.all_gather_object(values, value)
    return values


def meet() -> None:
    """Wait until all processes are here; raise `Terminated` in all if any has got a SIGTERM."""
    if not world().alone and any(gather(arrived())):
        end_now(agreed=True)


def add_up(tensors: list[Tensor]) -> None:
    """Replace each tensor by its sum over all processes, in place."""
    if world().alone or not tensors:
        return
    join()
    import torch
    import torch.distributed as dist

    by_kind: dict[Any, list[Tensor]] = {}
    for tensor in tensors:
        by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    for part in (part for of_kind in by_kind.values() for part in _in_parts(of_kind)):
        flat = torch.cat([tensor.reshape(-1) for tensor in part])
        with _together():
            dist.all_reduce(flat)
        for tensor, summed in zip(part, flat.split([t.numel() for t in part]), strict=True):
            tensor.copy_(summed.view_as(tensor))


_PART = 2**26  # elements that are sent at once: a copy of all gradients would not fit beside them


def _in_parts(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    part: list[Tensor] = []
    for tensor in tensors:
        if part and sum(t.numel() for t in part) + tensor.numel() > _PART:
            yield part
            part = []
        part.append(tensor)
    yield part


def wait(seconds: float) -> None:
    """Leave others time for what this process needs. Raises `Terminated` where a SIGTERM has
    arrived: they have got one too.
    """
    if arrived():
        end_now(agreed=False)
    time.sleep(seconds)


def wait_for(path: Path) -> None:
    """Wait until this process sees what the first one has written; `UserError` if it never does."""
    place = world()
    if place.first:
        return
    started, pause = time.monotonic(), 0.005
    while not path.exists():
        if time.monotonic() - started > _VISIBLE:
            raise UserError(
                f"{path}: the first of {place.size} processes has written it, and process "
                f"{place.rank} does not see it; expected a folder that all machines of the launch "
                "share"
            )
        wait(pause)
        pause = min(2 * pause, 1.0)


def join() -> None:
    """Join the processes of the launch, and take the accelerator of this one's place.

    Raises `UsageError` where the launcher does not say how the others are found.
    """
    import torch
    import torch.distributed as dist

    place = launched()
    if place.alone or dist.is_initialized():
        return
    if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in os.environ]:
        raise UsageError(
            f"process {place.rank} of {place.size} finds no {' and '.join(missing)} in its "
            "environment, by which the processes find each other; start them with torchrun, or set "
            "both in the batch script (docs/scale.md)"
        )
    backend, there = "gloo", torch.cuda.device_count()
    if there:
        if place.local_rank >= there > 1:
            raise UsageError(
                f"process {place.local_rank} of its machine finds {there} accelerators; expected "
                "one for each process: start as many processes as there are accelerators"
            )
        torch.cuda.set_device(place.local_rank if there > 1 else 0)
        backend = "cpu:gloo,cuda:nccl"
    with _together():
        dist.init_process_group(backend, timeout=_PATIENCE, rank=place.rank, world_size=place.size)


def leave() -> None:
    """End the group that `join` has joined, if any."""
    import sys

    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_available() and dist.is_initialized():
            dist.destroy_process_group()


_OF_LOST = ("gloo/transport", "closed by peer", "reset by peer", "NCCL", "ncclRemoteError")
"""What is in the message of an error of torch's own where another process has ended."""


@contextmanager
def noticing_lost() -> Iterator[None]:
    """Around what exchanges by torch's own means: raises `ProcessLost` where another process has
    ended.
    """
    try:
        yield
    except RuntimeError as error:
        if any(word in str(error) for word in _OF_LOST):
            raise ProcessLost(error) from error
        raise


@contextmanager
def _together() -> Iterator[None]:
    """Around what all processes do together: an error there means that one is gone."""
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(error) from error
