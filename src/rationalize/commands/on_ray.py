"""`--executor ray`: shards are made by actors on a Ray cluster, each of which holds what makes them
(a model that writes, rewards with their scorers). Needs the extra `ray`.

The work is Ray Data's `map_batches` over the shards that lack: as many actors as the cluster has
room for, shards handed out as they are asked for, and made again on another node where one dies.
An actor stores a shard itself where it sees the folder, and this process does where none has. Ray
is imported where an executor is opened.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rationalize.config.checks import at_least
from rationalize.errors import UsageError, UserError
from rationalize.processes import world
from rationalize.runs.shards import Shard, read, store

Make = Callable[[Any, Sequence[Any]], list[Any]]
"""The values of a shard's rows under an order: what all shards of one call are told."""


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """Where the work of a command is done: settings of every command that can leave it to Ray."""

    executor: Literal["here", "ray"] = "here"
    """`here`: in this process, or the processes of a launch; `ray`: by actors of a Ray cluster, one
    for each accelerator, or for `actor_cpus` where it has none. Needs the extra `ray`.
    """
    address: str | None = None
    """Address of the Ray cluster; `auto`: the one that this machine is in; none: one that is
    started on this machine and ends with the command.
    """
    actor_cpus: int = 1
    """Processor cores of an actor."""


def check_executor(settings: ExecutorSettings, server: str | None = None) -> None:
    """Raise `UsageError` for settings of an executor that are not there, or do not go together."""
    at_least(settings, 1, "actor_cpus")
    if settings.executor == "here":
        if settings.address is not None:
            raise UsageError("--address names a Ray cluster; add --executor ray, or leave it out")
        return
    if server is not None:
        raise UsageError(
            "--executor ray holds models in its actors, and --server has the model elsewhere; "
            "leave one of them out"
        )
    if not world().alone:
        raise UsageError(
            "--executor ray was given to several processes of one launch; start the command once, "
            "without torchrun or srun"
        )


def pool_of(
    settings: ExecutorSettings, make: Callable[[], Make]
) -> AbstractContextManager[RayPool | None]:
    """Actors that hold what `make()` returns; None where the work is done here."""
    return _ray_pool(settings, make) if settings.executor == "ray" else nullcontext()


@contextmanager
def _ray_pool(settings: ExecutorSettings, make: Callable[[], Make]) -> Iterator[RayPool]:
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        here = {"include_dashboard": False} if settings.address is None else {}
        try:
            ray.init(
                settings.address or "local", log_to_driver=False, logging_level="error", **here
            )
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise UserError(
                f"--address {settings.address}: no Ray cluster is reached there "
                f"({str(error).splitlines()[0]}); start one with `ray start --head`, or leave "
                "--address out"
            ) from error
    try:
        yield RayPool(make, settings.actor_cpus, ray.cluster_resources().get("GPU", 0) > 0)
    finally:
        if started:
            ray.shutdown()


@dataclass(frozen=True)
class RayPool:
    """Makes shards on the cluster; with an order, an `Elsewhere` of `runs.shards`."""

    make: Callable[[], Make]
    cpus: int
    gpus: bool
    folder: str = field(default_factory=os.getcwd)

    def __call__(self, order: Any, shards: Sequence[Shard]) -> Iterator[tuple[int, list[Any]]]:
        """Numbers and values of the shards, stored, as they come."""
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        files = {shard.number: shard.file.absolute() for shard in shards}
        shards[0].file.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            {"number": s.number, "shard": pickle.dumps((order, s.rows, files[s.number]))}
            for s in shards
        ]
        # a row is a block: what is made again when a node dies is the shards that it was making
        made = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            _Actor, fn_constructor_args=(self.make, self.folder), batch_size=1,
            compute=ray.data.ActorPoolStrategy(min_size=1, max_tasks_in_flight_per_actor=2),
            **({"num_gpus": 1} if self.gpus else {"num_cpus": self.cpus}),
        )  # fmt: skip
        for row in made.iter_rows():
            result = pickle.loads(row["values"])
            if isinstance(result, UserError):
                raise result
            number = int(row["number"])
            if not files[number].exists():
                store(files[number], result)
            yield number, result


class _Actor:
    """What is made once in an actor, and makes one shard a call. An error that a user can mend is
    returned: Ray would raise it as a traceback.
    """

    def __init__(self, make: Callable[[], Make], folder: str) -> None:
        if Path(folder).is_dir():  # paths and modules of the user are named from there
            os.chdir(folder)
        self._failure: UserError | None = None
        try:
            self._make = make()
        except UserError as error:
            self._failure = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        try:
            result: Any = self._values(*pickle.loads(batch["shard"][0]))
        except UserError as error:
            result = type(error)(str(error))
        return {"number": batch["number"], "values": [pickle.dumps(result)]}

    def _values(self, order: Any, rows: Sequence[Any], file: Path) -> list[Any]:
        if self._failure:
            raise self._failure
        values = read(file)
        if values is None:
            values = self._make(order, rows)
            if file.parent.is_dir():  # a shared folder: what is stored is not lost with the node
                store(file, values)
        return values


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent to Ray's makers
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise UserError(
            f"--executor ray needs the package ray[data] ({error}); pip install 'rationalize[ray]'"
        ) from error
    return ray
