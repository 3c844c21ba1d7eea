"""PPO on rationales (Schulman et al., arXiv 1707.06347).

    1. roll out   `prompts` questions x `sampling.n` replies from the policy, at temperature 1
    2. score      S = rm_weight R(x, y) + correct_weight z(y) - unparsed_penalty (1 - u(y))
                  modes: `rm` (R alone), `z` (correctness alone), `rm+z`
    3. reward     rho_t = -beta (log pi - log pi_ref)(y_t), and S at the last token
    4. advantage  generalised advantage estimation (arXiv 1506.02438), whitened over the rollouts
    5. learn      `epochs` passes: clipped policy loss + value_weight * clipped value loss

The reference is the policy as it started, which is kept where no later one does better on
development questions. Its log-probabilities, the policy's own and the values are computed once per
rollout. Mode `z` needs no reward model and none is loaded.

Deviations: the figures of Self-motivated Learning (arXiv 2404.07017) could not be read; these are
ours (docs/methods/self-motivated.md). The value head reads the policy's hidden states without
moving them (`detach_value`), starts at 0, and has a learning rate of its own: at the policy's it
would stay there, and lambda leave early tokens no credit. An update's scores are taken less their
mean, or else the early tokens of right replies, to which lambda leaves little of the score, would
fall below the mean advantage and be pushed down. Whitening does not scale up the noise of replies
that are all worth the same (`min_advantage_std`): it undid what had been learned.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from rationalize.config.checks import at_least, between, finite
from rationalize.methods.base import Experiment, evaluate_on_dev, questions_for, selected, unsettled
from rationalize.models.forward import Row
from rationalize.models.heads import attached, new_head
from rationalize.models.policy import Policy
from rationalize.progress import say
from rationalize.records import Attempt
from rationalize.runs import Stage
from rationalize.sampling.config import SamplingConfig
from rationalize.sampling.writing import Provenance, Recorded, write_attempts
from rationalize.signals.draws import shuffled_parts
from rationalize.training.batches import RowMaker
from rationalize.training.loop import HeadFitConfig, fit
from rationalize.training.objectives import ppo as ppo_objective
from rationalize.training.rollouts import (
    Reference,
    check_whole,
    explained_variance,
    load_rollouts,
    measure,
    save_rollouts,
    to_learn,
)
from rationalize.training.selection import BestCheckpoint

Mode = Literal["rm", "z", "rm+z"]

HORIZON = 0.1
"""How fast the adaptive KL coefficient moves (arXiv 1909.08593, section 2.2)."""


@dataclass(frozen=True)
class PpoConfig:
    """PPO, in any mode."""

    rm_weight: float = 1.0
    """Weight of the reward model's scaled score; an undefined one counts as 0, its mean."""
    correct_weight: float = 1.0
    """Weight of correctness, 0 or 1."""
    unparsed_penalty: float = 1.0
    """Taken off where no answer can be read."""
    updates: int = 100
    """How often replies are written and learned from."""
    prompts: int = 64
    """Questions per update; `sampling.n` replies to each."""
    skip_settled: bool = True
    """Do not ask what M_sft's own attempts settled: those that are all right, or all wrong."""
    epochs: int = 4
    """Passes over an update's replies."""
    beta: float = 0.05
    """Weight of the KL to the reference (adaptive: at the start)."""
    kl_target: float = 0.0
    """Adaptive KL: nats per reply that the weight steers to; 0: the weight is fixed."""
    clip: float = 0.2
    """Ratios further than this from 1 are not pushed on."""
    value_clip: float = 0.2
    """A value further than this from its old one is not pushed on."""
    value_weight: float = 0.1
    """Weight of the value loss."""
    detach_value: bool = True
    """Keep the value's gradient out of the policy's weights."""
    gamma: float = 1.0
    """Discount per token."""
    lam: float = 0.95
    """Generalised advantage estimation's lambda."""
    min_advantage_std: float = 0.1
    """An update's advantages are scaled to mean 0 and deviation 1; a deviation smaller than this is
    not scaled up: replies that are all worth the same teach nothing, and their noise should not.
    """
    epoch_kl: float = 0.1
    """Drop an update's further epochs when an epoch's approximate KL per token exceeds this."""
    stop_kl: float = 20.0
    """End when the KL to the reference exceeds so many nats per reply."""
    evaluate_every: int = 10
    """Updates between two evaluations on development questions."""
    patience: int = 3
    """End when so many evaluations in a row show a higher reward-model score and a lower accuracy;
    0: never. Mode `z` learns from no reward model and does not look.
    """
    select_by: str = "accuracy"
    """Development metric that selects the checkpoint."""
    dev_draws: int = 0
    """Replies to a development question, drawn at temperature 1, whose mean selects; 0: one greedy
    reply.
    """
    fit: HeadFitConfig = HeadFitConfig(
        learning_rate=1e-6, head_rate=1e-3, batch_size=64, schedule="constant", max_grad_norm=0.5
    )
    """How the policy learns; a batch is a minibatch of replies, `head_rate` the value head's."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, n=4, max_new_tokens=256)
    """How replies are written."""

    def __post_init__(self) -> None:
        """Raises `UsageError` for empty runs, and for sampling that would bias the ratio."""
        at_least(self, 1, "updates", "prompts", "epochs", "evaluate_every")
        finite(self, "rm_weight", "correct_weight", "unparsed_penalty")
        at_least(self, 0, "beta", "kl_target", "clip", "value_clip", "value_weight", "patience")
        at_least(self, 0, "min_advantage_std", "dev_draws")
        between(self, 0, 1, "gamma", "lam")
        between(self, 0, math.inf, "epoch_kl", "stop_kl")
        check_whole(self.sampling, "ppo")

    @property
    def minibatches(self) -> int:
        """Optimiser steps of an epoch."""
        return math.ceil(self.prompts * self.sampling.n / self.fit.batch_size)

    @property
    def steps_per_update(self) -> int:
        return self.minibatches * self.epochs

    def in_mode(self, mode: Mode) -> PpoRowConfig:
        """PPO as it is here, in a mode."""
        return PpoRowConfig(**vars(self) | {"mode": mode})


@dataclass(frozen=True)
class PpoRowConfig(PpoConfig):
    """PPO in a mode."""

    mode: Mode = "rm+z"
    """What a reply is worth: the reward model's score, its correctness, or both."""


def ppo(
    exp: Experiment, policy: Policy, reference: Reference, config: PpoRowConfig, stage: Stage
) -> Policy:
    """Teach in place, and leave the weights selected on development questions in `policy`.

    The experiment's rewards hold `correctness`, and `reward_model` unless the mode is `z`.
    """

    def learn() -> Mapping[str, Any]:
        updates = Updates(exp, policy, reference, config, stage)
        # 5. learn
        objective = ppo_objective(
            updates.value_head, clip=config.clip, value_clip=config.value_clip,
            value_weight=config.value_weight, detach_value=config.detach_value,
        )  # fmt: skip
        with attached(policy, updates.value_head):
            fit(
                policy, objective, updates.batch_at, config.fit, stage,
                steps=config.updates * config.steps_per_update,
                before_step=updates.before_step, after_step=updates.after_step,
            )  # fmt: skip
        return updates.best.load_into(policy, keep_last=True)

    stage.policy(policy, learn)
    return policy


class Updates:
    """PPO's updates: replies are written once, and learned from for `epochs` passes.

    Whatever an update depends on is stored or logged, so that a resumed run makes the same one.
    """

    def __init__(
        self, exp: Experiment, policy: Policy, reference: Reference, config: PpoRowConfig,
        stage: Stage,
    ) -> None:  # fmt: skip
        self.exp, self.policy, self.reference = exp, policy, reference
        self.config, self.stage = config, stage
        self.value_head = new_head(policy, zero=True)
        self.best = BestCheckpoint(
            stage, last=config.updates * config.steps_per_update, start=exp.start_weights
        )
        self.questions = {q.id: q for q in exp.train}
        self.asked = exp.train
        if config.skip_settled:
            self.asked = unsettled(exp, ["correctness"], stage.name)
        self.rows: list[Row] = []  # replies of the current update, with advantages and returns
        self.current, self.ended = -1, ""

    def before_step(self, step: int) -> None:
        """At an update's first step, phases 1 to 4; at step 0, an evaluation of the start."""
        update = step // self.config.steps_per_update
        if update == self.current:
            return
        if step == 0:
            self._evaluate(0, 0)
        self.current = update
        if self.ended:
            return
        end = end_before(self.stage, update, self.config)
        if not end:
            self._prepare(update)
            return
        self.ended = end["reason"]
        if end["before_update"] == update:  # where training got to is a candidate too
            self._evaluate(update, update * self.config.steps_per_update)

    def batch_at(self, step: int) -> list[Row]:
        """A minibatch of the update's replies; none where its further epochs are dropped."""
        update, within = divmod(step, self.config.steps_per_update)
        epoch, k = divmod(within, self.config.minibatches)
        if self.ended or too_far(self.stage, update, epoch, self.config):
            return []
        picked = minibatch(len(self.rows), epoch, k, update, self.config, self.exp.seed)
        return [self.rows[i] for i in picked]

    def after_step(self, step: int) -> None:
        """An evaluation after every `evaluate_every` updates, and at the end."""
        update, within = divmod(step + 1, self.config.steps_per_update)
        due = not within and update % self.config.evaluate_every == 0
        if (due or update == self.config.updates) and not self.ended:
            self._evaluate(update, step + 1)

    def _prepare(self, update: int) -> None:
        config, stage = self.config, self.stage
        folder = self.exp.run.folder("rollouts")
        file = folder / f"{stage.name}-update{update}.safetensors"
        # 1. roll out, and 2. score
        attempts = stage.attempts(f"update{update}", lambda: self._roll_out(update, file))
        rollouts = load_rollouts(file)  # log-probabilities and values, each (T,)
        scores = [score(a, config) for a in attempts]
        baseline = float(np.mean(scores))
        # 3. reward: (T,) per reply, and 4. advantage: (T,), whitened over all tokens (N,)
        beta = next_beta(stage, update, config)
        self.rows, returns_N = to_learn(
            rollouts, [worth - baseline for worth in scores], beta=beta, gamma=config.gamma,
            lam=config.lam, min_advantage_std=config.min_advantage_std,
        )  # fmt: skip
        values_N = torch.cat([r.value_T for r in rollouts])
        facts = {
            "score": baseline, "beta": beta, "kl": float(np.mean([r.kl for r in rollouts])),
            "returns": float(returns_N.mean()),
            "explained_variance": explained_variance(values_N, returns_N),
            "length": float(np.mean([a.n_tokens for a in attempts])),
            "parsed": float(np.mean([a.parsed for a in attempts])),
        }  # fmt: skip
        facts |= {
            name: float(np.mean([a.rewards[name] or 0.0 for a in attempts]))
            for name in attempts[0].rewards
        }
        stage.log("rollouts", update, [facts])

    def _roll_out(self, update: int, file: Path) -> list[Attempt]:
        """Write and score replies; their token ids, log-probabilities and values go to `file`."""
        config, exp, name = self.config, self.exp, self.stage.name
        sampler, step = Recorded(exp.sampler(self.policy)), update * config.steps_per_update
        source = Provenance("train", exp.seed, writer=name, round=update, step=step, stream=name)
        attempts = write_attempts(
            sampler, questions_for(self.asked, config.prompts, update, exp.seed), config.sampling,
            source, label=f"{name} writes, update {update}",
        )  # fmt: skip
        maker = RowMaker(self.policy)
        rows = [maker.drawn(a.prompt, ids) for a, ids in zip(attempts, sampler.ids, strict=True)]
        # in the passes of the first epoch, so that its ratios are exactly 1
        picked = [
            minibatch(len(rows), 0, k, update, config, exp.seed) for k in range(config.minibatches)
        ]
        save_rollouts(
            measure(self.policy, self.value_head, self.reference, rows, picked, config.fit), file
        )
        return exp.suite.only(*scores_of(config.mode)).score(attempts, self.questions)

    def _evaluate(self, update: int, step: int) -> None:
        means = evaluate_on_dev(
            self.exp, self.stage, self.policy, round=update, step=step, draws=self.config.dev_draws
        )
        self.best.offer(step, selected(means, self.config.select_by), self.policy)


def scores_of(mode: Mode) -> tuple[str, ...]:
    """Rewards that a mode reads."""
    return ("correctness",) if mode == "z" else ("correctness", "reward_model")


def score(attempt: Attempt, config: PpoRowConfig) -> float:
    """S(x, y): what a reply is worth."""
    total = 0.0 if attempt.parsed else -config.unparsed_penalty
    if config.mode != "z":
        total += config.rm_weight * (attempt.rewards["reward_model"] or 0.0)
    if config.mode != "rm":
        total += config.correct_weight * (attempt.rewards["correctness"] or 0.0)
    return total


def minibatch(n: int, epoch: int, k: int, update: int, config: PpoConfig, seed: int) -> list[int]:
    """Indices of minibatch `k` of an epoch: a shuffled cut of all `n` replies."""
    return shuffled_parts(n, config.minibatches, [seed, update, epoch])[k]


def too_far(stage: Stage, update: int, epoch: int, config: PpoConfig) -> bool:
    """Whether an earlier epoch of this update moved the policy beyond `epoch_kl`."""
    if not epoch:
        return False
    first = update * config.steps_per_update
    lines = {line["step"]: line for line in stage.metrics() if line["step"] >= first}
    for start in range(first, first + epoch * config.minibatches, config.minibatches):
        steps = range(start, start + config.minibatches)
        moved = [lines[s]["approx_kl"] for s in steps if "approx_kl" in lines.get(s, ())]
        if moved and np.mean(moved) > config.epoch_kl:
            return True
    return False


def next_beta(stage: Stage, update: int, config: PpoConfig) -> float:
    """The KL coefficient of an update; adaptive, it follows the KL of the one before."""
    before = [line for line in stage.metrics("rollouts") if line["step"] == update - 1]
    if not config.kl_target or not before:
        return config.beta
    error = float(np.clip(before[0]["kl"] / config.kl_target - 1, -0.2, 0.2))
    return before[0]["beta"] * (1 + HORIZON * error)


def end_before(stage: Stage, update: int, config: PpoRowConfig) -> dict[str, Any]:
    """Before which update training has ended, and the `reason` (too far away, or over-optimised);
    empty where it goes on. What an earlier start has found holds.
    """
    name = f"{stage.name}-ended"
    known = stage.run.read_json(f"{name}.json") or {}
    if known and known["before_update"] <= update:
        return known
    reason = ""
    lines = [line for line in stage.metrics("rollouts") if line["step"] < update]
    if lines and lines[-1]["kl"] > config.stop_kl:
        reason = f"the KL to the reference is {lines[-1]['kl']:.1f} nats a reply"
    means: dict[str, list[float]] = {"reward_model": [], "accuracy": []}
    for line in stage.metrics("rounds"):
        if line["reward"] in means and line["round"] <= update:
            means[line["reward"]].append(line["mean"])
    reads_model = config.mode != "z" and config.patience > 0
    if reads_model and over_optimised(means["reward_model"], means["accuracy"], config.patience):
        reason = (
            f"over {config.patience} evaluations the reward model's score rose and development "
            "accuracy fell: it is being over-optimised"
        )
    if not reason:
        return {}
    say(f"{stage.name} ends before update {update}: {reason}")
    return stage.facts(name, lambda: {"before_update": update, "reason": reason})


def over_optimised(scores: Sequence[float], accuracies: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` evaluations each scored higher and were right less often."""
    if min(len(scores), len(accuracies)) <= patience:
        return False
    up = np.diff(scores[-patience - 1 :]) > 0
    down = np.diff(accuracies[-patience - 1 :]) < 0
    return bool(up.all() and down.all())
