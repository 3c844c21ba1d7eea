"""What makes a small model obey soonest? One SFT model, one pool, many settings of MaRio.

    python experiments/obedience.py RUN --out runs/obedience    # RUN: a finished `rationalize demo`

Every setting starts from the demo's SFT model and its first pool (the teacher's samples and one
exploration), learns for `--steps` steps without exploring again, and is asked on development
questions for the best and for the worst bin of each reward. Test questions are not read.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from rationalize.config import from_dict
from rationalize.config.compose import split
from rationalize.evaluation.obedience import obedience, token_metrics
from rationalize.methods import DEMOS
from rationalize.methods.launch import make_experiment, settings_of, tokens_of
from rationalize.methods.mario import control_bins, mario
from rationalize.methods.scoring import Scoring
from rationalize.methods.settings import ScorerFolders
from rationalize.runs import Run
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import Provenance

SETTINGS = {
    "as in the demo": {},
    "control rows x1": {"fit": {"control_factor": 1.0}},
    "control rows x100": {"fit": {"control_factor": 100.0}},
    "three tokens a control": {"control_copies": 3},
    "rows from words": {"control_init": "words"},
    "uniform draws": {"over_draw": 1.0},
    "five bins": {"bins": 5},
    "no KL": {"beta": 0.0},
    "learning rate x0.3": {"fit": {"learning_rate": 3e-5}},
    "learning rate x0.3, control rows x60": {
        "fit": {"learning_rate": 3e-5, "control_factor": 60.0}
    },
    "guidance 1 at decoding": {"guidance": 1.0},
    "guidance 2 at decoding": {"guidance": 2.0},
    "twice the rows": {"steps": 2},
}
"""Changes to the demo's MaRio, one at a time; `steps` is a multiple."""

TRAINED_ALIKE = {
    "guidance 1 at decoding": "as in the demo",
    "guidance 2 at decoding": "as in the demo",
}
"""Settings of decoding alone: they ask another setting's model."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS))
    parser.add_argument("--questions", help="other development questions: `builtin:..,dev=60,..`")
    args = parser.parse_args()

    demo = Run.read(args.run)
    stored = {key: value for key, value in demo.config.items() if key != "method"}
    settings = from_dict(settings_of(DEMOS["mario"]), stored, str(args.run))
    config, _, evaluation, run_config = split(settings)
    splits = run_config.load_splits()
    if args.questions:
        trained = {q.id for q in splits["train"]}
        splits = dataclasses.replace(run_config, questions=args.questions).load_splits()
        if {q.id for q in splits["train"]} != trained:
            raise SystemExit("--questions must have the run's train questions, or the pool is lost")
    base = run_config.load_policy(tuning="full")
    folders = ScorerFolders(str(args.run / "scorers/answer"), str(args.run / "scorers/verifier"))
    tokens = evaluation.evaluation_tokens or tokens_of(config)
    rows = []
    for name in args.settings:
        changes = {k: v for k, v in SETTINGS[name].items() if k not in ("fit", "steps")}
        steps = args.steps * SETTINGS[name].get("steps", 1)
        own = dataclasses.replace(
            config.mario, **changes, steps=steps, sample_interval=steps, obedience="none",
            select_by="diversity",
            fit=dataclasses.replace(config.mario.fit, **SETTINGS[name].get("fit", {})),
        )  # fmt: skip
        trained_as = TRAINED_ALIKE.get(name, name)
        with Run.open(
            args.out / trained_as.replace(" ", "-"), {"setting": trained_as, "steps": steps}
        ) as run:
            scoring = Scoring(own.rewards, folders)
            exp = make_experiment(run, base, run_config, scoring, tokens=tokens, splits=splits)
            run.append(demo.read_shard("mario-0-round0"), "mario-round0")
            policy = exp.load_policy(args.run / "policies" / "sft-0")
            mario(exp, policy, dataclasses.replace(own, guidance=0.0), exp.stage("mario"))
            bins = control_bins(own, exp.suite)
            found = obedience(
                Sampler(policy, guidance=own.guidance), exp.suite, exp.dev, exp.evaluation,
                Provenance("dev", 0),
                bins={n: range(k) for n, k in bins.items()}, which="ends",
                metrics=token_metrics(exp.suite, bins),
            )  # fmt: skip
        rows += [
            {"setting": name, "steps": steps, "rows": steps * own.fit.batch_size, **row}
            for row in found
        ]
        (args.out / "obedience.json").write_text(json.dumps(rows, indent=1))
        print(table(rows), flush=True)


def table(rows: list[dict]) -> str:
    """Per setting and reward: reached under the best token, under the worst, and the paired gap."""
    lines = [
        "| setting | rows | reward | best | worst | gap (95 %) | p |",
        "|---|---|---|---|---|---|---|",
    ]
    for best, worst in zip(rows[::2], rows[1::2], strict=True):
        gap = worst["gap"]
        lines.append(
            f"| {best['setting']} | {best['rows']} | {best['reward']} | {best['mean']:.3f} "
            f"| {worst['mean']:.3f} | "
            f"{gap['mean']:+.3f} [{gap['low']:+.3f}, {gap['high']:+.3f}] | {gap['p']:.3f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
