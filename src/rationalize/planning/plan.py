"""The plan of a run: its work by stage, with minutes, peak memory and disk."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rationalize.methods.work.parts import MODELS, Learns, Reads, Work, Writes
from rationalize.methods.work.scene import Scene
from rationalize.planning.memory import Holders, disk_bytes, passing_bytes, peak_bytes
from rationalize.planning.speeds import Measured

_GROUPS = (
    (r"scorers/.*", "scorers"),
    (r"(final-|votes|judged|table|coalition$|variance).*", "evaluation"),
    (r"(obedience|token_auc)/(.+?)(-\d+)?", r"\2"),
    (r"(check.*|preflight.*|reading|leak.*|refining.*)", "checks"),
    (r"(dev-.*|clones-.*)", "development"),
    (r"warm-up-[0-9a-f]{8}.*", "seed SFT"),
    (r"(ift).*", "ift"),
    (r"(variant-\d+|controller)-.*", r"\1"),
    (r"(.+?)-(round\d+|update\d+|dev\d+|ranked|both-tokens|start|writer-dev|redraws|reward-model).*",
     r"\1"),
    (r"(round\d+)-(variant-.*|utilities)", r"\1"),
)  # fmt: skip


def group_of(part: str) -> str:
    """The line of a plan that a part of a run belongs to.

    >>> [group_of(p) for p in ("mario-0-round2", "token_auc/mario-0-12", "final-SFT-test-0")]
    ['mario-0', 'mario-0', 'evaluation']
    """
    for pattern, name in _GROUPS:
        if matched := re.fullmatch(pattern, part):
            return matched.expand(name)
    return part


@dataclass
class Line:
    """One stage's work."""

    stage: str
    replies: int = 0
    written: float = 0.0
    steps: float = 0.0
    learned: float = 0.0
    read: float = 0.0
    seconds: float | None = 0.0
    """None where no speed is known."""

    def add(self, work: Work, speeds: Any) -> None:
        if isinstance(work, Writes):
            self.replies += work.replies
            self.written += work.tokens
        elif isinstance(work, Learns):
            self.steps += work.steps
            self.learned += work.tokens
        elif isinstance(work, Reads):
            self.read += work.rows
        self.add_seconds(None if speeds is None else speeds.seconds(work))

    def add_seconds(self, seconds: float | None) -> None:
        both = self.seconds, seconds
        self.seconds = None if None in both else sum(s for s in both if s is not None)


@dataclass(frozen=True)
class Plan:
    """What a run will take."""

    lines: list[Line]
    questions: dict[str, int]
    rationales: int
    tuning: str
    peak: float | None
    """Bytes at most; None without the model's sizes."""
    disk: float | None
    """Bytes that stay."""
    passing: float | None
    """Bytes beside them that are deleted again."""
    known: Measured | None
    where: str = ""
    """The machine and where its speeds are from."""
    notes: list[str] = field(default_factory=list)

    @property
    def seconds(self) -> float | None:
        """In all; None where no speed is known."""
        known = [line.seconds for line in self.lines if line.seconds is not None]
        return sum(known) if len(known) == len(self.lines) else None

    def total(self) -> Line:
        return Line(
            "in all", sum(line.replies for line in self.lines),
            sum(line.written for line in self.lines), sum(line.steps for line in self.lines),
            sum(line.learned for line in self.lines), sum(line.read for line in self.lines),
            self.seconds,
        )  # fmt: skip

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "stages": [vars(line) for line in self.lines], "total": vars(self.total()),
            "questions": self.questions, "rationales": self.rationales, "tuning": self.tuning,
            "peak_bytes": self.peak, "disk_bytes": self.disk,
            "passing_bytes": self.passing, "where": self.where,
            "notes": self.notes,
        }  # fmt: skip


def plan_of(
    at: Scene, work: Sequence[Work], known: Measured | None, holders: Holders, where: str,
    notes: Iterable[str] = (),
) -> Plan:  # fmt: skip
    """Priced by what is `known` of the model and machine; None: counts alone."""
    lines: dict[str, Line] = {}
    remembered: set[tuple[str, str]] = set()
    for one in work:
        if isinstance(one, Reads) and one.remembered:
            if (one.reader, one.remembered) in remembered:
                continue
            remembered.add((one.reader, one.remembered))
        name = group_of(one.stage)
        lines.setdefault(name, Line(name)).add(one, known.speeds if known else None)
    worked = [line for line in lines.values() if line.replies or line.steps or line.read]
    beside = lines.get(MODELS) or Line(MODELS)
    for line in lines.values():  # models that are read and written outside the others
        if line not in worked and line is not beside:
            beside.add_seconds(line.seconds)
    shown = [*(line for line in worked if line is not beside), beside]
    sizes = known.sizes if known else None
    long = any((line.seconds or 0.0) > at.config.checkpoint_every for line in shown if line.steps)
    return Plan(
        shown, {split: len(questions) for split, questions in at.splits.items()},
        sum(len(q.rationales) for q in at.train), at.tuning,
        peak_bytes(sizes, holders, work, at) if sizes else None,
        disk_bytes(sizes, work, holders.dtype) if sizes else None,
        passing_bytes(sizes, work, long and at.tuning == "full", holders.dtype) if sizes else None,
        known, where, list(notes),
    )  # fmt: skip


def as_text(plan: Plan) -> list[str]:
    """A table, and what it rests on."""
    head = ("stage", "replies", "tokens written", "steps", "tokens learned", "texts read", "time")
    rows = [head, *(_cells(line) for line in [*plan.lines, plan.total()])]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    table = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:]))])
        for row in rows
    ]
    counts = ", ".join(f"{n} {split}" for split, n in plan.questions.items())
    lines = [f"questions: {counts}; {plan.rationales} rationales; tuning {plan.tuning}", *table]
    if plan.peak is not None and plan.disk is not None and plan.passing is not None:
        lines.append(
            f"memory: about {plan.peak / 1e9:.1f} GB at the peak; disk: {plan.disk / 1e9:.1f} GB, "
            f"and at times {plan.passing / 1e9:.1f} GB more"
        )
    return [*lines, *([plan.where] if plan.where else []), *plan.notes]


def _cells(line: Line) -> tuple[str, ...]:
    numbers = (line.replies, line.written, line.steps, line.learned, line.read)
    return (line.stage, *(f"{n:,.0f}" if n else "" for n in numbers), duration(line.seconds))


def duration(seconds: float | None) -> str:
    """In the unit that a reader thinks in.

    >>> [duration(s) for s in (None, 5.2, 100, 4000, 400_000)]
    ['?', '5 s', '1.7 min', '1.1 h', '4.6 days']
    """
    if seconds is None:
        return "?"
    for limit, unit, word in ((60, 1, "s"), (3600, 60, "min"), (86_400 * 2, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if unit == 1 else 1}f} {word}"
    return f"{seconds / 86_400:.1f} days"
