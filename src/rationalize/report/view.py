"""The page of `rationalize view`: runs as they stand now, with their curves in the same charts."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rationalize.evaluation.metrics import BUILT_IN, metrics_of
from rationalize.evaluation.results import BY_STAGE, merge_log
from rationalize.progress import PROGRESS
from rationalize.records import Attempt
from rationalize.report import learning
from rationalize.report.text import hash_of, script, style, template
from rationalize.runs import Run
from rationalize.text import clipped

NEWEST = 4
"""Newest attempts shown of each run."""
SILENT = 120.0
"""Seconds without a sign of life after which a run counts as stopped where processes cannot be
asked for."""

Lines = list[dict[str, Any]]


@dataclass
class Watched:
    """A run that is looked at; its log is read again only where it has grown."""

    name: str
    path: Path
    _lines: Lines = field(default_factory=list)
    _read: tuple[int, int] = (0, 0)

    def lines(self) -> Lines:
        """The lines of its log."""
        log = self.path / "metrics.jsonl"
        if log.exists():
            stat = log.stat()
            if (stat.st_size, stat.st_mtime_ns) != self._read:
                self._lines, self._read = (
                    Run.read(self.path).metrics(),
                    (stat.st_size, stat.st_mtime_ns),
                )
        return self._lines

    @property
    def finished(self) -> bool:
        """Whether it has results, and nobody works in it."""
        return (self.path / "results.json").exists() and not (self.path / PROGRESS).exists()


def watched(paths: Sequence[str]) -> list[Watched]:
    """The runs of some folders, by distinct names. Raises `UserError` where one is none."""
    runs: list[Watched] = []
    for path in map(Path, paths):
        Run.read(path)
        name, names = path.resolve().name, [run.name for run in runs]
        runs.append(Watched(str(path) if name in names else name, path))
    return runs


def render_view(runs: Sequence[Watched]) -> str:
    """The page as HTML; its script fetches it again and again."""
    results: dict[str, Any] = {section: [] for section in (*BY_STAGE, "training")}
    for run in runs:
        merge_log(results, run.lines(), **({"run": run.name} if len(runs) > 1 else {}))
    facts = {m.name: m.facts() for m in [*metrics_of(), *BUILT_IN.values()]}
    code = script("view.js")
    return template("view.html.j2").render(
        style=style(), script=code, script_hash=hash_of(code),
        runs=[_shown(run) for run in runs],
        compare=sum(run.finished for run in runs) > 1,
        rounds=learning.rounds(results["rounds"], facts),
        training=learning.training(results["training"]),
    )  # fmt: skip


def _shown(run: Watched) -> dict[str, Any]:
    status, progress = _status(run)
    stored = Run.read(run.path)
    stages = list(stored.read_json("stages.json") or ())
    shards = stored.shards()
    newest = stored.read_shard(shards[-1])[-NEWEST:] if shards else []
    return {
        "name": run.name, "status": status, "progress": progress, "stages": stages,
        "report": (run.path / "report.html").exists(),
        "newest": [_attempt(a) for a in reversed(newest)],
        "part": shards[-1] if shards else "",
    }  # fmt: skip


def _status(run: Watched) -> tuple[str, Mapping[str, Any] | None]:
    """Whether a run is at work, in a word, and how far its present work is."""
    file = run.path / PROGRESS
    try:
        progress, last = json.loads(file.read_bytes()), file.stat().st_mtime
    except (OSError, ValueError):  # nobody works in it, or between two writes
        return ("finished" if run.finished else "not running"), None
    ago = time.time() - last
    progress |= {"share": progress["done"] / max(1, progress["total"]), "ago": round(ago)}
    if _alive(progress["pid"], ago):
        return "running", progress
    return "stopped", progress


def _alive(pid: int, ago: float) -> bool:
    if os.name != "posix":  # there, signal 0 would end the process
        return ago < SILENT
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _attempt(attempt: Attempt) -> dict[str, Any]:
    return {
        "prompt": clipped(attempt.prompt, 2000), "rationale": clipped(attempt.rationale, 1000),
        "writer": attempt.writer, "split": attempt.split, "id": attempt.question_id,
        "answer": attempt.prediction, "gold": attempt.gold,
        "right": attempt.rewards.get("correctness", attempt.prediction == attempt.gold) == 1,
    }  # fmt: skip
