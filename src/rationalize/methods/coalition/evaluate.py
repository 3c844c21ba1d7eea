"""How a coalition is evaluated: its row on held-out questions, and those of other routings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from rationalize.evaluation.baselines import BASE, MAJORITY
from rationalize.evaluation.compare import Methods
from rationalize.evaluation.voting import chosen_attempt
from rationalize.methods.base import Experiment, Learned, final_stage, log_dev
from rationalize.methods.coalition.config import FOR_UTILITIES, CoalitionConfig
from rationalize.methods.coalition.diagnostics import reading_rows
from rationalize.methods.coalition.inference import (
    CONTROLLER,
    FIXED,
    Chain,
    Coalition,
    surest,
)
from rationalize.methods.coalition.table import (
    ALONE,
    CROSS,
    OTHERS,
    SELF,
    SUREST,
    rows_of_table,
)
from rationalize.methods.outcome import base_row, majority_row, trained_rows, write_results
from rationalize.progress import say
from rationalize.records import Attempt
from rationalize.rewards.base import Reward
from rationalize.runs import Run, Stage, slug
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import question_seed

COALITION = "COALITION"
"""A coalition's own row: the controller says who works."""

SELF_CONSISTENCY = "self-consistency"
"""Row of the majority among sampled chains of M_IFT, at no fewer tokens than the coalition's."""

SUREST_DRAW = "surest draw of M_IFT"
"""Row of the one of the same chains whose answer M_IFT is surest of."""

FROM_BASE = (SELF_CONSISTENCY, SUREST_DRAW)

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

    # every routing is a look-up in the table of an evaluation split
    longest = exp.evaluation.max_new_tokens
    sampling = replace(learned.config.candidates.sampling, n=1, max_new_tokens=longest)
    tokens, chains = {}, []
    for split in exp.final_splits:
        fixed = exp.run.read_json(f"{FIXED}.json")
        rows = rows_of_table(exp, coalition, learned.config, split, name, fixed)
        cost = spent(rows[name])
        rows |= drawn_from_base(exp, coalition, sampling, split, cost)
        for row, attempts in rows.items():
            methods.setdefault(row, {})[split] = {exp.seed: attempts}
        tokens[split] = {row: spent(attempts) for row, attempts in rows.items()}
        means = ", ".join(f"{row} {mean:.0f}" for row, mean in tokens[split].items())
        say(f"tokens written a question, {split}: {means}")
        cells = exp.run.read_json(f"chains/table-{split}.json")
        picked = [cell for cell in cells if cell["picked"]] or cells
        chains += [{"method": name, "split": split, **chain} for chain in picked]

    meta: dict[str, Any] = {"tokens_a_question": tokens, "seeds": [exp.seed]}
    if started is not None:
        meta["seconds"] = time.monotonic() - started
    beside = [row for row in (*OTHERS, *FROM_BASE, MAJORITY) if row in methods]
    pairs = [*((name, row) for row in beside), *pairs]
    also = [(CROSS, SELF), *((SUREST, row) for row in (ALONE, *FROM_BASE))]
    pairs += [pair for pair in also if set(pair) <= set(methods)]
    write_results(
        exp, methods, pairs, meta, chains=chains, trained=trained_rows(name, learned.trained or {}),
        **measured(exp.run, exp.final_splits),
    )  # fmt: skip
    coalition.save(learned.weights, reply_tokens=longest)
    print(f"coalition: {learned.weights}\nreport: {exp.run.path / 'report.html'}")


def dev_accuracy(
    exp: Experiment, coalition: Coalition, stage: Stage, name: str, round: int
) -> float:
    """Share of development questions that chains by chance answer right, or the surest of all
    variants where the coalition shall answer so; every metric is logged.
    """

    def write() -> list[Attempt]:
        by_chance = replace(coalition, controller=False)
        chains = by_chance.chains(exp.dev, exp.evaluation, split="dev", seed=exp.seed)
        exp.run.write_json(f"chains/{slug(name)}-dev.json", [c.as_row() for c in chains])
        attempts = [c.as_attempt(name, exp.seed) for c in chains]
        return exp.suite.score(attempts, {q.id: q for q in exp.dev})

    attempts = exp.stage("dev", needs=FOR_UTILITIES).attempts(name, write)
    return log_dev(exp, stage, attempts, round=round, step=round)["accuracy"]


def drawn_from_base(
    exp: Experiment, coalition: Coalition, sampling: SamplingConfig, split: str, tokens: float
) -> dict[str, list[Attempt]]:
    """Two rows that choose among each question's sampled chains of M_IFT: the first with the
    majority's answer, and the one whose answer M_IFT is surest of. Each bears the tokens of all.
    There are as many chains as cost `tokens` a question, three at least. They have to differ: they
    are drawn at temperature 1 where candidates are greedy or searched.
    """
    questions = exp.splits[split]
    if sampling.greedy or sampling.beams > 1:
        sampling = replace(sampling, temperature=1.0, beams=1)

    @cache
    def chains() -> list[tuple[Chain, ...]]:
        """Of each question."""
        draws: list[list[Chain]] = []
        while len(draws) < FEWEST or 0 < sum(map(cost, draws)) < tokens:
            draws.append(coalition.chains(
                questions, sampling, split=split, routing="base",
                seed=question_seed(exp.seed, SELF_CONSISTENCY, len(draws)),
            ))  # fmt: skip
        say(f"{SELF_CONSISTENCY}: {len(draws)} votes")
        return list(zip(*draws, strict=True))

    def cost(draw: Sequence[Chain]) -> float:
        return spent([c.as_attempt("") for c in draw])

    def majority() -> list[Attempt]:
        chosen = []
        for question, group in zip(questions, chains(), strict=True):
            votes = [c.as_attempt(SELF_CONSISTENCY, exp.seed) for c in group]
            first = chosen_attempt(votes, question)
            chosen.append(replace(first, n_tokens=sum(a.n_tokens for a in votes)))
        return chosen

    def most_certain() -> list[Attempt]:
        return [surest(group).as_attempt(SUREST_DRAW, exp.seed) for group in chains()]

    def stored(row: str, choose: Callable[[], list[Attempt]]) -> list[Attempt]:
        by_id = {q.id: q for q in questions}
        return final_stage(exp.run, row).attempts(
            f"{split}-{exp.seed}", lambda: exp.suite.score(choose(), by_id)
        )

    return {
        SELF_CONSISTENCY: stored(SELF_CONSISTENCY, majority),
        SUREST_DRAW: stored(SUREST_DRAW, most_certain),
    }


def spent(attempts: Sequence[Attempt]) -> float:
    """Tokens written a question."""
    return float(np.mean([a.n_tokens for a in attempts]))


def measured(run: Run, splits: Sequence[str]) -> dict[str, Any]:
    """What was stored on the coalition itself on the way, as rows for the page."""
    reading, facts = run.read_json("reading.json"), run.done(CONTROLLER) or {}
    facts = facts if facts.get("learned_from") else {}  # else chance picks
    rounds = run.read_json("rounds.json")
    names = list(rounds["dev_accuracy"])
    of_round = {row["round"]: row for row in _by_round(run, rounds["stage"])}
    return {
        "reading": reading_rows(reading),
        "variance": [
            {"when": when, **row}
            for when in [*names, *splits]
            if (row := run.read_json(f"variance-{when}.json"))
        ],
        "variants": [
            {"when": when, **row}
            for when in names
            for row in run.read_json(f"clones-{when}.json") or []
        ],
        "preference_pairs": [
            {"when": when, "variant": variant, **row}
            for when in names[1:]
            for variant in rounds["variants"]
            if (row := run.done(f"{variant}-{when}"))
        ],
        "leak": [
            {"when": when, **row}
            for when in names[1:]
            if (row := run.read_json(f"leak-{when}.json"))
        ],
        "preference_rounds": [
            {"when": when, "kept": when == rounds["kept"], **of_round.get(i, {})}
            for i, when in enumerate(names)
        ],
        "refining": run.read_json("refining-final.json") or [],
        "controller": [
            {"choice": kind, **facts[kind]} for kind in ("write", "refine") if kind in facts
        ],
    }


def _by_round(run: Run, stage: str) -> list[dict[str, Any]]:
    """Accuracy and utility on development questions after each round of preference learning."""
    rows: dict[int, dict[str, Any]] = {}
    for line in run.metrics(f"{stage}/rounds"):
        if line["reward"] in ("accuracy", "utility"):
            row = rows.setdefault(line["round"], {"round": line["round"], "n": line["n"]})
            row[line["reward"]] = {key: line[key] for key in ("mean", "low", "high")}
    return list(rows.values())
