"""Whether a folder may become a run's: new, to be resumed, to be begun anew, or somebody else's."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from typing import Any

from rationalize.config import dump_yaml, load_yaml
from rationalize.config.old import is_old, upgrade
from rationalize.errors import UsageError, UserError
from rationalize.files import plain, write_text
from rationalize.processes import by_first, launched
from rationalize.progress import PROGRESS
from rationalize.runs.clock import TIMES
from rationalize.runs.inputs import FILE, Inputs, changed_inputs
from rationalize.runs.lock import is_held
from rationalize.runs.track import FOLDER, check_tracker
from rationalize.text import listed

log = logging.getLogger(__name__)

BASE_HASH = "base_hash"
"""Key in `config.yaml` of the hash of the base model's weights; `read_config` leaves it out."""

PROCESSES = "processes"
"""Key in `config.yaml` of how many processes work on the run, where those are several."""
_may_change: ContextVar[bool] = ContextVar("may_change", default=False)

_CONTENTS = ("attempts", "metrics.jsonl", "stages.json", "checkpoints", "model", "results.json")
UNFINISHED = "unfinished"
"""Folder of a run with the shards of parts that are being made (`shards.py`)."""
_BEGUN = {
    "config.yaml", "env.json", FILE, "metrics.jsonl", "lock", "scores", "tuning.json", FOLDER,
    TIMES, PROGRESS, UNFINISHED,
}  # fmt: skip
"""What a run holds that has stored nothing yet which anybody waited for."""
_BESIDE = ".beside"
"""Lists what lay in the folder before a run was put there: it is never deleted."""


@contextmanager
def size_may_change(may: bool = True) -> Iterator[None]:
    """Within it, where it `may`, another number of processes may go on with a run."""
    token = _may_change.set(may)
    try:
        yield
    finally:
        _may_change.reset(token)


def check_resumable(
    path: Path | str, config: Mapping[str, Any], *, base_hash: str | None = None,
    inputs: Inputs | None = None, overwrite: bool = False, locked: bool = False,
) -> None:  # fmt: skip
    """Raise `UserError` where `Run.open` would; reads only, so that a dry run can ask.

    A base hash and inputs are compared where both are known. A run that is open in this process
    belongs to its configuration whatever it has stored, unless the folder was `locked` for this
    very opening.
    """
    by_first(partial(_check, Path(path), config, base_hash, inputs, overwrite, locked))


def _check(
    path: Path, config: Mapping[str, Any], base_hash: str | None, inputs: Inputs | None,
    overwrite: bool, locked: bool,
) -> None:  # fmt: skip
    check_tracker(config.get("track"))
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file; expected a folder for the run, or a name that is free")
    if overwrite:
        if (path / "config.yaml").exists() and not _is_run(path):
            raise UserError(
                f"{path} holds a config.yaml that no run has written, and a run cannot be put "
                "beside it; choose another folder"
            )
        return
    if not (path / "config.yaml").exists():
        found = [name for name in _CONTENTS if name != "attempts" and (path / name).exists()]
        if found:
            raise UserError(
                f"{path} holds {found[0]} but no config.yaml, which every run has; "
                "restore it, or choose another folder"
            )
        if others := _somebodys(path):
            raise UserError(
                f"{path} holds {listed(others)}, and no run; expected a folder that is new, empty "
                "or a run's. Choose another folder, or put the run among these with --overwrite"
            )
        return
    if _has_stored_nothing(path) and (locked or not is_held(path)):
        return
    if differing := _differing(path, config, base_hash):
        raise UserError(
            "\n  ".join([f"{path} belongs to another configuration:", *differing])
            + f"\nresume with its own (--config {path / 'config.yaml'}), choose another folder, or "
            "delete that run and start anew with --overwrite"
        )
    there, here = _processes(path), launched().size
    if there != here and not _may_change.get():
        raise UserError(
            f"{path} was begun by {there} process{'es' * (there > 1)}, and {here} would go on with "
            f"it: sums are added in another order then. Start as many as before; or add "
            "--world-size-may-change, and the results are equal up to rounding"
        )
    if inputs is not None and (changed := changed_inputs(path, inputs)):
        raise UserError(
            "\n  ".join([f"{path} was begun with other inputs:", *changed])
            + "\nrestore them, choose another folder, or delete that run and start anew with "
            "--overwrite"
        )


def is_another(
    path: Path, config: Mapping[str, Any], base_hash: str | None = None,
    inputs: Inputs | None = None,
) -> bool:  # fmt: skip
    """Whether the folder holds a run of another configuration, or with other inputs."""
    if not (path / "config.yaml").exists():
        return False
    changed = inputs is not None and changed_inputs(path, inputs)
    return bool(changed or _differing(path, config, base_hash))


def destination_of(path: Path, config: Mapping[str, Any], overwrite: bool) -> str:
    """What would become of a run's folder, in words; raises what a start would raise there."""
    check_resumable(path, config, overwrite=overwrite)
    if not (path / "config.yaml").exists():
        return f"a new run in {path}"
    if overwrite or is_another(path, config):
        return f"a new run in {path}, in the place of the one there"
    return f"resume the run in {path}"


def clear(path: Path) -> None:
    """Delete what a run has left in its folder; of a folder without a run nothing, now or later."""
    if not _is_run(path):
        names = sorted(p.name for p in path.iterdir() if p.name not in ("lock", _BESIDE))
        write_text(path / _BESIDE, json.dumps(names))
        return
    kept = {"lock", _BESIDE, *others_in(path)}
    for place in path.iterdir():
        if place.name in kept:
            continue
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()


def others_in(path: Path) -> list[str]:
    """What lay in the folder before a run was put there."""
    beside = path / _BESIDE
    return json.loads(beside.read_text()) if beside.exists() else []


def _somebodys(path: Path) -> list[str]:
    """What a folder without a run holds that no start of ours has left there."""
    if not path.is_dir():
        return []
    ours = {"lock"} if any((path / "attempts").glob("*")) else {"lock", "attempts"}
    names = [p for p in path.iterdir() if p.name not in ours and p.name[0] != "."]
    return sorted(p.name for p in names if not p.is_dir() or any(f.is_file() for f in p.rglob("*")))


def _has_stored_nothing(path: Path) -> bool:
    """Whether a run has stored nothing yet: no stage, attempt, checkpoint or weights."""
    stored = {p.name for p in path.iterdir() if p.name[0] != "."}
    if not any((path / "attempts").glob("*")):
        stored.discard("attempts")
    return _is_run(path) and stored <= _BEGUN


def _is_run(path: Path) -> bool:
    """Whether a start of ours has made the folder's contents: projects have a config.yaml too."""
    try:
        started = json.loads((path / "env.json").read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(started, dict) and {"packages", "threads"} <= started.keys()


def _differing(path: Path, config: Mapping[str, Any], base_hash: str | None) -> list[str]:
    """Which settings differ between a run and what is asked for, in words."""
    stored = _read(path / "config.yaml")
    wanted = {BASE_HASH: base_hash, **plain(config, finite=False)}
    unknown = {BASE_HASH} if wanted[BASE_HASH] is None or BASE_HASH not in stored else set()
    # change no result, or are compared apart; `out` was stored by an earlier version
    unknown |= {"track", "rollout_folder", "out", PROCESSES}
    if bool(stored.get("rollouts")) == bool(wanted.get("rollouts")):
        unknown.add("rollouts")  # other servers are as good
    if "parallel" not in stored:  # one process alone, by an earlier version
        unknown.add("parallel")
    if is_old(stored):  # what either does not name came later, or had no effect
        stored = upgrade(stored)
        unknown |= set(_flat(wanted)) ^ set(_flat(stored))
    # what the run does not name came with a later version: what is off there was off then
    named = _flat(stored)
    unknown |= {k for k, v in _flat(wanted).items() if k not in named and (v is None or v is False)}
    return differences(stored, wanted, "in the run", "asked for", but=unknown)


def read_config(path: Path | str) -> dict[str, Any]:
    """A run's configuration under today's names, without the base model's hash that it adds."""
    settings = upgrade(_read(Path(path)), reading=True)
    return {key: value for key, value in settings.items() if key not in (BASE_HASH, PROCESSES)}


def write_config(path: Path, config: Mapping[str, Any], base_hash: str | None) -> None:
    """Write a run's `config.yaml`, or what has changed of it: how many processes go on with it."""
    file, size = path / "config.yaml", launched().size
    if not file.exists():
        stored = {**config, BASE_HASH: base_hash} if base_hash else dict(config)
    elif (before := _processes(path)) != size:
        if _may_change.get():
            log.warning(
                "%s was begun by %d process(es) and goes on with %d: what it learns from here on "
                "is what it would have learned up to rounding", path, before, size,
            )  # fmt: skip
        stored = _read(file)
    else:
        return
    write_text(file, dump_yaml({**stored, PROCESSES: size} if size > 1 else _without(stored)))


def _processes(path: Path) -> int:
    """How many processes a run was begun by."""
    return _read(path / "config.yaml").get(PROCESSES, 1)


def _without(stored: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key != PROCESSES}


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
    shown = [
        f"{k}: {_show(old, new, k)} {there_word}, {_show(new, old, k)} {here_word}"
        for k in keys[:10]
    ]
    return [*shown, f"and {len(keys) - 10} more"] if len(keys) > 10 else shown


def _show(values: Mapping[str, Any], others: Mapping[str, Any], key: str) -> str:
    if key not in values:
        return "nothing"
    names = _names(values[key])
    if names and names != _names(others.get(key)):
        return ", ".join(names)
    value = values[key]
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    return repr(value)


def _names(value: Any) -> list[str]:
    """The names of rows that begin with one (of rewards: name, version, ..); none for all else."""
    rows = value if isinstance(value, list | tuple) else ()
    named = [row[0] for row in rows if isinstance(row, list | tuple) and row]
    return named if len(named) == len(rows) and all(isinstance(n, str) for n in named) else []


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: value} if prefix else {}
    return {
        k: v
        for key, inner in value.items()
        for k, v in _flat(inner, f"{prefix}.{key}" if prefix else str(key)).items()
    }
