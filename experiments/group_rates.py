"""Which learning rate suits GRPO and GDPO? Short runs from one SFT model, on development questions.

    python experiments/group_rates.py --out runs/mario-links --scorers SCORERS

Starts from what `mario_links.py prepare` left in the folder. Test questions are not read.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
from mario_links import open_start, scoring_suite, store, stored

from rationalize.evaluation.intervals import paired_difference
from rationalize.evaluation.metrics import metrics_of, per_question
from rationalize.methods.demos.mario import GROUPS
from rationalize.methods.grpo import GdpoConfig, GrpoConfig, grpo
from rationalize.runs import Run

RATES = tuple(f"{method} {rate}" for rate in (2e-5, 1e-4, 5e-6) for method in ("grpo", "gdpo"))


def rates(out: Path, name: str, scorers: Path) -> None:
    """GRPO or GDPO at one rate (`grpo 2e-05`): development NRG from the start to the end."""
    method, rate = name.split()
    if any(row["try"] == name for row in stored("group_rates")["tables"].get("rates", [])):
        return
    run, exp = open_start(out)
    with run, Run.open(out / "rates" / name.replace(" ", "-"), {"try": name}) as own:
        suite, dev = scoring_suite(exp, scorers), exp.dev[120:180]
        exp = replace(exp, run=own, suite=suite, splits={**exp.splits, "dev": dev})
        changes = {**GROUPS, "updates": 12, "evaluate_every": 12}
        changes["fit"] = replace(changes["fit"], learning_rate=float(rate))
        config = (GrpoConfig if method == "grpo" else GdpoConfig)(**changes)
        policy, stage = exp.load_policy(out / "start" / "policies" / "sft"), exp.stage(method)
        grpo(exp, policy, config, stage)
        by_id, metrics = {q.id: q for q in dev}, metrics_of(suite.trainable)
        rows = []
        for metric in metrics:
            before, after = (
                list(per_question(stage.stored(f"dev{step}") or [], by_id, metric).values())
                for step in (0, config.updates * config.steps_per_update)
            )
            gap = paired_difference(after, before)
            rows.append({
                "metric": metric.name, "n": len(dev), "before": float(np.mean(before)),
                "after": float(np.mean(after)),
                "change": {"mean": gap.mean, "low": gap.low, "high": gap.high}, "p": gap.p,
            })  # fmt: skip
        facts = stage.metrics("rollouts")
        kl = float(np.mean([r["kl"] for r in facts[-3:]]))
        rows = [{**row, "kl": kl, "updates": config.updates} for row in rows]
        store("rates", name, rows, "group_rates")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--scorers", type=Path, required=True)
    parser.add_argument("--rates", nargs="*", default=list(RATES))
    args = parser.parse_args()
    for name in args.rates:
        rates(args.out, name, args.scorers)


if __name__ == "__main__":
    main()
