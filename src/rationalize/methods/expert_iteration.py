"""Expert iteration: write, keep what is right, learn from it.

FILT-ACC, STaR and RFT are settings of this one loop.
FILT-ACC is the filter baseline of MaRio (mario.md 3.4): the pool of MaRio's Quark with the filter
`correctness >= 1` and no tokens, so multi-step SFT on the policy's own correct rationales. The
teacher's correct rationales are part of the pool from the start.

    every `sample_interval` steps:  the policy writes; attempts whose every filtered reward
                                    reaches its threshold join the pool
    every step:                     NLL on rows drawn from the pool

Deviations: exact repeats of one completion to one question are kept once; development questions
select the checkpoint; no KL unless `beta` is set (the code's form keeps Quark's KL:
`preset=released`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rationalize.methods.common import (
    MethodConfig,
    evaluate_on_dev,
    finish_stage,
    questions_for,
    restore_or,
    rollouts,
)
from rationalize.methods.setup import open_method
from rationalize.methods.sft import start_policy
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.records import Attempt, Question
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Teacher, teacher_attempts, write_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.signals.filters import first_of_each, keep_above
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import quark
from rationalize.training.rows import RowMaker
from rationalize.training.selection import BestCheckpoint


@dataclass(frozen=True)
class ExpertIterationConfig(MethodConfig):
    """FILT-ACC."""

    filters: dict[str, float] = field(default_factory=lambda: {"correctness": 1.0})
    """An attempt is kept when each of these rewards reaches its threshold."""
    steps: int = 600
    """Optimiser steps."""
    sample_interval: int = 200
    """Steps between two explorations; one happens at step 0."""
    rollouts: int = 0
    """Attempts written per exploration; 0: one per training question."""
    teacher: Teacher = "correct"
    """Teacher samples in the pool at step 0."""
    beta: float = 0.0
    """Weight of the KL to the starting policy."""
    select_by: str = "accuracy"
    """Development metric that selects the checkpoint: accuracy, nrg or a reward's name."""
    fit: FitConfig = FitConfig(learning_rate=5e-5, batch_size=8)
    """How the policy learns."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64)
    """How rollouts are written."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"released": {"beta": 0.1}}


def train_expert_iteration(config: ExpertIterationConfig, out: Path) -> None:
    """SFT (unless `init: model`), then FILT-ACC; the policy lands in `out/model`."""
    with open_method(config, "filt-acc", out, rewards=tuple(config.filters)) as setup:
        policy, run = start_policy(setup), setup.run
        own = replace(config, filters={setup.suite[n].name: t for n, t in config.filters.items()})
        restore_or(
            run, "filt-acc", policy,
            lambda: expert_iteration(
                policy, setup.suite, setup.train, setup.dev, own, run, "filt-acc"
            ),
        )  # fmt: skip
        setup.conclude(policy, "FILT-ACC")


def expert_iteration(
    policy: Policy,
    suite: RewardSuite,
    train: Sequence[Question],
    dev: Sequence[Question],
    config: ExpertIterationConfig,
    run: Run,
    stage: str,
) -> None:
    """Train in place and leave the weights selected on development questions in `policy`."""
    by_id = {q.id: q for q in train}
    maker = RowMaker(policy)
    best = BestCheckpoint(run, stage)
    half = config.fit.precision != "float32"
    reference = policy.become_reference(half=half) if config.beta else None
    pool: list[Attempt] = []
    rounds = 0

    def explore(step: int) -> None:
        nonlocal rounds
        while rounds <= step // config.sample_interval:
            attempts = rollouts(run, f"{stage}-round{rounds}", partial(write_round, rounds))
            kept = keep(attempts, config.filters, suite)
            pool[:] = unique([*pool, *kept])
            run.rewind(f"{stage}-pool", rounds)
            run.log(
                f"{stage}-pool", rounds, written=len(attempts), kept=len(kept), attempts=len(pool)
            )
            rounds += 1
        if not pool:
            raise RuntimeError(
                f"nothing to learn from: no attempt passed {dict(config.filters)}; write more per "
                "round (`rollouts`), start from a better SFT model, or lower a threshold"
            )

    def write_round(round: int) -> list[Attempt]:
        attempts = write_attempts(
            Sampler(policy), questions_for(train, config.rollouts, round, config.seed),
            config.sampling, split="train", seed=config.seed, round=round,
            step=round * config.sample_interval, label=f"{stage} explores, round {round}",
        )  # fmt: skip
        teacher = teacher_attempts(train, config.teacher) if round == 0 else []
        return suite.score(teacher + attempts, by_id)

    def batch_at(step: int) -> list[Row]:
        size, seed = config.fit.batch_size, [config.seed, rounds]
        picked = shuffled_passes(len(pool), size, step % config.sample_interval, seed)
        return [maker.attempt(pool[i]) for i in picked]

    def after_step(step: int) -> None:
        done = step + 1
        if done % config.sample_interval == 0 or done == config.steps:
            round = -(-done // config.sample_interval)
            score = evaluate_on_dev(
                run, stage, Sampler(policy), suite, dev, config, round=round, step=done
            )
            best.offer(done, score, policy)

    loss = quark(reference, beta=config.beta, alpha=0.0, direction="reverse")
    fit(
        policy, loss, batch_at, config.fit, run=run, stage=stage, steps=config.steps,
        before_step=explore, after_step=after_step,
    )  # fmt: skip
    finish_stage(run, stage, best, policy)


def keep(
    attempts: Sequence[Attempt], filters: dict[str, float], suite: RewardSuite
) -> list[Attempt]:
    """Parsed attempts whose every filtered score reaches its threshold; undefined ones never do."""
    parsed = [a for a in attempts if a.parsed]
    if not parsed:
        return []
    scores = {
        name: [-np.inf if (score := a.rewards[name]) is None else score for a in parsed]
        for name in filters
    }
    return [a for a, ok in zip(parsed, keep_above(scores, filters, len(parsed)), strict=True) if ok]


def unique(attempts: Sequence[Attempt]) -> list[Attempt]:
    """One attempt of each completion to a question."""
    first = first_of_each([(a.question_id, a.completion) for a in attempts])
    return [a for a, ok in zip(attempts, first, strict=True) if ok]
