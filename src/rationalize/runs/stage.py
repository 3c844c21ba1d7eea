"""A stage: a named part of a run that is stored when it ends and left out when it is done.

    stage = Stage(run, "mario")
    facts = stage.policy(policy, learn)            # learn() once; afterwards its weights are loaded
    attempts = stage.attempts("round0", write)     # write() once; afterwards they are read back
    rows = stage.facts("obedience/mario-12", measure)

A second start calls the same lines and goes on where the first was killed. A stage with a `source`,
the same stage of another run, takes from there what that run has stored. Where several processes
work on the run, all call the same lines, the first one stores, and what it has stored counts.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rationalize.files import link_or_copy, sync_folder
from rationalize.processes import by_first, wait_for
from rationalize.records import Attempt
from rationalize.runs.run import Run
from rationalize.runs.shards import forget, kept_in

Value = TypeVar("Value")


_before_parts: ContextVar[Callable[[], Any] | None] = ContextVar("before_parts", default=None)


@contextmanager
def before_parts(prepare: Callable[[], Any]) -> Iterator[None]:
    """Within it, `prepare` is called in every process before a part is made: in one that finds
    nothing left to do of it too.
    """
    token = _before_parts.set(prepare)
    try:
        yield
    finally:
        _before_parts.reset(token)


class Weights(Protocol):
    """What has weights to store: a policy, or one of several writers over a base."""

    def save(self, folder: Path) -> None:
        """Write the weights to a folder."""

    def load_weights(self, folder: Path) -> None:
        """Take over the weights that `save` wrote."""


def _made(make: Callable[[], Value]) -> Value:
    if prepare := _before_parts.get():
        prepare()
    return make()


@dataclass(frozen=True)
class Stage:
    """A named part of a run."""

    run: Run
    name: str
    kind: str = "policies"
    """Folder of the run that holds the weights of stages of this kind."""
    source: Stage | None = None
    """The same stage of another run, whose results are taken over."""

    @property
    def folder(self) -> Path:
        """Where the stage's weights are."""
        return self.run.path / self.kind / self.name

    @property
    def done(self) -> dict[str, Any] | None:
        """The facts that the stage ended with, or None before its end."""
        return self.run.done(self.name)

    def sub(self, name: str) -> Stage:
        """A stage inside this one: `mario` and `round0` make `mario-round0`."""
        source = self.source.sub(name) if self.source else None
        return replace(self, name=f"{self.name}-{name}", source=source)

    def once(self, make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
        """The facts that `make` returned when it was called, now or by an earlier start."""
        if self.done is None:
            with self.run.timed(self.name):
                facts = make()
            self.run.finish(self.name, **facts)
        by_first(self._forget_checkpoints)
        return self.done or {}

    def policy(
        self, policy: Weights, learn: Callable[[], Mapping[str, Any] | None]
    ) -> dict[str, Any]:
        """Leave the stage's weights in `policy`: learned in place by `learn`, or loaded.

        Returns the facts that `learn` returned.
        """
        if self.done is None:
            self._take_over_weights()
        if self.done is not None:
            policy.load_weights(self.folder)
            return self.once(dict)

        def make() -> Mapping[str, Any]:
            facts = learn() or {}
            # never written into a linked file
            by_first(lambda: shutil.rmtree(self.folder, ignore_errors=True))
            policy.save(self.run.folder(self.kind, self.name))
            by_first(lambda: sync_folder(self.folder))
            return facts

        return self.once(make)

    def attempts(self, part: str, write: Callable[[], Sequence[Attempt]]) -> list[Attempt]:
        """The attempts of a part of the stage: written and stored, or read back."""
        shard = f"{self.name}-{part}"
        unfinished = self.run.unfinished(shard)
        if not self.run.has_shard(shard):
            known = self.source.stored(part) if self.source else None
            with self.run.timed(shard), kept_in(unfinished):
                attempts = _made(write) if known is None else known
            self.run.append(attempts, shard)
        forget(unfinished)
        return self.run.read_shard(shard)

    def read(self, part: str) -> list[Attempt]:
        """The attempts of a part that was written. Raises KeyError if it was not."""
        return self.run.read_shard(f"{self.name}-{part}")

    def stored(self, part: str) -> list[Attempt] | None:
        """The attempts of a part if they have been written."""
        shard = f"{self.name}-{part}"
        return self.run.read_shard(shard) if self.run.has_shard(shard) else None

    def facts(self, file: str, measure: Callable[[], Value]) -> Value:
        """What `measure` returned, as JSON holds it, stored in `file`.json of the run."""
        name, unfinished = f"{file}.json", self.run.unfinished(file)
        if self.run.read_json(name) is None:
            known = self.source.run.read_json(name) if self.source else None
            with self.run.timed(file), kept_in(unfinished):
                value = _made(measure) if known is None else known
            self.run.write_json(name, value)
        forget(unfinished)
        return self.run.read_json(name)

    def log(self, section: str, step: int, rows: Sequence[Mapping[str, Any]]) -> None:
        """Log rows under `stage/section`, in the place of those of this step and later ones."""
        name = f"{self.name}/{section}"
        self.run.rewind(name, step)
        for row in rows:
            self.run.log(name, **{"step": step, **row})

    def metrics(self, section: str = "") -> list[dict[str, Any]]:
        """What was logged by the training loop, or under a section."""
        return self.run.metrics(f"{self.name}/{section}" if section else self.name)

    def _take_over_weights(self) -> None:
        """Link the source's weights, if it has finished the stage."""
        facts = self.source.done if self.source else None
        if self.source is None or facts is None:
            return
        by_first(partial(self._link, self.source.folder))
        wait_for(self.folder)
        self.run.finish(self.name, **facts)

    def _link(self, folder: Path) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, self.folder, copy_function=link_or_copy)

    def _forget_checkpoints(self) -> None:
        """Delete what only a resume within the stage needs."""
        place = self.run.path / "checkpoints"
        for end in ("", ".old", ".new"):
            shutil.rmtree(place / f"{self.name}{end}", ignore_errors=True)
        for end in ("json", "safetensors"):
            (place / f"{self.name}-best.{end}").unlink(missing_ok=True)
        if place.is_dir() and not any(place.iterdir()):
            place.rmdir()
