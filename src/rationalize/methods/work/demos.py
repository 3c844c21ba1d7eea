"""The work of the demos: baselines, rows, and what stands beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rationalize.evaluation.baselines import BASE, FEW_SHOT
from rationalize.methods import load, method_named
from rationalize.methods.demos.coalition import CoalitionDemoConfig
from rationalize.methods.demos.mario import (
    PREFLIGHT,
    SELF_TESTED,
    MarioDemoConfig,
    rows_of,
)
from rationalize.methods.demos.self_motivated import RANK, SelfMotivatedDemoConfig
from rationalize.methods.experiment import DIRECT, SFT, Row
from rationalize.methods.sft import SftConfig, StartConfig
from rationalize.methods.work.coalition import coalition_work, conclude_work
from rationalize.methods.work.learners import direct_work
from rationalize.methods.work.own import ppo_work, rank_work, relearn_work, seed_work
from rationalize.methods.work.parts import MODELS, Stores, Work, Writes
from rationalize.methods.work.scene import Scene
from rationalize.models.exported import REPLIES, TOKENS
from rationalize.rewards.base import ATTACKS
from rationalize.sampling.writing import teacher_attempts

StageWork = Callable[[Scene, Any, str], Iterator[Work]]

PARTS: dict[str, StageWork] = {
    "rationalize.methods.self_training:seed_sft": seed_work,
    "rationalize.methods.relearn:relearn": relearn_work,
    "rationalize.methods.self_motivated:rank": rank_work,
    "rationalize.methods.self_motivated:improve": ppo_work,
}
"""Stages of a method that are rows of their own -> their work."""


def mario_demo_work(at: Scene, config: MarioDemoConfig) -> Iterator[Work]:
    yield from at.scores("check", at.dev[:SELF_TESTED], 1 + len(ATTACKS))
    yield from baselines_work(at, config.direct, config.shots)
    rows = rows_of(config, len(teacher_attempts(at.train, "correct")))
    yield from rows_work(at, rows, config.seeds)
    for _ in config.seeds:
        asked, sampling = at.train[:PREFLIGHT], replace(config.mario.sampling, n=2)
        yield at.writes("preflight", asked, sampling)
        yield from at.scores("preflight", asked, sampling.n, trained_on=True)
    yield from exported(at)


def self_motivated_demo_work(at: Scene, config: SelfMotivatedDemoConfig) -> Iterator[Work]:
    yield from baselines_work(at, config.direct, config.shots)
    rows = config.rows()
    yield from rows_work(at, rows, config.seeds)
    read = len(rows) + 3  # votes' rows and baselines are scored by the reward model too
    for split in at.final_splits:
        asked = at.splits[split]
        if config.votes:
            sampling = replace(config.redraw, n=config.votes)
            yield at.writes("votes", asked, sampling)
            yield from at.scores("votes", asked, config.votes)
            read += config.votes
        if any(row.label == RANK for row in rows) and config.modes != ["z"]:
            yield at.reads_replies("judged", "rank", read * len(asked), 1, at.asked(asked))
    yield from exported(at)


def coalition_demo_work(at: Scene, config: CoalitionDemoConfig) -> Iterator[Work]:
    yield from baselines_work(at, config.direct, config.shots)
    if teacher_attempts(at.train, "correct"):
        yield from rows_work(at, [Row(SFT, "sft", config.sft, "sft-{seed}")], [at.seed])
    yield Stores("coalition", loads=1)
    yield from coalition_work(at, config, "coalition")
    yield from conclude_work(at, config, rows_beside=4)


def baselines_work(at: Scene, config: StartConfig, shots: int) -> Iterator[Work]:
    yield Stores("direct", loads=1)
    yield from direct_work(at, SftConfig(config.epochs, 1, config.fit), "direct", stored=False)
    yield from at.finals(BASE, taught=False)
    yield from at.finals(FEW_SHOT, shots=shots, taught=False)
    yield from at.finals(DIRECT, mode="answer")


def rows_work(at: Scene, rows: Sequence[Row], seeds: Sequence[int]) -> Iterator[Work]:
    """Every row with every seed, each from a model that is read anew; a stage that an earlier row
    has done, such as a writer's first rationales, is there.
    """
    done: set[str] = set()
    for seed in seeds:
        seeded = replace(at, config=replace(at.config, seed=seed))
        for row in rows:
            stage = row.stage.format(seed=seed)
            yield Stores(stage, loads=2 if row.start else 1)
            work = list(work_of_row(row)(seeded, row.config, stage))
            yield from (one for one in work if one.stage not in done)
            done |= {one.stage for one in work}
            if row.shown:
                yield from seeded.finals(row.label)


def work_of_row(row: Row) -> StageWork:
    return PARTS.get(row.method) or load(method_named(row.method).work)


def exported(at: Scene) -> Iterator[Work]:
    """`model/`, links to what its stage stored; plain transformers reads it and writes a few
    replies one by one, to be compared.
    """
    yield Stores(MODELS, loads=2.0)
    prompt = at.asked(at.splits[at.final_splits[0]])
    for _ in range(REPLIES):
        yield Writes(MODELS, 1, 1, prompt, TOKENS, TOKENS)
