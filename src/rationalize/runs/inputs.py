"""What a run was begun with from outside: digests of its inputs, in `inputs.json`.

A resume with other inputs would mix them in one result. It is refused by naming what changed, or
goes on where nothing that the run has stored comes from what changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rationalize.files import write_text
from rationalize.text import listed

log = logging.getLogger(__name__)

FILE, REWARDS, TOKENIZER = "inputs.json", "rewards", "tokenizer"

Inputs = Mapping[str, Mapping[str, str]]
"""Group -> name -> digest, in an order that counts: `questions of train` -> id -> digest.

The names of the group `rewards` are those of scores in attempts. A group `.. of SPLIT` of a split
other than train and dev is not used before that split is evaluated. The group `tokenizer` is
missing where no model is loaded (a dry run, a server), and is not compared there.
"""


def digest(value: Any) -> str:
    """A short hash of a value's JSON."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


@dataclass(frozen=True)
class _Change:
    """How a group of inputs differs from what a run has recorded."""

    group: str
    changed: list[str]
    gone: list[str]
    new: list[str]

    def __str__(self) -> str:
        parts = {"changed": self.changed, "gone": self.gone, "new": self.new}
        words = [f"{listed(names)} {what}" for what, names in parts.items() if names]
        return f"{self.group}: {', '.join(words) or 'the same in another order'}"


def changed_inputs(path: Path, inputs: Inputs) -> list[str]:
    """What differs from the run's inputs and is in what it has stored, in words.

    Empty for a run that has recorded none: an earlier version began it.
    """
    return [str(change) for change in _changes(path, inputs) if _was_used(path, change)]


def record_inputs(path: Path, inputs: Inputs) -> None:
    """Store the inputs that a run goes on with, and say what was changed but not used so far."""
    changes = _changes(path, inputs)
    for change in changes:
        log.warning("%s: %s; nothing that is stored comes from it", path, change)
        if change.group == REWARDS:  # scores of attempts that were not stored yet
            shutil.rmtree(path / "scores", ignore_errors=True)
    if changes or not (path / FILE).exists():
        write_text(path / FILE, json.dumps(inputs, indent=1, ensure_ascii=False) + "\n")


def _changes(path: Path, inputs: Inputs) -> list[_Change]:
    if not (path / FILE).exists():
        return []
    recorded: Inputs = json.loads((path / FILE).read_text(encoding="utf-8"))
    changes = []
    for group in {**recorded, **inputs}:
        if group == TOKENIZER and group not in inputs:
            continue
        before, now = recorded.get(group, {}), inputs.get(group, {})
        if list(before.items()) != list(now.items()):
            changed = [n for n in now if n in before and now[n] != before[n]]
            gone, new = [n for n in before if n not in now], [n for n in now if n not in before]
            changes.append(_Change(group, changed, gone, new))
    return changes


def _was_used(path: Path, change: _Change) -> bool:
    """Whether anything that the run has stored comes from what changed."""
    split = change.group.partition(" of ")[2]
    if split and split not in ("train", "dev"):
        shards = [name for name, _ in _shards(path)]
        stored = any(name.startswith("final-") and f"-{split}-" in f"{name}-" for name in shards)
        return stored or (path / "results.json").exists()
    if change.group == REWARDS:
        names = {*change.changed, *change.gone, *change.new}
        return any(_has_score(file, names) for _, file in _shards(path))
    return True


def _shards(path: Path) -> list[tuple[str, Path]]:
    """Names and files of the attempts that a run and the stages inside it have stored."""
    return [
        (name, manifest.parent / shard["file"])
        for manifest in path.rglob("attempts/manifest.json")
        for name, shard in json.loads(manifest.read_bytes()).items()
    ]


def _has_score(file: Path, names: set[str]) -> bool:
    """Whether an attempt in a shard has a score under one of these names."""
    import pyarrow.parquet as pq

    column = pq.read_table(file, columns=["rewards"]).column("rewards").to_pylist()
    return any(names & json.loads(scores).keys() for scores in column if scores)
