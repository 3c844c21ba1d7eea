"""Checkpoints of a stage that is learning: weights, optimiser moments and the step.

Two are kept. A power cut or a full disk can cut the newest one; then the older one is used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rationalize.files import sync_folder
from rationalize.processes import by_first, wait_for

log = logging.getLogger(__name__)

_STATE, _STEP = "state.safetensors", "step.json"
WRITE_SECONDS = 1.2
"""Seconds of writing that the interval between two checkpoints is meant for: 1 % of 120."""
_BYTES_PER_SECOND = 5e8  # how fast a disk is taken to be before the first checkpoint


class Schedule:
    """When the next checkpoint is due: after `every` seconds, or in proportion later where a write
    takes longer than `WRITE_SECONDS`, so that a stage does not spend its time on checkpoints.
    """

    def __init__(self, every: float, parameters: dict[str, Tensor]) -> None:
        self._every = every
        # weights and AdamW's two moments
        size = 3 * sum(p.numel() * p.element_size() for p in parameters.values())
        self._started_over(size / _BYTES_PER_SECOND)

    @property
    def due(self) -> bool:
        return time.monotonic() - self._since > self.wait

    def write(self, save: Callable[[], None]) -> None:
        """Save, and count from here, by what that took."""
        began = time.monotonic()
        save()
        self._started_over(time.monotonic() - began)

    def _started_over(self, cost: float) -> None:
        self.wait = self._every * max(1.0, cost / WRITE_SECONDS)
        self._since = time.monotonic()


@dataclass(frozen=True)
class Position:
    """How far a stage has learned."""

    step: int = 0
    """Optimiser steps that were taken."""
    settled: bool = True
    """Whether all that follows a step (an evaluation) has followed the last one."""


def save_checkpoint(
    folder: Path, at: Position, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Write beside, then rename: a kill leaves the checkpoint before this one, or both."""
    fresh = _begun(folder)
    numbers = _numbers(None, parameters, optimizer)
    save_file({key: value.contiguous() for key, value in numbers.items()}, fresh / _STATE)
    _ended(folder, at, bytes=(fresh / _STATE).stat().st_size)


def _begun(folder: Path) -> Path:
    """Where a new checkpoint is written, beside the one that it will take the place of."""
    fresh = _beside(folder, ".new")
    for place in (fresh, _beside(folder, ".old")):
        shutil.rmtree(place, ignore_errors=True)
    fresh.mkdir(parents=True)
    return fresh


def _ended(folder: Path, at: Position, **sizes: Any) -> None:
    """Give a written checkpoint its name."""
    fresh = _beside(folder, ".new")
    (fresh / _STEP).write_text(json.dumps({**asdict(at), **sizes}))
    sync_folder(fresh)  # else a power cut can leave the new name with half of its contents
    if folder.exists():
        os.replace(folder, _beside(folder, ".old"))
    os.replace(fresh, folder)


class Parts(Protocol):
    """Where a process has a part of each weight that learns."""

    def placed(self, name: str, values: Tensor) -> Tensor:
        """This process's numbers of a parameter (weights, moments) with their place in the whole;
        in the same memory.
        """

    def part_of(self, name: str, whole: Tensor) -> Tensor:
        """This process's part of a parameter's numbers."""


def save_parts(
    folder: Path, at: Position, parts: Parts, parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:  # fmt: skip
    """As `save_checkpoint`, by torch's distributed checkpoints: each process writes its part, and
    the first one renames. All must call it.
    """
    fresh = by_first(lambda: _begun(folder))
    with _exchanging() as dcp:
        dcp.save(_numbers(parts, parameters, optimizer), checkpoint_id=fresh)
    by_first(lambda: _ended(folder, at, files={p.name: p.stat().st_size for p in fresh.iterdir()}))


def restore_checkpoint(
    folder: Path, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer,
    parts: Parts | None = None,
) -> Position:  # fmt: skip
    """Load the newest whole checkpoint and delete what is not whole; returns where to go on.

    Parameters are untouched where there is none: the stage begins at step 0. Several processes all
    load what the first one finds to be whole, and each takes its `parts`; one that holds all takes
    what many have stored, and the other way round.
    """
    read: list[tuple[Position, dict[str, Tensor] | None]] = []

    def find() -> bool:
        read.extend(_newest(folder))
        return bool(read)

    if not by_first(find):
        return Position()
    wait_for(folder / _STEP)
    at, tensors = read[0] if read else _read(folder)
    if tensors is None:
        _load_parts(folder, parameters, optimizer, parts)
        return at
    if parts is not None:
        tensors = {key: parts.part_of(key.partition("/")[2], t) for key, t in tensors.items()}
    _load(tensors, parameters, optimizer)
    return at


def _newest(folder: Path) -> list[tuple[Position, dict[str, Tensor] | None]]:
    """The newest whole checkpoint, which then has the plain name; none where there is none."""
    old = _beside(folder, ".old")
    for place, instead in ((folder, "an older checkpoint"), (old, "the start of the stage")):
        if not place.exists():
            continue
        try:
            found = _read(place)
        except (OSError, ValueError, SafetensorError) as error:
            next_best = instead if old.exists() else "the start of the stage"
            log.warning("%s is not whole (%s); going on from %s", place, error, next_best)
            shutil.rmtree(place)
            continue
        if place == old:  # `save_checkpoint` takes what has the plain name for whole
            os.replace(old, folder)
        return [found]
    return []


def _read(folder: Path) -> tuple[Position, dict[str, Tensor] | None]:
    """What `save_checkpoint` wrote, or None for what `save_parts` wrote; raises where that is not
    whole.
    """
    stored = json.loads((folder / _STEP).read_bytes())
    for name, size in stored.pop("files", {_STATE: stored.pop("bytes", None)}).items():
        found = (folder / name).stat().st_size
        if found != (found if size is None else size):  # earlier versions did not store it
            raise ValueError(f"{name} has {found} bytes, another length than was written")
    if not (folder / _STATE).exists():
        return Position(**stored), None
    tensors = load_file(folder / _STATE)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"{_STATE} holds numbers that are not finite")
    return Position(**stored), tensors


def _load_parts(
    folder: Path, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer,
    parts: Parts | None,
) -> None:  # fmt: skip
    with _exchanging() as dcp:
        stored = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    for name, parameter in parameters.items():  # moments to read into
        state: Any = optimizer.state[parameter]
        for key in ("exp_avg", "exp_avg_sq"):
            if f"{key}/{name}" in stored:
                state[key] = torch.zeros_like(parameter)
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
    with _exchanging() as dcp:
        dcp.load(_numbers(parts, parameters, optimizer), checkpoint_id=folder)


def _numbers(
    parts: Parts | None, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """What a checkpoint holds, by name, in the memory where it lies."""
    tensors = {f"weight/{n}": p.detach() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach()
    if parts is None:
        return tensors
    return {key: parts.placed(key.partition("/")[2], t) for key, t in tensors.items()}


@contextmanager
def _exchanging() -> Iterator[Any]:
    """torch's distributed checkpoints, which take seconds to import. What goes wrong in a process
    they wrap in an error that is no `Exception`: it becomes one.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.api import CheckpointException

    try:
        yield dcp
    except CheckpointException as error:
        raise RuntimeError(str(error)) from error


def _load(
    tensors: dict[str, Tensor], parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
    state: dict[Any, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind != "weight":  # the fused AdamW has its count of steps beside its moments
            state.setdefault(parameters[name], {})[kind] = value.to(parameters[name].device)
    optimizer.state.update(state)


def _beside(folder: Path, end: str) -> Path:
    return folder.with_name(folder.name + end)
