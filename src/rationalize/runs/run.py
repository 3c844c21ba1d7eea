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
import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rationalize.attempt_files import load_attempts, save_attempts
from rationalize.config import dump_yaml, load_yaml
from rationalize.config.old import is_old, upgrade
from rationalize.environment import environment
from rationalize.errors import UsageError, UserError
from rationalize.files import mend_lines, plain, whole_lines, write_text
from rationalize.records import Attempt
from rationalize.runs.lock import lock, unlock

log = logging.getLogger(__name__)

BASE_HASH = "base_hash"
"""Key in `config.yaml` of the hash of the base model's weights; `read_config` leaves it out."""

_CONTENTS = ("attempts", "metrics.jsonl", "stages.json", "checkpoints", "model", "results.json")
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
    """`follow`: another process of the same launch writes, and writes here do nothing."""

    @property
    def checkpoint_every(self) -> float:
        """Seconds between two checkpoints of the training loop."""
        return self.config.get("checkpoint_every", 120.0)

    @classmethod
    def open(
        cls, path: Path | str, config: Mapping[str, Any], *, base_hash: str | None = None
    ) -> Run:
        """Create the run, or resume it.

        Raises `UserError` where it belongs to another configuration, base model or process.
        """
        path = Path(path)
        wanted = plain(config, finite=False)
        check_resumable(path, wanted, base_hash=base_hash)
        if os.environ.get("RANK", "0") != "0":  # under `accelerate launch` the first process writes
            return cls(path, wanted, "follow")
        (path / "attempts").mkdir(parents=True, exist_ok=True)
        lock(path)
        check_resumable(path, wanted, base_hash=base_hash)  # another process may have been first
        run = cls(path, wanted)
        if not (path / "config.yaml").exists():
            stored = {**wanted, BASE_HASH: base_hash} if base_hash else wanted
            write_text(path / "config.yaml", dump_yaml(stored))
        _tidy(path)
        run._record_environment()
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
        unlock(self.path)

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def log(self, stage: str, step: int, **metrics: Any) -> None:
        """Append one line to `metrics.jsonl`; values that are not finite are stored as null."""
        if self._writes():
            line = json.dumps({"stage": stage, "step": step, **plain(metrics)}).encode() + b"\n"
            with open(self.path / "metrics.jsonl", "ab", buffering=0) as file:
                file.write(line)  # one write, so that a kill can only cut the last line

    def rewind(self, stage: str, step: int) -> None:
        """Drop the stage's lines of `step` and later: a resumed stage logs them again."""
        if not self._writes():
            return
        lines = self.metrics()
        kept = [line for line in lines if line["stage"] != stage or line["step"] < step]
        if len(kept) < len(lines):
            write_text(
                self.path / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in kept)
            )

    def metrics(self, stage: str | None = None) -> list[dict[str, Any]]:
        """Logged lines in the order they were written, of one stage or of all."""
        lines = whole_lines(self.path / "metrics.jsonl")
        return [line for line in lines if stage is None or line["stage"] == stage]

    def done(self, stage: str) -> dict[str, Any] | None:
        """The facts that `finish` stored, or None while the stage is not finished."""
        return (self.read_json("stages.json") or {}).get(stage)

    def finish(self, stage: str, **facts: Any) -> None:
        """Mark a stage as finished, with facts that later stages and the report need."""
        self.write_json("stages.json", {**(self.read_json("stages.json") or {}), stage: facts})

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

    def has_shard(self, shard: str) -> bool:
        """Whether `append` has stored a shard of this name."""
        return shard in self._shards()

    def read_shard(self, shard: str) -> list[Attempt]:
        """The attempts of one shard."""
        return load_attempts(self.path / "attempts" / self._shards()[shard]["file"])

    def folder(self, *parts: str) -> Path:
        """A folder inside the run, made if it is not there."""
        folder = self.path.joinpath(*parts)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_json(self, name: str, value: Any) -> None:
        """Store a value; what is not finite becomes null, so that any JSON reader can read it."""
        if self._writes():
            self.path.joinpath(name).parent.mkdir(parents=True, exist_ok=True)
            write_text(self.path / name, json.dumps(plain(value), indent=1) + "\n")

    def read_json(self, name: str) -> Any:
        """The stored value, or None if there is none."""
        path = self.path / name
        if not path.exists():
            return None
        try:
            return json.loads(path.read_bytes())
        except ValueError as error:
            raise UserError(
                f"{path}: {error}; expected JSON. Restore the file, or start in another folder"
            ) from error

    def nested(self, name: str) -> Run:
        """A run inside this one; shares configuration and lock."""
        run = dataclasses.replace(self, path=self.path / "stages" / name)
        if self.access == "write":
            run.folder()
            _tidy(run.path)
        return run

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


def _tidy(path: Path) -> None:
    """Remove what a kill left half written."""
    for left in (*path.glob(".*.tmp"), *path.glob("attempts/.*.tmp")):
        left.unlink()
    mend_lines(path / "metrics.jsonl")


def check_resumable(
    path: Path | str, config: Mapping[str, Any], *, base_hash: str | None = None
) -> None:
    """Raise `UserError` where `Run.open` would; reads only, so that a dry run can ask.

    A base hash is compared where both are known.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; expected a folder for the run, or a name that is free")
    if not (path / "config.yaml").exists():
        found = [name for name in _CONTENTS if name != "attempts" and (path / name).exists()]
        if found:
            raise UserError(
                f"{path} holds {found[0]} but no config.yaml, which every run has; "
                "restore it, or choose another folder"
            )
        return
    stored = _read(path / "config.yaml")
    wanted = {BASE_HASH: base_hash, **plain(config, finite=False)}
    unknown = {BASE_HASH} if wanted[BASE_HASH] is None or BASE_HASH not in stored else set()
    if is_old(stored):  # what either does not name came later, or had no effect
        stored = upgrade(stored)
        unknown |= set(_flat(wanted)) ^ set(_flat(stored))
    differing = differences(stored, wanted, "in the run", "asked for", but=unknown)
    if differing:
        raise UserError(
            "\n  ".join([f"{path} belongs to another configuration:", *differing])
            + f"\nresume with its own (--config {path / 'config.yaml'}), or choose another folder"
        )


def read_config(path: Path | str) -> dict[str, Any]:
    """A run's configuration under today's names, without the base model's hash that it adds."""
    settings = upgrade(_read(Path(path)), reading=True)
    return {key: value for key, value in settings.items() if key != BASE_HASH}


def _read(path: Path) -> dict[str, Any]:
    try:
        return load_yaml(path)
    except UsageError as error:  # nobody named this file on the command line
        raise UserError(str(error)) from error


def differences(
    there: Any, here: Any, there_word: str, here_word: str, *, but: Collection[str] = ()
) -> list[str]:
    """The first ten keys that differ, with both values."""
    old, new = _flat(there), _flat(here)
    # NaN differs from itself; its JSON does not
    keys = [
        k
        for k in {**old, **new}
        if k not in but
        and json.dumps(old.get(k, ...), default=str) != json.dumps(new.get(k, ...), default=str)
    ]
    shown = [f"{k}: {_show(old, k)} {there_word}, {_show(new, k)} {here_word}" for k in keys[:10]]
    return [*shown, f"and {len(keys) - 10} more"] if len(keys) > 10 else shown


def _show(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "nothing"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    return {
        k: v
        for key, inner in value.items()
        for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
