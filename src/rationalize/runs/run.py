"""A run directory: configuration, environment, metrics, attempts, finished stages.

A second start resumes.

    >>> run = Run.open("runs/quarel", {"method": "sft", "learning_rate": 5e-5}, base_hash="9f2c")
    >>> run.log("sft", 0, loss=2.31)
    >>> run.append(attempts, "round-0-train")

Whatever is written is whole or absent: files are written beside and renamed, and a last line of
`metrics.jsonl` that a kill cut short is dropped at the next start.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.environment import environment
from rationalize.errors import UserError
from rationalize.files import make_folder, mend_lines, plain, whole_lines, write_text
from rationalize.processes import by_first, wait_for
from rationalize.progress import PROGRESS, hide, say, show_in
from rationalize.records import Attempt
from rationalize.runs.clock import TIMES, timed
from rationalize.runs.inputs import Inputs, record_inputs
from rationalize.runs.lock import lock, unlock
from rationalize.runs.log import LoggedLines
from rationalize.runs.resume import (
    UNFINISHED,
    check_resumable,
    clear,
    differences,
    is_another,
    others_in,
    read_config,
    write_config,
)
from rationalize.runs.track import Mirror

log = logging.getLogger(__name__)

Value = TypeVar("Value")

_SHARD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def slug(name: str) -> str:
    """The name with "-" for what a file or shard must not be called."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in name)


@dataclass(frozen=True)
class Run:
    """A run directory, open."""

    path: Path
    config: Mapping[str, Any]
    """What `config.yaml` holds, without the base model's hash."""
    access: Literal["write", "read", "follow"] = "write"
    """`follow`: the first process of the launch writes, and writes here do nothing."""
    mirror: Mirror | None = dataclasses.field(default=None, compare=False, repr=False)
    """Sends what is logged to a tracker too, where the configuration names one (`track`)."""

    @property
    def checkpoint_every(self) -> float:
        """Seconds between two checkpoints of the training loop."""
        return self.config.get("checkpoint_every", 120.0)

    @property
    def parallel(self) -> Any:
        """How several processes hold the weights that learn (`RunConfig.parallel`)."""
        asked = self.config.get("parallel", "auto")
        # servers are given weights that the first process holds whole
        return "ddp" if asked == "auto" and self.config.get("rollouts") else asked

    @classmethod
    def open(
        cls, path: Path | str, config: Mapping[str, Any], *, base_hash: str | None = None,
        inputs: Inputs | None = None, overwrite: bool = False,
    ) -> Run:  # fmt: skip
        """Create the run, or resume it; with `overwrite`, what an earlier one left is deleted.

        A run that has stored nothing yet is begun anew under another configuration or with other
        inputs; one that has goes on with them where it has not used what changed. Raises
        `UserError` where the folder is another run's, another process's or somebody else's.
        """
        path = Path(path)
        wanted = plain(config, finite=False)
        opened: list[Run] = []
        by_first(lambda: opened.append(cls._begin(path, wanted, base_hash, inputs, overwrite)))
        if not opened:  # another process of the launch writes it
            wait_for(path / "config.yaml")
            return cls(path, wanted, "follow")
        return opened[0]

    @classmethod
    def _begin(
        cls, path: Path, wanted: dict[str, Any], base_hash: str | None, inputs: Inputs | None,
        overwrite: bool,
    ) -> Run:  # fmt: skip
        check = partial(
            check_resumable, path, wanted, base_hash=base_hash, inputs=inputs, overwrite=overwrite
        )
        check()
        make_folder(path)
        lock(path)
        try:  # another process may have been first
            check(locked=True)
        except UserError:
            unlock(path)
            raise
        if overwrite or is_another(path, wanted, base_hash, inputs):
            clear(path)
        make_folder(path / "attempts")
        run = cls(path, wanted)
        write_config(path, wanted, base_hash)
        if inputs is not None:
            record_inputs(path, inputs)
        _tidy(path)
        show_in(path / PROGRESS)
        run._record_environment()
        if tracker := wanted.get("track"):
            run = dataclasses.replace(run, mirror=Mirror(tracker, path, wanted))
        return run

    @classmethod
    def read(cls, path: Path | str) -> Run:
        """An existing run, for reading only: its writer may still be at work."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path}: no config.yaml there; expected the folder of a run")
        return cls(path, read_config(path / "config.yaml"), "read")

    def close(self) -> None:
        """Let another process write this run; the end of this process does the same."""
        if self.mirror:
            self.mirror.close()
        if self.access == "write":
            hide(self.path / PROGRESS)
            unlock(self.path)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Close the run; where its work is done, its log is put in order first."""
        if kind is None and self.access == "write":
            inside = self.path.glob("stages/**/metrics.jsonl")
            for path in (self.path / "metrics.jsonl", *inside):
                _write_in_order(path)
        self.close()

    def log(self, stage: str, step: int, **metrics: Any) -> None:
        """Append one line to `metrics.jsonl`; values that are not finite are stored as null."""
        if self._writes():
            line = json.dumps({"stage": stage, "step": step, **plain(metrics)}).encode() + b"\n"
            with open(self.path / "metrics.jsonl", "ab", buffering=0) as file:
                file.write(line)  # one write, so that a kill can only cut the last line
            if self.mirror:
                self.mirror.log(stage, step, metrics)

    @cached_property
    def _logged(self) -> LoggedLines:
        return LoggedLines(self.path / "metrics.jsonl")

    def rewind(self, stage: str, step: int) -> None:
        """Drop the stage's lines of `step` and later: a resumed stage logs them again."""
        if not self._writes():
            return
        if self._logged.reaches(stage, step):
            lines = whole_lines(self.path / "metrics.jsonl")
            kept = [line for line in lines if line["stage"] != stage or line["step"] < step]
            _write_lines(self.path / "metrics.jsonl", kept)
            self._logged.forget()

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Logged lines of one stage or of all, by the stages' names, each stage's as written.

        How lines of several stages lie between each other depends on when a run was killed.
        """
        return self._known(lambda: self._logged.all() if stage is None else self._logged.of(stage))

    def done(self, stage: str) -> dict[str, Any] | None:
        """The facts that `finish` stored, or None while the stage is not finished."""
        return (self.read_json("stages.json") or {}).get(stage)

    def finish(self, stage: str, **facts: Any) -> None:
        """Mark a stage as finished, with facts that later stages and the report need."""
        self.write_json("stages.json", {**(self.read_json("stages.json") or {}), stage: facts})

    def timed(self, part: str) -> AbstractContextManager[None]:
        """A block whose seconds are appended to `times.jsonl`, for `rationalize plan`."""
        return timed(self.path, part, written=self._writes())

    def append(self, attempts: Iterable[Attempt], shard: str) -> None:
        """Add an immutable shard of attempts; one of this name that is already there stays."""
        if not _SHARD.fullmatch(shard):
            raise ValueError(
                f"shard {shard!r} cannot be a file name; expected letters, digits, '.', '_' and '-'"
            )
        shards = self._shards()
        if shard in shards or not self._writes():
            return
        rows = list(attempts)
        file = self.folder("attempts") / f"{shard}.parquet"
        save_attempts(rows, file)
        self.write_json(
            "attempts/manifest.json", {**shards, shard: {"file": file.name, "rows": len(rows)}}
        )

    def attempts(self, **equal: Any) -> list[Attempt]:
        """Attempts as they were appended, e.g. `run.attempts(split="train", writer="teacher")`."""
        files = [self.path / "attempts" / shard["file"] for shard in self._shards().values()]
        return [attempt for file in files for attempt in load_attempts(file, **equal)]

    def shards(self) -> list[str]:
        """The names of the shards of attempts, the newest last."""
        return list(self._shards())

    def has_shard(self, shard: str) -> bool:
        """Whether `append` has stored a shard of this name."""
        return shard in self._shards()

    def read_shard(self, shard: str) -> list[Attempt]:
        """The attempts of one shard."""
        file = self.path / "attempts" / self._shards()[shard]["file"]
        wait_for(file)
        return load_attempts(file)

    def unfinished(self, part: str) -> Path:
        """Where the finished shards of a part lie while it is being made (`shards.kept_in`)."""
        return self.path / UNFINISHED / slug(part)

    def folder(self, *parts: str) -> Path:
        """A folder inside the run, made if it is not there."""
        folder = self.path.joinpath(*parts)
        if self.access != "follow":
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_json(self, name: str, value: Any) -> None:
        """Store a value; what is not finite becomes null, so that any JSON reader can read it."""
        if self._writes():
            self.path.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path / name, json.dumps(plain(value), indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """The stored value, or None if there is none."""
        return self._known(partial(_read_json, self.path / name))

    def nested(self, name: str) -> Run:
        """A run inside this one; shares configuration and lock."""
        mirror = self.mirror.nested(name) if self.mirror else None
        run = dataclasses.replace(self, path=self.path / "stages" / name, mirror=mirror)
        if self.access == "write":
            run.folder()
            _tidy(run.path)
        return run

    def _known(self, read: Callable[[], Value]) -> Value:
        """What is read from the run: where several processes work on it, what the first one reads,
        so that all decide alike.
        """
        return read() if self.access == "read" else by_first(read)

    def _writes(self) -> bool:
        if self.access == "read":
            raise ValueError(f"the run {self.path} was opened for reading")
        return self.access == "write"

    def _shards(self) -> dict[str, dict[str, Any]]:
        return self.read_json("attempts/manifest.json") or {}

    def _record_environment(self) -> None:
        now, first = environment(), self.read_json("env.json")
        if first is None:
            self.write_json("env.json", now)
            return
        stages = ", ".join(self.read_json("stages.json") or ())
        say(f"resuming the run in {self.path} ({f'done: {stages}' if stages else 'no stage done'})")
        starts = [{k: v for k, v in first.items() if k != "resumed"}, *first.get("resumed", [])]
        unknown = {k for k in now if now[k] is None or starts[-1].get(k) is None}
        differing = differences(starts[-1], now, "then", "now", but=unknown)
        if differing:
            log.warning(
                "%s goes on in another environment (%s); results may differ in their last digits",
                self.path,
                "; ".join(differing),
            )
            self.write_json("env.json", {**first, "resumed": [*first.get("resumed", []), now]})


def _read_json(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return json.loads(path.read_bytes())
    except ValueError as error:
        raise UserError(
            f"{path}: {error}; expected JSON. Restore the file, or start in another folder"
        ) from error


def _tidy(path: Path) -> None:
    """Remove what a kill left half written."""
    others = others_in(path)
    for left in [*path.rglob(".*.tmp"), *path.glob("checkpoints/*.new")]:
        if left.relative_to(path).parts[0] in others:
            continue
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink(missing_ok=True)
    (path / PROGRESS).unlink(missing_ok=True)
    for name in ("metrics.jsonl", TIMES):
        mend_lines(path / name)


def _in_order(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(lines, key=lambda line: line["stage"])


def _write_in_order(path: Path) -> None:
    lines = whole_lines(path)
    if (ordered := _in_order(lines)) != lines:
        _write_lines(path, ordered)


def _write_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
