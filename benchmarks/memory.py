"""Peak memory of MaRio steps against SFT steps on the same rows, each in a process of its own.

    python benchmarks/memory.py --steps 3

The peak is the high-water mark of the resident set, once after the model was read and once at the
end. MaRio holds a frozen copy under full tuning, and its logits are there twice; under LoRA the
reference is the adapter switched off. `beside_the_copy` leaves the bytes of that copy out.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Literal

KINDS = ("sft-full", "mario-full", "sft-lora", "mario-lora")
BINS = {"consistency": 5, "correctness": 2, "plausibility": 5, "diversity": 5}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default")
    parser.add_argument("--questions", default="builtin")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--precision", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument("--one", choices=KINDS, help="measure this alone, in this process")
    args = parser.parse_args()
    if args.one:
        method, tuning = args.one.split("-")
        print(json.dumps(measure(args, method, tuning)))
        return
    found = {kind: in_a_fresh_process([*sys.argv[1:], "--one", kind]) for kind in KINDS}
    ratios = {}
    for tuning in ("full", "lora"):
        mario, sft = (found[f"{method}-{tuning}"] for method in ("mario", "sft"))
        ratios[tuning] = {
            "whole": mario["peak"] / sft["peak"],
            "beside_the_copy": (mario["peak"] - mario["frozen_copy"]) / sft["peak"],
        }
    result = {"ratio": ratios, "MiB": found, "steps": args.steps, "batch_size": args.batch_size}
    print(json.dumps(result, indent=1))


def in_a_fresh_process(arguments: Sequence[str]) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    args: argparse.Namespace, method: Literal["mario", "sft"], tuning: Literal["full", "lora"]
) -> dict[str, float]:
    """MiB after loading, at the end, and of the frozen copy."""
    from rationalize.models.policy import load_policy
    from rationalize.models.precision import Numbers
    from rationalize.questions import load_splits
    from rationalize.runs import Run, Stage
    from rationalize.sampling.writing import teacher_attempts
    from rationalize.signals.draws import shuffled_passes
    from rationalize.training.batches import RowMaker
    from rationalize.training.loop import FitConfig, fit
    from rationalize.training.objectives import nll, quark

    attempts = teacher_attempts(load_splits(args.questions)["train"], "all")
    policy = load_policy(args.model, tuning=tuning, numbers=Numbers(args.precision), device="cpu")
    loaded = high_water()
    control, loss, frozen_copy = None, nll, 0.0
    if method == "mario":
        policy.add_controls(BINS)
        reference = policy.become_reference()
        loss = quark(reference, beta=0.1, alpha=0.0, direction="reverse")
        control = dict.fromkeys(BINS, 0)
        with reference() as frozen:
            if frozen is not policy:
                sizes = [p.numel() * p.element_size() for p in frozen.model.parameters()]
                frozen_copy = sum(sizes) / 2**20
    maker = RowMaker(policy)

    def batch_at(step: int):
        drawn = shuffled_passes(len(attempts), args.batch_size, step, 0)
        return [maker.attempt(attempts[i], control) for i in drawn]

    config, never = FitConfig(batch_size=args.batch_size), {"checkpoint_every": float("inf")}
    with tempfile.TemporaryDirectory() as folder, Run.open(folder, never) as run:
        fit(policy, loss, batch_at, config, Stage(run, method), steps=args.steps)
    return {"loaded": loaded, "peak": high_water(), "frozen_copy": frozen_copy}


def high_water() -> float:
    """MiB that this process has held at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


if __name__ == "__main__":
    main()
