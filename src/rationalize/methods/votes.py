"""Several attempts at each test question: what a vote among them answers, as rows of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from rationalize.evaluation.compare import Methods
from rationalize.evaluation.voting import chosen_attempt, scaling_curve
from rationalize.methods.base import Experiment, Learned, final_stage
from rationalize.methods.self_motivated import load_reward_model
from rationalize.records import Attempt, Question
from rationalize.rewards.reward_model import reward_model as reward_of
from rationalize.runs import Stage
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Provenance, write_attempts

REWARD = "reward_model"


def vote(
    exp: Experiment, methods: Methods, row: str, learned: Learned, sampling: SamplingConfig
) -> list[dict[str, Any]]:
    """Add the rows of a vote among `sampling.n` attempts of a row's policy: the majority's answer,
    and by its reward model, where the gate is open, the best one and a weighted vote.

    Returns the rows of the section `votes`: what k attempts are worth.
    """
    judge = None
    if learned.reward_model and not learned.closed:
        reward = reward_of(load_reward_model(exp, learned.reward_model))
        judge = exp.suite.with_reward(reward).only(REWARD)
    score = REWARD if judge else None
    name, n, seed = row.partition(" (")[0], sampling.n, exp.seed
    # row -> the options of `chosen_attempt`
    rules: dict[str, dict[str, Any]] = {f"{name}, majority of {n}": {}}
    if score:
        rules[f"{name}, best of {n} by reward model"] = {"score": score}
        rules[f"{name}, {n} votes weighted by reward model"] = {"score": score, "weighted": True}
    curves: list[dict[str, Any]] = []
    for split in exp.final_splits:
        questions = {q.id: q for q in exp.splits[split]}

        def write(split: str = split, questions=questions) -> list[Attempt]:
            attempts = write_attempts(
                Sampler(exp.load_policy(learned.weights)), list(questions.values()), sampling,
                Provenance(split, seed, writer=f"{row} votes"), label=f"{row} votes on {split}",
            )  # fmt: skip
            return exp.suite.score(attempts, questions)

        attempts = Stage(exp.run, "votes").attempts(f"{split}-{seed}", write)
        if judge:
            attempts = exp.judged(attempts, judge, "votes", split, seed)
        groups: dict[str, list[Attempt]] = {id: [] for id in questions}
        for attempt in attempts:
            groups[attempt.question_id].append(attempt)
        for label, rule in rules.items():
            pick = partial(chosen, groups, questions, rule, label, seed)
            picked = final_stage(exp.run, label).attempts(f"{split}-{seed}", pick)
            methods.setdefault(label, {}).setdefault(split, {})[seed] = picked
        where = f"{row} on {split}, seed {seed}"
        curve = scaling_curve(attempts, questions, score=score)
        curves += [{"method": where, **point} for point in curve]
    return curves


def chosen(
    groups: Mapping[str, Sequence[Attempt]], questions: Mapping[str, Question],
    rule: Mapping[str, Any], label: str, seed: int,
) -> list[Attempt]:  # fmt: skip
    """Of each question's attempts the one that a rule of voting answers with, as the row's own."""
    return [
        replace(chosen_attempt(group, questions[id], **rule), id=f"{label}/{seed}/{id}",
                writer=label, seed=seed)
        for id, group in groups.items()
    ]  # fmt: skip


def score_by_reward_models(
    exp: Experiment, methods: Methods, models: Mapping[int, Path]
) -> Experiment:
    """Give every attempt of the table the score of its seed's reward model; rows without such a
    seed, the baselines, get the first one's. Returns the experiment with the last one among its
    rewards.
    """
    for seed, folder in models.items():
        exp = exp.with_reward(reward_of(load_reward_model(exp, folder)))
        alone = exp.suite.only(REWARD)
        for label, splits in methods.items():
            for split, seeds in splits.items():
                for of, attempts in seeds.items():
                    if of == seed or (of not in models and seed == min(models)):
                        seeds[of] = exp.judged(attempts, alone, label, split, of)
    return exp
