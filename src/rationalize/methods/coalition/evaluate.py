"""How a coalition is evaluated: its chains on held-out questions, and those of other routings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rationalize.evaluation.baselines import BASE, MAJORITY
from rationalize.evaluation.compare import Methods
from rationalize.evaluation.voting import chosen_attempt
from rationalize.methods.base import Experiment, Learned, final_stage, log_dev
from rationalize.methods.coalition.config import FOR_UTILITIES, CoalitionConfig
from rationalize.methods.coalition.inference import CONTROLLER, Chain, Coalition, Routing
from rationalize.methods.outcome import base_row, majority_row, trained_rows, write_results
from rationalize.progress import say
from rationalize.records import Attempt
from rationalize.rewards.base import Reward
from rationalize.runs import Run, Stage, slug
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import question_seed

COALITION = "COALITION"
"""A coalition's own row: the controller says who works."""

OTHERS: dict[str, Routing] = {
    "random controller": "random", "self-refinement": "self", "no refinement": "keep",
    "M_IFT alone": "base",
}  # fmt: skip
"""Rows of the same models with others at work. The controller may keep a rationale, and so may
chance; `self-refinement` always refines, `no refinement` never.
"""

SELF_CONSISTENCY = "self-consistency"
"""Row of the majority among sampled chains of M_IFT, at no fewer tokens than the coalition's."""

FEWEST = 3  # of two votes that differ, neither has a majority


@dataclass(frozen=True, kw_only=True)
class LearnedCoalition(Learned):
    """What COALITION leaves behind, and what its evaluation needs."""

    config: CoalitionConfig
    utility: Reward
    """The utility that its pairs were chosen by, as a reward."""


def conclude(
    exp: Experiment, learned: LearnedCoalition, name: str = COALITION,
    methods: Methods | None = None, pairs: Sequence[tuple[str, str]] = (),
    started: float | None = None,
) -> None:  # fmt: skip
    """Score the evaluation splits once; write `results.json`, `report.html` and `coalition/`.

    `methods` are rows that stand beside the coalition's, with comparisons `pairs` of their own
    (none: the base model's); `started` is when this start began, by `time.monotonic()`.
    """
    coalition = learned.policy
    if methods is None:
        methods, pairs = {BASE: base_row(exp)}, [(name, BASE)]
    exp = exp.with_reward(learned.utility)
    judged = exp.suite.only("utility")
    for row, splits in methods.items():  # written before there was a judge
        for split, seeds in splits.items():
            seeds |= {s: exp.judged(a, judged, row, split, s) for s, a in seeds.items()}
    methods[MAJORITY] = majority_row(exp)
    if not coalition.controller:
        say("no controller was trained (no question was kept aside for it, or no choice made a "
            f"difference): {name}'s row is the random controller's")  # fmt: skip

    # every routing answers every evaluation split
    routings: dict[str, Routing] = {name: "controller", **OTHERS}
    sampling = replace(learned.config.candidates.sampling, n=1)
    tokens, chains = {}, []
    for split in exp.final_splits:
        rows = {
            row: evaluate_chains(exp, coalition, row, split, routing)
            for row, routing in routings.items()
        }
        cost = spent(rows[name])
        rows[SELF_CONSISTENCY] = self_consistency(exp, coalition, sampling, split, cost)
        for row, attempts in rows.items():
            methods.setdefault(row, {})[split] = {exp.seed: attempts}
        tokens[split] = {row: spent(attempts) for row, attempts in rows.items()}
        means = ", ".join(f"{row} {mean:.0f}" for row, mean in tokens[split].items())
        say(f"tokens written a question, {split}: {means}")
        chains += [
            {"method": row, "split": split, **chain}
            for row in routings
            for chain in exp.run.read_json(_chain_file(row, split))
        ]

    meta: dict[str, Any] = {"tokens_a_question": tokens, "seeds": [exp.seed]}
    if started is not None:
        meta["seconds"] = time.monotonic() - started
    pairs = [*((name, row) for row in (*OTHERS, SELF_CONSISTENCY, MAJORITY)), *pairs]
    write_results(
        exp, methods, pairs, meta, chains=chains, trained=trained_rows(name, learned.trained or {}),
        **measured(exp.run),
    )  # fmt: skip
    coalition.save(learned.weights)
    print(f"coalition: {learned.weights}\nreport: {exp.run.path / 'report.html'}")


def evaluate_chains(
    exp: Experiment, coalition: Coalition, row: str, split: str, routing: Routing
) -> list[Attempt]:
    """The chains of a split as scored attempts; both are stored, so that none is written twice."""

    def write() -> list[Chain]:
        return coalition.chains(
            exp.splits[split], exp.evaluation, split=split, seed=exp.seed, routing=routing
        )

    return _stored(exp, final_stage(exp.run, row), f"{split}-{exp.seed}", row, split, write)


def dev_accuracy(
    exp: Experiment, coalition: Coalition, stage: Stage, name: str, round: int
) -> float:
    """Share of development questions that chains by chance answer right; every metric is logged."""

    def write() -> list[Chain]:
        by_chance = replace(coalition, controller=False)
        return by_chance.chains(exp.dev, exp.evaluation, split="dev", seed=exp.seed)

    attempts = _stored(exp, exp.stage("dev", needs=FOR_UTILITIES), name, name, "dev", write)
    return log_dev(exp, stage, attempts, round=round, step=round)["accuracy"]


def _stored(
    exp: Experiment, stage: Stage, part: str, row: str, split: str,
    write: Callable[[], list[Chain]],
) -> list[Attempt]:  # fmt: skip
    """Chains as scored attempts of a row, stored as a part of the stage; and as a file."""

    def scored() -> list[Attempt]:
        chains = write()
        exp.run.write_json(_chain_file(row, split), [c.as_row() for c in chains])
        attempts = [c.as_attempt(row, exp.seed) for c in chains]
        return exp.suite.score(attempts, {q.id: q for q in exp.splits[split]})

    return stage.attempts(part, scored)


def self_consistency(
    exp: Experiment, coalition: Coalition, sampling: SamplingConfig, split: str, tokens: float
) -> list[Attempt]:
    """Of each question's sampled chains of M_IFT the first with the majority's answer; it bears the
    tokens of all. There are as many chains as cost `tokens` a question, three at least.
    """
    questions = exp.splits[split]

    def write() -> list[Attempt]:
        votes: list[list[Attempt]] = []
        while len(votes) < FEWEST or 0 < sum(map(spent, votes)) < tokens:
            chains = coalition.chains(
                questions, sampling, split=split, routing="base",
                seed=question_seed(exp.seed, SELF_CONSISTENCY, len(votes)),
            )  # fmt: skip
            votes.append([c.as_attempt(SELF_CONSISTENCY, exp.seed) for c in chains])
        chosen = []
        for question, *group in zip(questions, *votes, strict=True):
            first = chosen_attempt(group, question)
            chosen.append(replace(first, n_tokens=sum(a.n_tokens for a in group)))
        say(f"{SELF_CONSISTENCY}: {len(votes)} votes")
        return exp.suite.score(chosen, {q.id: q for q in questions})

    return final_stage(exp.run, SELF_CONSISTENCY).attempts(f"{split}-{exp.seed}", write)


def spent(attempts: Sequence[Attempt]) -> float:
    """Tokens written a question."""
    return float(np.mean([a.n_tokens for a in attempts]))


def measured(run: Run) -> dict[str, Any]:
    """What was stored on the coalition itself on the way, as rows for the page."""
    reading, facts = run.read_json("reading.json"), run.done(CONTROLLER) or {}
    facts = facts if facts.get("learned_from") else {}  # else chance picks
    return {
        "reading": [reading] if reading else [],
        "variants": [
            {"when": when, **row}
            for when in run.read_json("rounds.json")["dev_accuracy"]
            for row in run.read_json(f"clones-{when}.json") or []
        ],
        "refining": run.read_json("refining-final.json") or [],
        "controller": [
            {"choice": kind, **facts[kind]} for kind in ("write", "refine") if kind in facts
        ],
    }


def _chain_file(row: str, split: str) -> str:
    return f"chains/{slug(row.lower())}-{split}.json"
