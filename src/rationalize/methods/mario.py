"""MaRio: several rewards at once through control tokens, on Quark.

Ramnath et al., "Tailoring Self-Rationalizers with Multi-Reward Distillation" (ICLR 2024, arXiv
2311.02805) on Lu et al., "Quark" (NeurIPS 2022, arXiv 2205.13636). Every rationale in a growing
pool gets one control token per reward, which says in which quantile of the pool its reward lies.
The policy learns to write a rationale *given* its tokens, and is then asked for the best token of
every reward at once: no weighted sum, no trade-off fixed beforehand.

    1. explore   every `sample_interval` steps the policy writes under its best tokens; the pool
       grows, nothing leaves it
    2. quantise  each reward by itself over the whole pool: K bins, or one token per value where the
       reward is discrete
    3. learn     L = sum_t [ NLL_t + beta KL_t - alpha H_t ] / sum_t 1   over response tokens
       (Quark, section 2)

Variants: CLASSIC (all tokens from the start), ADDITIVE (one reward more every `interval` steps),
PRODUCT (one token for the product of the rewards), single reward (a list of one). `filters` drops
pool attempts below a threshold, with a token or without.

Deviations from the released code (numbers in brackets: the list in its review, where one exists):
 1. Ties stay in one bin; the code splits them by insertion order (`ties: released` restores that).
    [3]
 2. Control tokens are masked in NLL, KL, entropy and decoding alike, over one vocabulary; the code
    masks the first 32,000 ids in the KL only and may emit control tokens. [5]
 3. The policy starts from the SFT model, as the paper says; the released command starts from the
    raw base model. [4]
 4. The best prefix at evaluation holds every reward's token, correctness included. [2]
 5. Development questions select the checkpoint; test questions are not read during training. [10]
 6. Every exploration covers its questions whole; the code drops the last partial batch. [11]
 7. An attempt cut at the length limit gets no EOS; the code appends one.
 8. A row of each step is drawn by bin, then by attempt (`draw: balanced`), since ties and by-value
    tokens make bins unequal; the code draws uniformly (`draw: uniform`).
 9. Wrong teacher samples may enter the pool (`teacher: all`), so that the worst tokens have
    something to mean; where the correctness token is not obeyed, they seem to cost accuracy. The
    default is the code's, correct samples only.
10. PRODUCT multiplies rewards mapped to [0, 1] by their range; the code multiplies raw values, so
    that a negative consistency turns the other rewards round (`product: raw` restores that). [13]
11. ADDITIVE to the left with no active reward uses no token; the code's slice `-0:` uses all. [12]
12. The control tokens' rows may learn faster than the rest (`fit.control_factor`) and decoding may
    be guided (`guidance`); 1 and 0 are the paper's.
The answer-label loss of the code is not kept: it is broken there and 0 in the released command. [1]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rationalize.errors import UsageError
from rationalize.evaluation.obedience import obedience
from rationalize.methods.common import (
    MethodConfig,
    evaluate_on_dev,
    finish_stage,
    questions_for,
    restore_or,
    rollouts,
)
from rationalize.methods.pool import Pool
from rationalize.methods.setup import open_method
from rationalize.methods.sft import start_policy
from rationalize.models.forward import Row
from rationalize.records import Attempt, Question
from rationalize.rewards.suite import RewardSuite
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Teacher, teacher_attempts, write_attempts
from rationalize.signals.bins import Ties
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.losses import KLDirection
from rationalize.training.objectives import quark
from rationalize.training.selection import BestCheckpoint

if TYPE_CHECKING:
    from rationalize.models.policy import Policy
    from rationalize.runs import Run


@dataclass(frozen=True)
class MarioConfig(MethodConfig):
    """MaRio."""

    rewards: tuple[str, ...] = ("consistency", "correctness", "plausibility", "diversity")
    """Rewards with a control token, in the order of the prefix."""
    bins: int = 5
    """Bins K of a continuous reward; a discrete one has a bin per value."""
    bins_of: dict[str, int] = field(default_factory=dict)
    """Bins of single rewards, where they differ."""
    filters: dict[str, float] = field(default_factory=dict)
    """Pool attempts below this score are not learned from. A reward named here and in `rewards` is
    the code's `filter_quark`.
    """
    variant: Literal["classic", "additive", "product"] = "classic"
    """When rewards enter: all at once, one by one, or multiplied into one."""
    side: Literal["right", "left"] = "right"
    """ADDITIVE: at which end of the prefix the next reward enters (right: next to the text)."""
    interval: int = 0
    """ADDITIVE: steps between two rewards; 0 spreads the entries evenly over the run."""
    groups: tuple[int, ...] = ()
    """ADDITIVE: how many rewards enter together (2, 1, 1); empty: one by one."""
    product: Literal["normalised", "raw"] = "normalised"
    """PRODUCT: whether rewards are mapped to [0, 1] before they are multiplied."""
    ties: Ties = "together"
    """Whether equal scores share a bin."""
    draw: Literal["balanced", "uniform"] = "balanced"
    """How rows are drawn from the pool: evenly over rewards and bins, or over attempts."""
    beta: float = 0.1
    """Weight of the KL to the reference."""
    alpha: float = 0.0
    """Weight of the entropy bonus."""
    kl: KLDirection = "reverse"
    """KL(policy || reference) as in the code; `forward`: KL(reference || policy), the paper's."""
    steps: int = 600
    """Optimiser steps."""
    sample_interval: int = 200
    """Steps between two explorations; one happens at step 0."""
    rollouts: int = 0
    """Attempts written per exploration; 0: one per training question."""
    teacher: Teacher = "correct"
    """Teacher samples in the pool at step 0: the correct ones (as released), all, or none."""
    control_copies: int = 1
    """Tokens per control."""
    control_init: Literal["statistics", "words"] = "statistics"
    """How control rows start: from all rows' mean and deviation (as released), or from words."""
    guidance: float = 0.0
    """Add this times (log-probability under the best tokens minus under the worst); 0: paper's."""
    select_by: str = "nrg"
    """Development metric that selects the checkpoint: nrg, accuracy or a reward's name."""
    obedience: Literal["ends", "all", "none"] = "ends"
    """Bins tried on development questions after each round; after the last `ends` becomes `all`."""
    obedience_questions: int = 0
    """How many development questions obedience is measured on; 0: all."""
    fit: FitConfig = FitConfig(learning_rate=5e-5, control_factor=20.0, batch_size=8)
    """How the policy learns."""
    sampling: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.9, max_new_tokens=64)
    """How rollouts are written."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "released": {
            "ties": "released",
            "draw": "uniform",
            "product": "raw",
            "steps": 50_000,
            "sample_interval": 4_000,
            "beta": 0.1,
            "alpha": 0.0,
            "fit": {
                "learning_rate": 3e-5, "control_factor": 1.0, "batch_size": 4, "warmup": 0.02,
                "max_grad_norm": 1.0, "precision": "float32",
            },
            "sampling": {"temperature": 1.0, "top_p": 0.7, "top_k": 50, "max_new_tokens": 256},
            "evaluation_sampling": {"temperature": 0.0, "max_new_tokens": 256},
            "sft_epochs": 25.0,
            "sft_fit": {
                "learning_rate": 3e-5, "batch_size": 4, "max_grad_norm": 0.5,
                "precision": "float32",
            },
        },
    }  # fmt: skip

    def __post_init__(self) -> None:
        """What can be known to be wrong before anything is paid for. Raises `UsageError`."""
        metrics = {"nrg", "accuracy", *self.rewards} - {"correctness"}
        groups = self.groups or (1,) * len(self.rewards)
        last_entry = self.interval * (len(groups) - 1) if self.variant == "additive" else 0
        for ok, message in (
            (len(self.rewards) > 0, "rewards is empty; name at least one"),
            (
                self.select_by in metrics,
                f"select_by is {self.select_by!r}; expected one of {', '.join(sorted(metrics))}",
            ),
            (
                set(self.bins_of) <= set(self.rewards),
                f"bins_of names {sorted(set(self.bins_of) - set(self.rewards))}, which are not "
                f"among the rewards {list(self.rewards)}",
            ),
            (
                sum(groups) == len(self.rewards),
                f"groups {self.groups} sum to {sum(groups)}; expected {len(self.rewards)}, one "
                "place per reward",
            ),
            (
                last_entry < self.steps,
                f"the last reward would enter at step {last_entry} of {self.steps}; lower interval",
            ),
        ):
            if not ok:
                raise UsageError(f"mario: {message}")


def train_mario(config: MarioConfig, out: Path) -> None:
    """SFT (unless `init: model`), scorers where none are given, MaRio; leaves `out/model`."""
    names = (*config.rewards, *config.filters)
    with open_method(config, "mario", out, rewards=names) as setup:
        policy, run = start_policy(setup), setup.run
        own = named_as_loaded(config, setup.suite)
        restore_or(
            run, "mario", policy,
            lambda: mario(policy, setup.suite, setup.train, setup.dev, own, run, "mario"),
        )  # fmt: skip
        setup.conclude(
            policy, "MaRio", control=best_prefix(own), guidance=config.guidance,
            trained={"mario": own.rewards},
        )  # fmt: skip


def mario(
    policy: Policy,
    suite: RewardSuite,
    train: Sequence[Question],
    dev: Sequence[Question],
    config: MarioConfig,
    run: Run,
    stage: str,
) -> None:
    """Algorithm 1 of Quark with MaRio's tokens; leaves the selected weights in `policy`."""
    controls = control_bins(config, suite)
    reference = policy.become_reference(half=config.fit.precision != "float32")
    policy.add_controls(
        controls, copies=config.control_copies, init=config.control_init, seed=config.seed
    )
    pool = Pool(config, suite, controls)
    rows = RowMaker(policy)
    best = BestCheckpoint(run, stage)

    def explore(step: int) -> None:
        if step == 0:  # what the rounds are measured against; its tokens mean nothing yet
            evaluate_on_dev(run, stage, Sampler(policy), suite, dev, config, round=0, step=0)
        for round in range(pool.rounds, step // config.sample_interval + 1):
            attempts = rollouts(run, f"{stage}-round{round}", partial(write_round, round))
            pool.add(attempts, active_when_training(round * config.sample_interval, config))
            if policy.controls:
                policy.controls = replace(policy.controls, lowest=pool.lowest())
            pool.log(run, stage)

    def write_round(round: int) -> list[Attempt]:
        step = round * config.sample_interval
        active = active_when_sampling(step, config)
        attempts = write_attempts(
            Sampler(policy), questions_for(train, config.rollouts, round, config.seed),
            config.sampling, split="train", seed=config.seed, round=round, step=step,
            control=dict.fromkeys(active, 0), label=f"{stage} explores, round {round}",
        )  # fmt: skip
        if round == 0:
            attempts = teacher_attempts(train, config.teacher) + attempts
        return suite.score(attempts, {q.id: q for q in train})

    def batch_at(step: int) -> list[Row]:
        active = active_when_training(step, config)
        return [
            rows.attempt(attempt, {name: bins[name] for name in active})
            for attempt, bins in pool.draw(step, active)
        ]

    def after_step(step: int) -> None:
        done = step + 1
        if done % config.sample_interval and done != config.steps:
            return
        sampler = Sampler(policy, guidance=config.guidance)
        active = dict.fromkeys(active_when_sampling(done, config), 0)
        round = -(-done // config.sample_interval)
        score = evaluate_on_dev(
            run, stage, sampler, suite, dev, config, round=round, step=done, control=active
        )
        if len(active) == len(controls):  # a policy is only ever used under all its tokens
            best.offer(done, score, policy)
        if config.obedience != "none" and active:
            bins = {name: pool.filled()[name] for name in active}
            _log_obedience(run, stage, sampler, suite, dev, config, bins, round, done)

    fit(
        policy, quark(reference, beta=config.beta, alpha=config.alpha, direction=config.kl),
        batch_at, config.fit, run=run, stage=stage, steps=config.steps, before_step=explore,
        after_step=after_step,
    )  # fmt: skip
    finish_stage(run, stage, best, policy)


def control_bins(config: MarioConfig, suite: RewardSuite) -> dict[str, int]:
    """Control tokens: reward -> number of bins, in prefix order."""
    if config.variant == "product":
        return {"product": config.bins}
    return {
        name: len(levels)
        if (levels := suite[name].levels)
        else config.bins_of.get(name, config.bins)
        for name in config.rewards
    }


def named_as_loaded(config: MarioConfig, suite: RewardSuite) -> MarioConfig:
    """The configuration with rewards under their own names: `my_rewards:brevity` is `brevity`."""
    by_name = {n: suite[n].name for n in (*config.rewards, *config.filters)}
    return replace(
        config,
        rewards=tuple(by_name[n] for n in config.rewards),
        filters={by_name[n]: t for n, t in config.filters.items()},
        bins_of={by_name[n]: k for n, k in config.bins_of.items()},
        select_by=by_name.get(config.select_by, config.select_by),
    )


def best_prefix(config: MarioConfig) -> dict[str, int]:
    """The tokens that a finished policy is asked under: the best one of every reward."""
    return dict.fromkeys(active_when_sampling(config.steps, config), 0)


def active_when_training(step: int, config: MarioConfig) -> tuple[str, ...]:
    """Rewards whose token is in the prefix of training step `step`."""
    if config.variant == "product":
        return ("product",)
    if config.variant == "classic":
        return config.rewards
    return _cut(config, _entered(step, config))


def active_when_sampling(step: int, config: MarioConfig) -> tuple[str, ...]:
    """Rewards in the prefix when the policy writes at `step`: those that were trained by then.

    At step 0 the policy is the reference and writes without tokens.
    """
    if step == 0:
        return ()
    if config.variant != "additive":
        return active_when_training(step, config)
    return _cut(config, _entered(step - 1, config))


def _entered(step: int, config: MarioConfig) -> int:
    """How many rewards have entered by `step`: min(R, floor(s / I) + 1), or whole groups (3.3)."""
    groups = config.groups or (1,) * len(config.rewards)
    if config.side == "left":
        groups = groups[::-1]  # taken from the end of the list, as released
    interval = config.interval or -(-config.steps // len(groups))
    return sum(groups[: step // interval + 1])


def _cut(config: MarioConfig, count: int) -> tuple[str, ...]:
    if config.side == "right":
        return config.rewards[:count]
    return config.rewards[len(config.rewards) - count :]


def _log_obedience(
    run: Run, stage: str, sampler: Sampler, suite: RewardSuite, dev: Sequence[Question],
    config: MarioConfig, bins: Mapping[str, Sequence[int]], round: int, step: int,
) -> None:  # fmt: skip
    which = "all" if step == config.steps else config.obedience
    name = f"obedience/{stage}-{step}.json"
    if not (run.path / name).exists():
        rows = obedience(
            sampler, suite, dev[: config.obedience_questions or None],
            config.evaluation_sampling, bins=bins, which=which, split="dev", seed=config.seed,
            round=round, step=step, product_of=config.rewards, raw_product=config.product == "raw",
        )  # fmt: skip
        run.write_json(name, rows)
    run.rewind(f"{stage}/obedience", step)
    for row in run.read_json(name):
        run.log(f"{stage}/obedience", **row)
