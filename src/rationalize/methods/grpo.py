"""GRPO and GDPO: several rewards by the advantage over one's other attempts, without a value head.

GRPO is Shao et al. (arXiv 2402.03300, section 4.1), GDPO Liu et al. (arXiv 2601.05242). They are
what else one would do with MaRio's rewards. Every update:

    1. write       `prompts` questions x `sampling.n` attempts from the policy, at temperature 1
    2. score       each attempt by every reward r_k; an easy reward counts only where the harder
                   ones of its `conditions` are met
    3. advantage   GRPO:  R = sum_k w_k r_k,   A = (R - mean R) / (std R + eps)   in each question
                   GDPO:  A_k = (r_k - mean r_k) / (std r_k + eps)   in each question,
                          S = sum_k w_k A_k,   A = (S - mean S) / (std S + eps)   over the update
    4. learn       one pass over the attempts: mean over attempts of the mean over their tokens of
                   max(-q A, -clip(q, 1 - e, 1 + e) A) + beta KL,   q = pi / pi_old,
                   KL = pi_ref / pi - 1 - log(pi_ref / pi)

The reference is the policy as it started, which is kept where no later one does better on
development questions.

Deviations: the reference stays the start's, where GRPO's algorithm may renew it; development
questions select the checkpoint; attempts cut at the length limit take part in the means and
deviations and are not learned from (`learn_cut`), the loss being a mean over the others; where a
condition is not met, the reward counts as the worst of its range (0, for one from 0 to 1), as an
undefined one does. Without a KL (`beta` 0) attempts whose advantage is 0 are not read: they would
learn nothing, and the others' advantages are scaled so that the loss stays the mean over all.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from rationalize.config.checks import at_least
from rationalize.errors import UsageError
from rationalize.methods.base import Experiment, evaluate_on_dev, questions_for, selected, unsettled
from rationalize.methods.sft import LORA_FIT
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.records import Attempt
from rationalize.rewards.base import counted
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Stage
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import Provenance, Recorded, write_attempts
from rationalize.signals.advantages import (
    Scale,
    Scores,
    conditioned,
    gdpo_advantages,
    grpo_advantages,
    spreads,
)
from rationalize.signals.draws import shuffled_parts
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import Average, GroupTag
from rationalize.training.objectives import grpo as grpo_objective
from rationalize.training.rollouts import (
    Rollout,
    check_whole,
    load_rollouts,
    measure,
    save_rollouts,
)
from rationalize.training.selection import BestCheckpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GroupConfig:
    """What GRPO and GDPO have in common."""

    rewards: tuple[str, ...] = ("consistency", "correctness", "plausibility", "diversity")
    """Rewards that are learned from together."""
    weights: dict[str, float] = field(default_factory=dict)
    """Weights of single rewards, where they are not 1."""
    conditions: dict[str, dict[str, float]] = field(default_factory=dict)
    """Rewards that count only where others reach a threshold: `diversity: {correctness: 1.0}`."""
    updates: int = 100
    """How often attempts are written and learned from."""
    prompts: int = 16
    """Questions per update; `sampling.n` attempts at each."""
    skip_settled: bool = True
    """Do not ask what the start's own attempts settled, where they are known: those that are all
    worth the same (Self-motivated Learning draws them).
    """
    beta: float = 0.04
    """Weight of the KL to the reference."""
    clip: float = 0.2
    """Ratios further than this from 1 are not pushed on."""
    average: Average = "attempts"
    """Mean over attempts of the mean over their tokens, or mean over all tokens (DAPO's)."""
    learn_cut: bool = False
    """Learn from attempts that were cut at the length limit too."""
    evaluate_every: int = 10
    """Updates between two evaluations on development questions."""
    select_by: str = "nrg"
    """Development metric that selects the checkpoint: nrg, accuracy or a reward's name."""
    dev_draws: int = 0
    """Replies to a development question, drawn at temperature 1, whose mean selects; 0: one greedy
    reply.
    """
    fit: FitConfig = FitConfig(learning_rate=1e-5, batch_size=128, schedule="constant")
    """How the policy learns; with fewer rows a batch than an update has attempts, an update takes
    several steps.
    """
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, max_new_tokens=64, n=8)
    """How attempts are written; a temperature other than 1, top_p, top_k, beams and int8 weights
    raise `UsageError`.
    """

    LORA: ClassVar[dict[str, Any]] = {"fit": {"learning_rate": 1e-4}}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "lora": {"tuning": "lora", **LORA, "sft": LORA_FIT}
    }

    def __post_init__(self) -> None:
        """What can be known to be wrong before anything is paid for. Raises `UsageError`."""
        at_least(self, 1, "updates", "prompts", "evaluate_every")
        at_least(self, 0, "beta", "clip", "dev_draws", "weights")
        check_whole(self.sampling, "grpo and gdpo")
        named = {*self.weights, *self.conditions, *(h for c in self.conditions.values() for h in c)}
        for ok, message in (
            (len(self.rewards) > 0, "rewards is empty; name at least one"),
            (
                named <= set(self.rewards),
                f"weights and conditions name {sorted(named - set(self.rewards))}, which are not "
                f"among the rewards {list(self.rewards)}; a reward that only conditions others is "
                "a reward of weight 0",
            ),
            (
                all(map(math.isfinite, (t for c in self.conditions.values() for t in c.values()))),
                f"conditions is {self.conditions}; expected finite thresholds",
            ),
            (
                any(self.weights.get(name, 1.0) for name in self.rewards),
                "every reward has weight 0; give one another",
            ),
            (
                self.sampling.n > 1,
                "sampling.n is 1; expected at least 2, since attempts at a question are compared",
            ),
        ):
            if not ok:
                raise UsageError(message)

    @property
    def steps_per_update(self) -> int:
        """Optimiser steps of an update."""
        return math.ceil(self.prompts * self.sampling.n / self.fit.batch_size)


@dataclass(frozen=True)
class GrpoConfig(GroupConfig):
    """GRPO: the advantage of the summed rewards."""

    scale: Scale = "group"
    """Divide advantages by the standard deviation of the question's attempts, of all attempts of
    the update (`batch`), or by none (Dr. GRPO).
    """


@dataclass(frozen=True)
class GdpoConfig(GroupConfig):
    """GDPO: the sum of each reward's advantage."""


def grpo(exp: Experiment, policy: Policy, config: GroupConfig, stage: Stage) -> Policy:
    """GRPO or GDPO, as `config` is; leaves the weights selected on development questions."""
    config = named_as_loaded(config, exp.suite)
    stage.policy(policy, lambda: _learn(exp, policy, config, stage))
    return policy


def _learn(exp: Experiment, policy: Policy, config: GroupConfig, stage: Stage) -> Mapping[str, Any]:
    questions, suite = {q.id: q for q in exp.train}, exp.suite.only(*config.rewards)
    asked = unsettled(exp, config.rewards, stage.name) if config.skip_settled else exp.train
    reference = policy.become_reference() if config.beta else None
    maker, best = (
        RowMaker(policy),
        BestCheckpoint(
            stage, last=config.updates * config.steps_per_update, start=exp.start_weights
        ),
    )
    rows: list[Row] = []  # what the current update learns from
    current = -1

    def file_of(update: int) -> Path:
        return exp.run.folder("rollouts") / f"{stage.name}-update{update}.safetensors"

    def parts_of(n: int, update: int) -> list[list[int]]:
        return shuffled_parts(n, config.steps_per_update, [exp.seed, update])

    def write(update: int) -> list[Attempt]:
        # 1. write
        sampler, step = Recorded(exp.sampler(policy)), update * config.steps_per_update
        written = write_attempts(
            sampler, questions_for(asked, config.prompts, update, exp.seed), config.sampling,
            Provenance("train", exp.seed, writer=stage.name, round=update, step=step),
            label=f"{stage.name} writes, update {update}",
        )  # fmt: skip
        # 2. score
        attempts = suite.score(written, questions)
        # token ids and log-probabilities of what is learned from go to a file
        advantages_PG = advantages_of(scores_of(attempts, config, suite)[1], config)
        kept = learned_from(attempts, advantages_PG, config)
        drawn = [maker.drawn(attempts[i].prompt, sampler.ids[i]) for i in kept]
        if drawn:  # in the passes of learning, so that the first step's ratios are 1
            parts = parts_of(len(drawn), update)
            rollouts = measure(policy, None, reference, drawn, parts, config.fit)
            save_rollouts(rollouts, file_of(update))
        return attempts

    def prepare(step: int) -> None:
        nonlocal current
        update = step // config.steps_per_update
        if step == 0:
            evaluate(0, 0)
        if update == current:
            return
        current = update
        attempts = stage.attempts(f"update{update}", partial(write, update))
        # 3. advantage: (P, G), from the scores (P, G) of each reward
        raw, scores = scores_of(attempts, config, suite)
        advantages_PG = advantages_of(scores, config)
        kept = learned_from(attempts, advantages_PG, config)
        rollouts = load_rollouts(file_of(update)) if kept else []
        log_update(stage, update, attempts, rollouts, raw, advantages_PG)
        log_rewards(stage, update, attempts, raw, scores)
        advantages_N = advantages_PG.ravel() * share_of(kept, attempts, config)
        rows[:] = [
            replace(r.row, tag=GroupTag(r.logprob_T, r.reference_T, float(advantages_N[i])))
            for i, r in zip(kept, rollouts, strict=True)
        ]
        if not spreads(advantages_PG).any():
            logger.warning(
                "%s, update %d: no question has attempts of different worth; %s is learned from it",
                stage.name, update, "the KL alone" if config.beta else "nothing",
            )  # fmt: skip

    # 4. learn: one pass over the update's attempts
    def batch_at(step: int) -> list[Row]:
        update, k = divmod(step, config.steps_per_update)
        return [rows[i] for i in parts_of(len(rows), update)[k]]

    def after_step(step: int) -> None:
        update, within = divmod(step + 1, config.steps_per_update)
        due = update % config.evaluate_every == 0 or update == config.updates
        if due and not within:
            evaluate(update, step + 1)

    def evaluate(update: int, step: int) -> None:
        means = evaluate_on_dev(exp, stage, policy, round=update, step=step, draws=config.dev_draws)
        best.offer(step, selected(means, config.select_by), policy)

    fit(
        policy, grpo_objective(clip=config.clip, beta=config.beta, average=config.average),
        batch_at, config.fit, stage, steps=config.updates * config.steps_per_update,
        before_step=prepare, after_step=after_step,
    )  # fmt: skip
    return best.load_into(policy, keep_last=True)


def learned_from(
    attempts: Sequence[Attempt], advantages_PG: np.ndarray, config: GroupConfig
) -> list[int]:
    """Indices of the attempts that are learned from; where there is no KL, those at questions whose
    attempts have different advantages.
    """
    signal_N = np.repeat(spreads(advantages_PG), config.sampling.n)
    return [i for i in whole(attempts, config) if config.beta or signal_N[i]]


def whole(attempts: Sequence[Attempt], config: GroupConfig) -> list[int]:
    """Indices of the attempts that the loss is a mean over."""
    return [i for i, a in enumerate(attempts) if config.learn_cut or a.finish != "length"]


def share_of(kept: Sequence[int], attempts: Sequence[Attempt], config: GroupConfig) -> float:
    """What the attempts that are learned from weigh in a mean over all: the factor that makes a
    mean over them the sum of their terms over the number of all.
    """

    def weight(indices: Sequence[int]) -> int:
        return sum(attempts[i].n_tokens if config.average == "tokens" else 1 for i in indices)

    return weight(kept) / weight(whole(attempts, config)) if kept else 0.0


def scores_of(
    attempts: Sequence[Attempt], config: GroupConfig, suite: RewardSuite
) -> tuple[Scores, Scores]:
    """Each reward's scores (P, G): as they were given, and under the conditions."""
    raw, worst = {}, {}
    for name in config.rewards:
        given = [a.rewards[name] for a in attempts]
        *values, worst[name] = counted(suite[name], [*given, None])
        raw[name] = np.array(values, dtype=np.float64).reshape(-1, config.sampling.n)
    return raw, conditioned(raw, config.conditions, worst)


def advantages_of(scores: Scores, config: GroupConfig) -> np.ndarray:
    """The advantage (P, G) of every attempt."""
    if isinstance(config, GrpoConfig):
        return grpo_advantages(scores, config.weights, scale=config.scale)
    return gdpo_advantages(scores, config.weights)


def log_update(
    stage: Stage, update: int, attempts: Sequence[Attempt], rollouts: Sequence[Rollout],
    raw: Scores, advantages_PG: np.ndarray,
) -> None:  # fmt: skip
    """What an update's attempts are like, and of how many questions nothing is learned."""
    facts = {
        "questions": len(advantages_PG), "written": len(attempts), "learned_from": len(rollouts),
        "without_signal": int((~spreads(advantages_PG)).sum()),
        "cut": sum(a.finish == "length" for a in attempts),
        "parsed": float(np.mean([a.parsed for a in attempts])),
        "length": float(np.mean([a.n_tokens for a in attempts])),
    }  # fmt: skip
    if rollouts and len(rollouts[0].reference_T):
        facts["kl"] = float(np.mean([r.kl for r in rollouts]))
    facts |= {name: float(scores_PG.mean()) for name, scores_PG in raw.items()}
    stage.log("rollouts", update, [facts])


def log_rewards(
    stage: Stage, update: int, attempts: Sequence[Attempt], raw: Scores, scores: Scores
) -> None:
    """Of each reward: its spread within questions, and how often it says nothing."""
    rows = [
        {
            "reward": name, "spread": float(r_PG.std(axis=1, ddof=1).mean()),
            "without_spread": int((~spreads(r_PG)).sum()),
            "undefined": sum(a.rewards[name] is None for a in attempts),
            "withheld": int((r_PG != raw[name]).sum()),
        }
        for name, r_PG in scores.items()
    ]  # fmt: skip
    stage.log("rewards", update, rows)


def named_as_loaded(config: GroupConfig, suite: RewardSuite) -> GroupConfig:
    """The configuration with rewards under their own names: `my_rewards:brevity` is `brevity`."""
    by_name = {name: suite[name].name for name in config.rewards}
    return replace(
        config, rewards=tuple(by_name.values()),
        weights={by_name[name]: weight for name, weight in config.weights.items()},
        conditions={
            by_name[easy]: {by_name[hard]: least for hard, least in thresholds.items()}
            for easy, thresholds in config.conditions.items()
        },
        select_by=by_name.get(config.select_by, config.select_by),
    )  # fmt: skip
