"""Mirrors of `metrics.jsonl` for people who watch runs with a tracker.

The file is the source and the tracker a copy: nothing is read back from it, and it may be absent at
the next start. A resumed run goes on in the same tracker's run; the steps since its last checkpoint
are sent again, with the same values.
"""

from __future__ import annotations

import copy
import importlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rationalize.errors import UserError
from rationalize.files import write_text
from rationalize.progress import say

Tracker = Literal["tensorboard", "wandb", "trackio"]
Send = Callable[[str, int, Mapping[str, float]], None]
"""`send(stage, step, values)`; the keys of `values` begin with the stage."""

FOLDER = "trackers"
"""Folder of a run for what trackers leave there."""
_PROJECT = "rationalize"


class Mirror:
    """Sends what a run logs to one tracker."""

    def __init__(self, tracker: Tracker, path: Path, config: Mapping[str, Any]) -> None:
        folder = path / FOLDER
        folder.mkdir(exist_ok=True)
        self._within = ""
        self._send, self._end, where = _TRACKERS[tracker](path.name, folder, config)
        say(f"{tracker}: mirrors {path / 'metrics.jsonl'} {where}")

    def nested(self, name: str) -> Mirror:
        """For a run inside this one: the same tracker, with stages of their own."""
        inner = copy.copy(self)
        inner._within = f"{self._within}{name}/"
        return inner

    def log(self, stage: str, step: int, metrics: Mapping[str, Any]) -> None:
        """Send a line's numbers under `stage/metric`; where a line is about one reward, split or
        bin, under `stage/that/metric`.
        """
        stage = self._within + stage
        labels = [str(v) for k, v in metrics.items() if isinstance(v, str) or k in _LABELS]
        prefix = "/".join([stage, *labels])
        numbers = {k: v for k, v in metrics.items() if not isinstance(v, str) and k not in _LABELS}
        self._send(stage, step, dict(_flat(prefix, numbers)))

    def close(self) -> None:
        """Wait until everything is sent."""
        self._end()


def _flat(place: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number inside a value, under its place: `auc/mean`, `counts/0`."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flat(f"{place}/{name}", inner)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from _flat(f"{place}/{i}", inner)
    elif isinstance(value, int | float):
        yield place, float(value)


_LABELS = ("bin", "seed")
"""Numbers that say what a line is about."""


def check_tracker(tracker: str | None) -> None:
    """Raise `UserError` where the tracker's package is not installed."""
    if tracker is not None and find_spec(tracker) is None:
        raise UserError(
            f"--track {tracker}: the package {tracker} is not installed; install it (pip install "
            f"{tracker}, or the extra rationalize[track]) or leave --track out: metrics.jsonl "
            "holds every number"
        )


def _tensorboard(name: str, folder: Path, config: Mapping[str, Any]) -> tuple[Send, Any, str]:
    from torch.utils.tensorboard import SummaryWriter

    place = folder / "tensorboard"
    writer = SummaryWriter(str(place), flush_secs=10)

    def send(stage: str, step: int, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return send, writer.close, f"(tensorboard --logdir {place})"


def _wandb(name: str, folder: Path, config: Mapping[str, Any]) -> tuple[Send, Any, str]:
    wandb = importlib.import_module("wandb")
    id = _id(folder)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", _PROJECT), name=name, id=id, resume="allow",
        dir=str(folder), config=dict(config), settings=wandb.Settings(silent=True),
    )  # fmt: skip
    stages: set[str] = set()

    def send(stage: str, step: int, values: Mapping[str, float]) -> None:
        # every stage counts its own steps, and wandb's only ever rise
        if stage not in stages:
            run.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
            stages.add(stage)
        run.log({**values, f"{stage}/step": step})

    return send, run.finish, f"as the run {id}"


def _trackio(name: str, folder: Path, config: Mapping[str, Any]) -> tuple[Send, Any, str]:
    trackio = importlib.import_module("trackio")
    title = f"{name}-{_id(folder)}"
    run = trackio.init(
        project=_PROJECT, name=title, config=dict(config), resume="allow", embed=False
    )

    def send(stage: str, step: int, values: Mapping[str, float]) -> None:
        run.log(dict(values), step=step)

    return send, run.finish, f"as the run {title} (trackio show --project {_PROJECT})"


def _id(folder: Path) -> str:
    """What the tracker calls this run, the same at every start."""
    file = folder / "id"
    if not file.exists():
        write_text(file, uuid.uuid4().hex[:8])
    return file.read_text()


_TRACKERS = {"tensorboard": _tensorboard, "wandb": _wandb, "trackio": _trackio}
