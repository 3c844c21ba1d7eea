"""Predicted beside measured: what `rationalize plan` says of a run, and what the finished run took.

    python benchmarks/plan.py RUN [RUN ..]        folders of finished runs, begun by one start each
    python benchmarks/plan.py --small sft mario   small runs are made first, one after another

The calibration is made anew before and after the comparison, and the mean of both is what the plan
says. `--clock cpu` compares processor seconds, on a machine that does other work too; it wants one
thread (OMP_NUM_THREADS=1), as the runs had it. Memory and disk are compared as well. The line
`beside` is what belongs to no stage: imports, models that are read, the report, the export.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rationalize.config import from_dict
from rationalize.methods import DEMOS, Demo, method_named
from rationalize.methods.launch import (
    BESIDE_STAGES,
    checked,
    demo,
    method_stage,
    settings_of,
    train,
)
from rationalize.methods.settings import RunConfig
from rationalize.methods.work.parts import MODELS
from rationalize.models.sources import name_of, source_of
from rationalize.planning.calibrate import calibrate
from rationalize.planning.plan import Plan, group_of, plan_of
from rationalize.planning.runs import holders_of, scene_of, work_of
from rationalize.planning.sizes import sizes_from
from rationalize.planning.speeds import Measured
from rationalize.runs import Run
from rationalize.runs.clock import TIMES

CLOCKS = {"wall": (time.monotonic, "seconds"), "cpu": (time.process_time, "cpu_seconds")}
SMALL: Mapping[str, dict[str, Any]] = {
    "sft": {
        "questions": "builtin:train=32,dev=8,test=16,unseen=0", "epochs": 1.0, "evaluations": 1,
        "evaluation_tokens": 48,
    },
    "mario": {
        "questions": "builtin:train=64,dev=12,test=24,unseen=0",
        "mario": {"steps": 12, "sample_interval": 6, "prompts": 24, "token_questions": 8},
    },
    "self-motivated": {
        "questions": "builtin:train=64,dev=12,test=24,unseen=0",
        "rft": {"seed_rationales": 48}, "votes": 2, "ppo": {"updates": 2},
    },
    "coalition": {"questions": "builtin:train=48,dev=12,test=16,unseen=0"},
}  # fmt: skip
"""A method and demos of minutes, to compare where there is no hour."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path)
    parser.add_argument("--small", nargs="*", choices=tuple(SMALL), default=())
    parser.add_argument("--model", default="default", help="of the small runs")
    parser.add_argument("--lora", action="store_true", help="on weights in bfloat16")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--json", type=Path, help="write the comparison here too")
    args = parser.parse_args()
    found = []
    if args.runs:
        found = [compared(run, *predicted_twice(run, args.clock), args.clock) for run in args.runs]
    for name in args.small or (() if args.runs else ("sft",)):
        with tempfile.TemporaryDirectory() as folder:
            found.append(run_and_compare(name, Path(folder) / name, args))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def run_and_compare(name: str, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A small run between the two calibrations."""
    given = {**SMALL[name], "model": args.model}
    if args.lora:
        given |= {"tuning": "lora", "dtype": "bfloat16"}
    what = DEMOS.get(name) or method_named(name)
    settings = from_dict(settings_of(what), given, "a small run")
    method = what.method if isinstance(what, Demo) else name
    before = predicted(method, settings, args.clock)
    (demo if isinstance(what, Demo) else train)(name, out, settings)
    after = predicted(method, settings, args.clock)
    return compared(out, before, after, args.clock)


def predicted_twice(run: Path, clock: str) -> tuple[Plan, Plan]:
    stored = dict(Run.read(run).config)
    method = stored.pop("method")
    cls = settings_of(_what(method))
    settings = from_dict(cls, {k: v for k, v in stored.items() if k != "base_hash"}, str(run))
    return predicted(method, settings, clock), predicted(method, settings, clock)


def predicted(method: str, settings: Any, clock: str) -> Plan:
    """From a fresh calibration."""
    what, known = _what(method), checked(settings)
    config: RunConfig = known.parts[RunConfig]
    tuning = config.load_policy().tuning if config.tuning == "auto" else config.tuning
    measured: Measured | None = None
    at = scene_of(known, tuning, Measured().lengths, 0.5)
    for _ in range(2):  # the second time with the lengths that the first has found
        work = list(work_of(what, method_stage(method), known, at))
        if measured is None:
            measured = calibrate(
                replace(config, tuning=tuning), at.train, work, clock=CLOCKS[clock][0]
            )
        at = replace(at, lengths=measured.lengths)
    sizes = sizes_from(source_of(config.model), name_of(config.model))
    process = measured.sizes.process
    measured = replace(measured, sizes=replace(sizes, process=process))
    return plan_of(at, work, measured, holders_of(known), "")


def compared(run: Path, one: Plan, other: Plan, clock: str) -> dict[str, Any]:
    """Print a table, and return it."""
    expected = {
        line.stage: (line.seconds + again.seconds) / 2
        for line, again in zip(one.lines, other.lines, strict=True)
        if line.seconds is not None and again.seconds is not None
    }
    took = measured_seconds(run, CLOCKS[clock][1])
    rows = [(name, expected.get(name, 0.0), took.get(name, 0.0)) for name in {**expected, **took}]
    print(f"\n{run.name}, {clock} seconds: predicted, measured")
    for name, a, b in [*rows, ("in all", sum(expected.values()), sum(took.values()))]:
        share = f"{a / b - 1:+.0%}" if a and b else ""
        print(f"  {name:<20} {a:>9.1f} {b:>9.1f} {share:>7}")
    peak = max(line["peak_MiB"] or 0 for line in times(run)) * 2**20
    files = {(s := p.stat()).st_ino: s.st_size for p in run.rglob("*") if p.is_file()}
    disk = sum(files.values())  # a link is the file that it links to
    result = {
        "run": run.name, "clock": clock, "stages": {n: [a, b] for n, a, b in rows},
        "seconds": [sum(expected.values()), sum(took.values())],
        "peak_GB": [(one.peak or 0) / 1e9, peak / 1e9],
        "disk_GB": [(one.disk or 0) / 1e9, disk / 1e9],
    }  # fmt: skip
    for name in ("peak_GB", "disk_GB"):
        print(f"  {name:<20} {result[name][0]:>9.2f} {result[name][1]:>9.2f}")
    return result


def measured_seconds(run: Path, column: str) -> dict[str, float]:
    """Seconds by the plan's lines, summed over what they hold."""
    found: dict[str, float] = {}
    for line in times(run):
        name = MODELS if line["part"] == BESIDE_STAGES else group_of(line["part"])
        found[name] = found.get(name, 0.0) + line[column]
    return found


def times(run: Path) -> Sequence[Mapping[str, Any]]:
    """All lines of the run's clock, the parts of the runs in its folder after their places."""
    lines = []
    for file in sorted(run.rglob(TIMES)):
        place = file.parent.relative_to(run).as_posix()
        for text in file.read_text().splitlines():
            line = json.loads(text)
            inside = place != "." and line["part"] != BESIDE_STAGES
            lines.append({**line, "part": f"{place}/{line['part']}" if inside else line["part"]})
    return lines


def _what(method: str) -> Any:
    return next((d for d in DEMOS.values() if d.method == method), None) or method_named(method)


if __name__ == "__main__":
    main()
