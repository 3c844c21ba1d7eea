"""Checkpoints of a stage that is learning: weights, optimiser moments and the step.

Two are kept. A power cut or a full disk can cut the newest one; then the older one is used.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

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
    fresh, old = _beside(folder, ".new"), _beside(folder, ".old")
    for place in (fresh, old):
        shutil.rmtree(place, ignore_errors=True)
    fresh.mkdir(parents=True)
    tensors = {f"weight/{n}": p.detach().contiguous() for n, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = value.detach().contiguous()
    save_file(tensors, fresh / _STATE)
    written = {**asdict(at), "bytes": (fresh / _STATE).stat().st_size}
    (fresh / _STEP).write_text(json.dumps(written))
    sync_folder(fresh)  # else a power cut can leave the new name with half of its contents
    if folder.exists():
        os.replace(folder, old)
    os.replace(fresh, folder)


def restore_checkpoint(
    folder: Path, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> Position:
    """Load the newest whole checkpoint and delete what is not whole; returns where to go on.

    Parameters are untouched where there is none: the stage begins at step 0. Several processes all
    load what the first one finds to be whole.
    """
    read: list[tuple[Position, dict[str, Tensor]]] = []

    def find() -> bool:
        read.extend(_newest(folder))
        return bool(read)

    if not by_first(find):
        return Position()
    wait_for(folder / _STEP)
    at, tensors = read[0] if read else _read(folder)
    _load(tensors, parameters, optimizer)
    return at


def _newest(folder: Path) -> list[tuple[Position, dict[str, Tensor]]]:
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


Placed = Callable[[str, Tensor], Tensor]
"""A parameter's numbers (weights, moments) in this process, with their place in the whole."""


def save_parts(
    folder: Path, at: Position, placed: Placed, parameters: dict[str, Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:  # fmt: skip
    """As `save_checkpoint`, by torch's distributed checkpoints: each process writes its part, and
    the first one renames. All must call it.
    """
    import torch.distributed.checkpoint as dcp

    fresh, old = _beside(folder, ".new"), _beside(folder, ".old")

    def begin() -> None:
        for place in (fresh, old):
            shutil.rmtree(place, ignore_errors=True)
        fresh.mkdir(parents=True)

    def end() -> None:
        sizes = {p.name: p.stat().st_size for p in fresh.iterdir()}
        (fresh / _STEP).write_text(json.dumps({**asdict(at), "files": sizes}))
        sync_folder(fresh)
        if folder.exists():
            os.replace(folder, old)
        os.replace(fresh, folder)

    by_first(begin)
    dcp.save(_parts(placed, parameters, optimizer), checkpoint_id=fresh)
    by_first(end)


def restore_parts(
    folder: Path, placed: Placed, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> Position:
    """As `restore_checkpoint`, what `save_parts` wrote; also by another number of processes."""
    import torch.distributed.checkpoint as dcp

    stored = by_first(lambda: _newest_parts(folder))
    if stored is None:
        return Position()
    wait_for(folder / _STEP)
    for parameter in parameters.values():  # moments to read into
        state: Any = optimizer.state[parameter]
        state |= {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
    dcp.load(_parts(placed, parameters, optimizer), checkpoint_id=folder)
    return Position(**stored)


def _parts(
    placed: Placed, parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """What a checkpoint holds, by name, in the memory where it lies."""
    tensors = {f"weight/{n}": placed(n, p.detach()) for n, p in parameters.items()}
    for name, parameter in parameters.items():
        for key, value in optimizer.state[parameter].items():
            tensors[f"{key}/{name}"] = placed(name, value)
    return tensors


def _newest_parts(folder: Path) -> dict[str, Any] | None:
    """Where the newest whole checkpoint stands, which then has the plain name."""
    old = _beside(folder, ".old")
    for place in (folder, old):
        if not place.exists():
            continue
        try:
            stored = json.loads((place / _STEP).read_bytes())
            cut = [
                n for n, size in stored.pop("files").items() if (place / n).stat().st_size != size
            ]
            if cut:
                raise ValueError(f"{cut[0]} has another length than was written")
        except (OSError, ValueError, KeyError) as error:
            log.warning("%s is not whole (%s); going on from an older one", place, error)
            shutil.rmtree(place)
            continue
        if place == old:
            os.replace(old, folder)
        return stored
    return None


def _read(folder: Path) -> tuple[Position, dict[str, Tensor]]:
    """What `save_checkpoint` wrote; raises where that is not whole."""
    stored = json.loads((folder / _STEP).read_bytes())
    size = (folder / _STATE).stat().st_size
    if size != stored.pop("bytes", size):  # earlier versions did not store it
        raise ValueError(f"{_STATE} has {size} bytes, another length than was written")
    tensors = load_file(folder / _STATE)
    if not all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        raise ValueError(f"{_STATE} holds numbers that are not finite")
    return Position(**stored), tensors


def _load(
    tensors: dict[str, Tensor], parameters: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
    state: dict[Any, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, name = key.partition("/")
        if kind != "weight":
            state.setdefault(parameters[name], {})[kind] = value
    optimizer.state.update(state)


def _beside(folder: Path, end: str) -> Path:
    return folder.with_name(folder.name + end)
