"""PPO on rationales (arXiv 1707.06347; self_motivated.md 2.E).

    1. roll out   `prompts` questions x `sampling.n` replies from the policy, at temperature 1
    2. score      S = rm_weight R(x, y) + correct_weight z(y) - unparsed_penalty (1 - u(y))
                  modes: `rm` (R alone), `z` (correctness alone), `rm+z`
    3. reward     rho_t = -beta (log pi - log pi_ref)(y_t), and S at the last token
    4. advantage  generalised advantage estimation, whitened over the rollouts
    5. learn      `epochs` passes: clipped policy loss + value_weight * clipped value loss

The reference is the policy as it started, which is kept where no later one does better on
development questions. Its log-probabilities, the policy's own and the values
are computed once per rollout. Mode `z` needs no reward model and none is loaded.

Deviations: the paper's figures could not be read; these are ours. The value head reads the policy's
hidden states without moving them (`detach_value`), starts at 0, and has a learning rate of its own:
at the policy's it would stay there, and lambda leave early tokens no credit. An update's scores are
taken less their mean, or else the early tokens of right replies, to which lambda leaves little of
the score, would fall below the mean advantage and be pushed down. Whitening does not blow up the
noise of replies that are all worth the same (`least_spread`): it undid what had been learned.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from rationalize.errors import UsageError
from rationalize.methods.common import (
    MethodConfig,
    evaluate_on_dev,
    finish_stage,
    questions_for,
)
from rationalize.models.forward import Row
from rationalize.models.heads import attached, new_head
from rationalize.models.policy import Policy
from rationalize.progress import say
from rationalize.records import Attempt, Question
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Recorded, write_attempts
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import ppo as ppo_objective
from rationalize.training.rollouts import (
    Reference,
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
class PpoConfig(MethodConfig):
    """PPO."""

    mode: Mode = "rm+z"
    """What a reply is worth: the reward model's score, its correctness, or both."""
    rm_weight: float = 1.0
    """Weight of the reward model's scaled score."""
    correct_weight: float = 1.0
    """Weight of correctness, 0 or 1."""
    unparsed_penalty: float = 1.0
    """Taken off where no answer can be read."""
    updates: int = 100
    """How often replies are written and learned from."""
    prompts: int = 64
    """Questions per update; `sampling.n` replies to each."""
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
    least_spread: float = 0.1
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
    fit: FitConfig = FitConfig(
        learning_rate=1e-6, head_rate=1e-3, batch_size=64, schedule="constant", max_grad_norm=0.5
    )
    """How the policy learns; a batch is a minibatch of replies, `head_rate` the value head's."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, n=4, max_new_tokens=256)
    """How replies are written."""

    def __post_init__(self) -> None:
        """Raises `UsageError` for empty runs, and for sampling that would bias the ratio."""
        if min(self.updates, self.prompts, self.epochs, self.evaluate_every) < 1:
            raise UsageError("ppo: updates, prompts, epochs and evaluate_every are at least 1")
        drawn = self.sampling
        if (drawn.temperature, drawn.top_p, drawn.top_k, drawn.beams) != (1.0, 1.0, 0, 1):
            raise UsageError(
                "ppo: sampling must be at temperature 1 without top_p, top_k and beams, since the "
                "ratio is between whole distributions; "
                f"found temperature {drawn.temperature}, top_p {drawn.top_p}, top_k {drawn.top_k}, "
                f"beams {drawn.beams}"
            )

    @property
    def minibatches(self) -> int:
        """Optimiser steps of an epoch."""
        return math.ceil(self.prompts * self.sampling.n / self.fit.batch_size)


def ppo(
    policy: Policy,
    reference: Reference,
    suite: RewardSuite,
    train: Sequence[Question],
    dev: Sequence[Question],
    config: PpoConfig,
    run: Run,
    stage: str,
) -> None:
    """Train in place and leave the weights selected on development questions in `policy`.

    `suite` holds `correctness`, and `reward_model` unless the mode is `z`.
    """
    value_head = new_head(policy, zero=True)
    maker, best = RowMaker(policy), BestCheckpoint(run, stage)
    by_id = {q.id: q for q in train}
    scored = suite.only(*scores_of(config.mode))
    per_update = config.minibatches * config.epochs
    current: list[Row] = []
    loaded, ended = -1, ""

    def roll_out(step: int) -> None:
        nonlocal current, loaded, ended
        update = step // per_update
        if update == loaded:
            return
        if step == 0:
            evaluate(0, 0)
        loaded = update
        if ended:
            return
        if ended := end_reason(run, stage, update, config):
            evaluate(update, step)  # where training got to is a candidate too
            return
        name = f"{stage}-update{update}"
        file = run.folder("rollouts") / f"{name}.safetensors"
        if not (file.exists() and run.has_shard(name)):
            attempts, rows = write(update)
            first = [minibatch(len(rows), 0, k, update, config) for k in range(config.minibatches)]
            measured = measure(
                policy, value_head, reference, [[rows[i] for i in own] for own in first], config.fit
            )
            place = dict(zip((i for own in first for i in own), measured, strict=True))
            save_rollouts([place[i] for i in range(len(rows))], file)
            run.append(attempts, name)
        attempts, rollouts = run.read_shard(name), load_rollouts(file)
        beta = next_beta(run, stage, update, config)
        worth = [score(a, config) for a in attempts]
        baseline = float(np.mean(worth))
        current, returns_N = to_learn(
            rollouts,
            [own - baseline for own in worth],
            beta=beta,
            gamma=config.gamma,
            lam=config.lam,
            min_advantage_std=config.least_spread,
        )
        values_N = torch.cat([r.value_T for r in rollouts])
        run.rewind(f"{stage}/rollouts", update)
        run.log(
            f"{stage}/rollouts", update, score=baseline, beta=beta,
            kl=float(np.mean([r.kl for r in rollouts])), returns=float(returns_N.mean()),
            explained_variance=explained_variance(values_N, returns_N),
            **mean_facts(attempts),
        )  # fmt: skip

    def write(update: int) -> tuple[list[Attempt], list[Row]]:
        sampler = Recorded(Sampler(policy))
        attempts = write_attempts(
            sampler, questions_for(train, config.prompts, update, config.seed),
            config.sampling, split="train", seed=config.seed, round=update,
            step=update * per_update, writer=stage, stream=stage,
            label=f"{stage} writes, update {update}",
        )  # fmt: skip
        rows = [maker.drawn(a.prompt, ids) for a, ids in zip(attempts, sampler.ids, strict=True)]
        return scored.score(attempts, by_id), rows

    def batch_at(step: int) -> list[Row]:
        update, within = divmod(step, per_update)
        epoch, k = divmod(within, config.minibatches)
        if ended or too_far(run, stage, update, epoch, config):
            return []
        return [current[i] for i in minibatch(len(current), epoch, k, update, config)]

    def after_step(step: int) -> None:
        update, within = divmod(step + 1, per_update)
        last = step + 1 == config.updates * per_update
        if (within or update % config.evaluate_every) and not last:
            return
        if not ended:
            evaluate(update, step + 1)

    def evaluate(update: int, step: int) -> None:
        points = evaluate_on_dev(
            run, stage, Sampler(policy), suite, dev, config, round=update, step=step
        )
        best.offer(step, points, policy)

    objective = ppo_objective(
        value_head, clip=config.clip, value_clip=config.value_clip,
        value_weight=config.value_weight, detach_value=config.detach_value,
    )  # fmt: skip
    with attached(policy, value_head):
        fit(
            policy, objective, batch_at, config.fit, run=run, stage=stage,
            steps=config.updates * per_update, before_step=roll_out, after_step=after_step,
        )  # fmt: skip
    finish_stage(run, stage, best, policy)


def scores_of(mode: Mode) -> tuple[str, ...]:
    """Rewards that a mode reads."""
    return ("correctness",) if mode == "z" else ("correctness", "reward_model")


def score(attempt: Attempt, config: PpoConfig) -> float:
    """S(x, y): what a reply is worth (self_motivated.md 2.E)."""
    total = 0.0 if attempt.parsed else -config.unparsed_penalty
    if config.mode != "z":
        total += config.rm_weight * (attempt.rewards["reward_model"] or 0.0)
    if config.mode != "rm":
        total += config.correct_weight * (attempt.rewards["correctness"] or 0.0)
    return total


def minibatch(n: int, epoch: int, k: int, update: int, config: PpoConfig) -> list[int]:
    """Indices of minibatch `k` of an epoch: a shuffled cut of all `n` replies."""
    order = np.random.default_rng([config.seed, update, epoch]).permutation(n)
    return np.array_split(order, config.minibatches)[k].tolist()


def too_far(run: Run, stage: str, update: int, epoch: int, config: PpoConfig) -> bool:
    """Whether an earlier epoch of this update moved the policy beyond `epoch_kl`."""
    if not epoch:
        return False
    first = update * config.minibatches * config.epochs
    lines = {line["step"]: line for line in run.metrics(stage) if line["step"] >= first}
    for earlier in range(epoch):
        start = first + earlier * config.minibatches
        own = [lines[s] for s in range(start, start + config.minibatches) if s in lines]
        moved = [line["approx_kl"] for line in own if "approx_kl" in line]
        if moved and np.mean(moved) > config.epoch_kl:
            return True
    return False


def next_beta(run: Run, stage: str, update: int, config: PpoConfig) -> float:
    """The KL coefficient of an update; adaptive, it follows the KL of the one before."""
    before = [line for line in run.metrics(f"{stage}/rollouts") if line["step"] == update - 1]
    if not config.kl_target or not before:
        return config.beta
    error = float(np.clip(before[0]["kl"] / config.kl_target - 1, -0.2, 0.2))
    return before[0]["beta"] * (1 + HORIZON * error)


def end_reason(run: Run, stage: str, update: int, config: PpoConfig) -> str:
    """Why training ends before this update, or nothing: too far from the reference, or the reward
    model is being over-optimised. Said once.
    """
    reason = ""
    lines = [line for line in run.metrics(f"{stage}/rollouts") if line["step"] < update]
    if lines and lines[-1]["kl"] > config.stop_kl:
        reason = f"the KL to the reference is {lines[-1]['kl']:.1f} nats a reply"
    means: dict[str, list[float]] = {"reward_model": [], "accuracy": []}
    for line in run.metrics(f"{stage}/rounds"):
        if line["reward"] in means and line["round"] <= update:
            means[line["reward"]].append(line["mean"])
    learned = config.mode != "z" and config.patience > 0
    if learned and over_optimised(means["reward_model"], means["accuracy"], config.patience):
        reason = (
            f"over {config.patience} evaluations the reward model's score rose and development "
            "accuracy fell: it is being over-optimised"
        )
    if reason:
        say(f"{stage} ends before update {update}: {reason}")
        if run.read_json(f"{stage}-ended.json") is None:
            run.write_json(f"{stage}-ended.json", {"before_update": update, "reason": reason})
    return reason


def over_optimised(scores: Sequence[float], accuracies: Sequence[float], patience: int) -> bool:
    """Whether the last `patience` evaluations each scored higher and were right less often."""
    if min(len(scores), len(accuracies)) <= patience:
        return False
    up = np.diff(scores[-patience - 1 :]) > 0
    down = np.diff(accuracies[-patience - 1 :]) < 0
    return bool(up.all() and down.all())


def mean_facts(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """Means over an update's replies."""
    names = list(attempts[0].rewards)
    return {
        "length": float(np.mean([a.n_tokens for a in attempts])),
        "parsed": float(np.mean([a.parsed for a in attempts])),
        **{name: float(np.mean([a.rewards[name] or 0.0 for a in attempts])) for name in names},
    }
