"""Does MaRio lose accuracy to the wrong teacher samples in its pool? Two runs of builtin.yaml, one
with `--mario.teacher all`, measured on development questions that neither was selected on.

    rationalize demo --config experiments/builtin.yaml --out runs/correct
    rationalize demo --config experiments/builtin.yaml --mario.teacher all --out runs/all
    python experiments/teacher_samples.py runs/correct runs/all --questions 200
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from rationalize.config import from_dict
from rationalize.evaluation.intervals import paired_difference
from rationalize.methods.common import load_method_splits
from rationalize.methods.demo import DemoConfig
from rationalize.methods.mario import best_prefix
from rationalize.models.policy import load_policy
from rationalize.questions import load_splits
from rationalize.records import Question
from rationalize.runs import read_config
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("correct", type=Path)
    parser.add_argument("all", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    args = parser.parse_args()
    configs = {name: demo_config(getattr(args, name)) for name in ("correct", "all")}
    config = configs["correct"]
    questions = fresh_questions(config, args.questions)
    right: dict[str, list[np.ndarray]] = {"SFT": [], "correct": [], "all": []}
    for seed in config.seeds:
        right["SFT"].append(measure(args.correct / "policies" / f"sft-{seed}", config, questions))
        for name, own in configs.items():
            folder = getattr(args, name) / "policies" / f"mario-{seed}"
            right[name].append(measure(folder, own, questions, best_prefix(own.mario)))
    for name, own in right.items():
        print(f"{name:<8} accuracy of each seed: {' '.join(f'{r.mean():.3f}' for r in own)}")
    means = {name: np.mean(own, axis=0) for name, own in right.items()}
    for a, b in (("correct", "SFT"), ("all", "SFT"), ("correct", "all")):
        d = paired_difference(means[a], means[b])
        print(f"{a} - {b}: {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}], p {d.p:.3f}, n {d.n}")


def demo_config(run: Path) -> DemoConfig:
    stored = {k: v for k, v in read_config(run / "config.yaml").items() if k != "method"}
    return from_dict(DemoConfig, stored, str(run))


def fresh_questions(config: DemoConfig, count: int) -> list[Question]:
    """More development questions of the same generator, none of them in another split."""
    splits = load_method_splits(config)
    used = {(q.question, q.choices) for own in splits.values() for q in own}
    more = load_splits(f"builtin:train={len(splits['train'])},dev={count},test=0,unseen=0")["dev"]
    return [q for q in more if (q.question, q.choices) not in used]


def measure(
    folder: Path, config: DemoConfig, questions: list[Question], control: dict | None = None
) -> np.ndarray:
    """1 for every question that is answered right, greedily."""
    policy = load_policy(folder)
    attempts = write_attempts(
        Sampler(policy), questions, config.evaluation_sampling, Provenance("dev", seed=0),
        PromptOptions(control=control), label=str(folder),
    )  # fmt: skip
    return np.array([float(a.prediction == a.gold) for a in attempts])


if __name__ == "__main__":
    main()
