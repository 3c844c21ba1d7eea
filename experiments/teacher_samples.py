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
from rationalize.config.compose import split
from rationalize.evaluation.intervals import paired_difference
from rationalize.methods import DEMOS
from rationalize.methods.demos.mario import MarioDemoConfig
from rationalize.methods.launch import settings_of
from rationalize.methods.mario_config import best_prefix
from rationalize.methods.settings import RunConfig
from rationalize.models.policy import load_policy
from rationalize.questions import load_splits
from rationalize.records import Question
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import PromptOptions, Provenance, write_attempts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("correct", type=Path)
    parser.add_argument("all", type=Path)
    parser.add_argument("--questions", type=int, default=200)
    args = parser.parse_args()
    settings = {name: demo_settings(getattr(args, name)) for name in ("correct", "all")}
    config, run_config, greedy = settings["correct"]
    questions = fresh_questions(run_config, args.questions)
    right: dict[str, list[np.ndarray]] = {"SFT": [], "correct": [], "all": []}
    for seed in config.seeds:
        right["SFT"].append(measure(args.correct / "policies" / f"sft-{seed}", greedy, questions))
        for name, (own, _, sampling) in settings.items():
            folder = getattr(args, name) / "policies" / f"mario-{seed}"
            right[name].append(measure(folder, sampling, questions, best_prefix(own.mario)))
    for name, own in right.items():
        print(f"{name:<8} accuracy of each seed: {' '.join(f'{r.mean():.3f}' for r in own)}")
    means = {name: np.mean(own, axis=0) for name, own in right.items()}
    for a, b in (("correct", "SFT"), ("all", "SFT"), ("correct", "all")):
        d = paired_difference(means[a], means[b])
        print(f"{a} - {b}: {d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}], p {d.p:.3f}, n {d.n}")


def demo_settings(run: Path) -> tuple[MarioDemoConfig, RunConfig, SamplingConfig]:
    """A demo's own settings, its run's, and how its development questions were answered."""
    stored = {key: value for key, value in Run.read(run).config.items() if key != "method"}
    settings = from_dict(settings_of(DEMOS["mario"]), stored, str(run))
    config, _, evaluation, run_config = split(settings)
    tokens = evaluation.evaluation_tokens
    return config, run_config, SamplingConfig(temperature=0.0, max_new_tokens=tokens)


def fresh_questions(config: RunConfig, count: int) -> list[Question]:
    """More development questions of the same generator, none of them in another split."""
    splits = config.load_splits()
    used = {(q.question, q.choices) for own in splits.values() for q in own}
    more = load_splits(f"builtin:train={len(splits['train'])},dev={count},test=0,unseen=0")["dev"]
    return [q for q in more if (q.question, q.choices) not in used]


def measure(
    folder: Path, greedy: SamplingConfig, questions: list[Question], control: dict | None = None
) -> np.ndarray:
    """1 for every question that is answered right, greedily."""
    policy = load_policy(folder)
    attempts = write_attempts(
        Sampler(policy),
        questions,
        greedy,
        Provenance("dev", 0),
        PromptOptions(control=control),
        label=str(folder),
    )
    return np.array([float(a.prediction == a.gold) for a in attempts])


if __name__ == "__main__":
    main()
