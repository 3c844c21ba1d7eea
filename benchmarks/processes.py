"""Learning steps of two processes with one thread each beside one process with two threads; and the
memory of a process that holds all weights beside one that holds a part (FSDP2).

    python benchmarks/processes.py
    python benchmarks/processes.py --rows 16 --steps 4 --repeats 3

Every row is 192 tokens, all but the first of them learned, in full tuning. Launches take turns:
one process (`one`), two that add up gradients (`ddp`), two that hold parts (`fsdp`). The figures of
a launch: tokens a second (the median of its steps but the first), and the memory that a process
holds between two steps and has held at most. The last losses of all must agree.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SIDES = {"one": (1, 2), "ddp": (2, 1), "fsdp": (2, 1)}
"""Processes, and threads of each."""
LENGTH = 192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--side", choices=SIDES, help="be a process of such a launch")
    args = parser.parse_args()
    if args.side:
        learn(args)
        return
    found: dict[str, list[list[dict[str, Any]]]] = {side: [] for side in SIDES}
    for _ in range(args.repeats):
        for side in SIDES:
            found[side].append(launch(side, args))
    losses = [one["loss"] for launches in found.values() for ranks in launches for one in ranks]
    if max(losses) - min(losses) > 1e-3 * max(losses):
        raise SystemExit(f"the losses differ: {losses}")
    speeds = {side: [ranks[0]["tokens_per_second"] for ranks in found[side]] for side in SIDES}
    result: dict[str, Any] = {
        "model": args.model, "rows": args.rows, "length": LENGTH, "steps": args.steps,
        "tokens_per_second": speeds, "n": args.repeats,
    }  # fmt: skip
    for side in ("ddp", "fsdp"):
        ratios = [a / b for a, b in zip(speeds[side], speeds["one"], strict=True)]
        result[f"{side}_over_one"] = {"median": statistics.median(ratios), "ratios": ratios}
    for side in SIDES:
        ranks = found[side][-1]
        result[f"{side}_MiB"] = {k: [r[k] for r in ranks] for k in ("between_steps", "peak")}
    print(json.dumps(result, indent=1))


def launch(side: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """What each process of a launch has measured."""
    size, threads = SIDES[side]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    with tempfile.TemporaryDirectory() as folder:
        asked = ["--side", side, "--model", args.model, "--rows", str(args.rows)]
        subprocess.run(
            [sys.executable, *torchrun, __file__, *asked, "--steps", str(args.steps)], check=True,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "MEASURED": folder},
        )  # fmt: skip
        return [json.loads(file.read_text()) for file in sorted(Path(folder).glob("*.json"))]


def learn(args: argparse.Namespace) -> None:
    """A process: some steps, and their figures."""
    import numpy as np

    from rationalize.models.forward import Row
    from rationalize.models.policy import load_policy
    from rationalize.processes import leave, world
    from rationalize.runs import Run, Stage
    from rationalize.training.loop import FitConfig, fit
    from rationalize.training.objectives import nll

    policy = load_policy(args.model, tuning="full", device="cpu")
    drawn = np.random.default_rng(0).integers(policy.n_vocab, size=(args.rows, LENGTH))
    rows = [Row((int(ids[0]),), tuple(map(int, ids[1:]))) for ids in drawn]
    folder = Path(os.environ["MEASURED"])
    seconds: list[float] = []
    began, between = 0.0, 0

    def batch_at(step: int) -> list[Row]:
        nonlocal began
        began = time.perf_counter()
        return rows

    def after_step(step: int) -> None:
        nonlocal between
        seconds.append(time.perf_counter() - began)
        between = mib("VmRSS")

    settings = {
        "checkpoint_every": float("inf"),
        "parallel": "ddp" if args.side == "one" else args.side,
    }
    config = FitConfig(learning_rate=1e-5, batch_size=args.rows, schedule="constant", warmup=0.0)
    with Run.open(folder / "run", settings) as run:
        stage = Stage(run, "s")
        fit(policy, nll, batch_at, config, stage, steps=args.steps + 1, after_step=after_step)
        figures = {
            "loss": run.metrics("s")[-1]["loss"], "between_steps": between, "peak": mib("VmHWM"),
            "tokens_per_second": args.rows * LENGTH / statistics.median(seconds[1:]),
        }  # fmt: skip
    (folder / f"{world().rank}.json").write_text(json.dumps(figures))
    leave()


def mib(what: str) -> int:
    """Of this process's memory, as the system says."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(round(int(line.split()[1]) / 1024) for line in lines if line.startswith(what))


if __name__ == "__main__":
    main()
