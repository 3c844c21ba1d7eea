"""Self-motivated Learning: the model's own attempts, ranked by correctness, teach a reward model,
and PPO learns from it.

Feng et al., "Improving Language Model Reasoning with Self-motivated Learning" (LREC-COLING 2024,
arXiv 2404.07017). Of the paper, the abstract alone could be read: the model writes its own
rationales, correctness ranks them, the rank trains a reward model, reinforcement learning learns
from it. Every figure and formula below that is our default, and docs/methods/self-motivated.md
says which.

    A  write    the base model attempts every question, few-shot                 own_attempts.py
    B  sort     right, wrong, unreadable; equals once; caps; coverage            own_attempts.py
    C  imitate  M_sft <- the base model, fresh, on the right attempts (= RFT)    expert_iteration.py
    C' redraw   M_sft attempts every question
    D  rank     R <- M_sft with a scalar head, on right over wrong (B and C')    reward_model.py
       gate     R must order held-out pairs, also without the answer sentence
    E  improve  M_rl <- PPO(M_sft; R, correctness, or both; KL to M_sft)         ppo.py
    F  repeat   `rounds`: M_rl writes in the place of the base model

Under LoRA one backbone serves all roles: M_sft is the reference with every adapter off, policy and
reward model are an adapter each, the value head reads the policy's hidden states.

Deviations: none known from what could be read. Modes `z` and `rm+z` use the gold answer in PPO,
which the abstract does not mention; `rm` is its literal reading. Of our own specification:
imitation's loss is a mean over the batch's tokens, not over examples of each one's mean, so that a
long rationale counts for more; `stop_kl` looks at the replies of the update before, so that a run
ends one update late.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from rationalize.errors import UsageError
from rationalize.methods.common import (
    MethodConfig,
    evaluate_as_written,
    refuse_nested,
    refuse_unused,
    share,
)
from rationalize.methods.expert_iteration import RftConfig, restarting
from rationalize.methods.own_attempts import (
    SelectConfig,
    WriteConfig,
    log_coverage,
    own_attempts,
    sort_attempts,
)
from rationalize.methods.ppo import Mode, PpoConfig, ppo, scores_of
from rationalize.methods.reward_model import (
    NoRank,
    RewardModelConfig,
    describe,
    gate_reason,
    learn_rank,
)
from rationalize.methods.setup import Setup, open_method
from rationalize.models.heads import load_head
from rationalize.models.policy import Policy, load_policy
from rationalize.models.reward_model import ADAPTER, RewardModel, read_facts, scaling
from rationalize.models.variants import Variants
from rationalize.progress import say
from rationalize.records import Attempt
from rationalize.rewards.base import Reward
from rationalize.rewards.reward_model import reward_model as reward_of
from rationalize.sampling.local import Sampler, SamplingConfig


@dataclass(frozen=True)
class SelfMotivatedConfig(MethodConfig):
    """Self-motivated Learning."""

    kept: RftConfig = RftConfig(
        write=WriteConfig(sampling=SamplingConfig(temperature=0.7, max_new_tokens=256, n=16)),
        select=SelectConfig(positives=4),
    )
    """Stages A to C: how attempts are written, sorted and imitated. Its model, questions and seed
    are this method's own.
    """
    redraw: WriteConfig = WriteConfig(
        shots=0, sampling=SamplingConfig(temperature=1.0, max_new_tokens=256, n=8)
    )
    """Stage C': how M_sft attempts every question again."""
    rm: RewardModelConfig = RewardModelConfig()
    """Stage D: the reward model and its gate. It ranks what `kept.select` says."""
    ppo: PpoConfig = PpoConfig()
    """Stage E; its `mode` is one of `modes`."""
    modes: tuple[Mode, ...] = ("rm+z",)
    """PPO runs, each from M_sft: `rm`, `z`, `rm+z`. The best on development questions is kept."""
    rounds: int = 1
    """Passes A to E; ends early when development accuracy rises by less than a standard error."""
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=256)
    """How development and test rationales are written; by default as long as `kept.write`'s."""

    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "lora": {
            "tuning": "lora",
            "kept": {"fit": {"learning_rate": 2e-4}},
            "rm": {"fit": {"learning_rate": 1e-4}},
            "ppo": {"fit": {"learning_rate": 1e-5}},
        }
    }

    def __post_init__(self) -> None:
        if not self.modes or set(self.modes) - {"rm", "z", "rm+z"}:
            raise UsageError(f"modes is {self.modes}; expected some of rm, z, rm+z")
        refuse_unused(self, "init", "sft_epochs", "sft_fit")
        evaluate_as_written(self, self.kept.write.sampling)
        refuse_nested(self, "kept", "rm", "ppo", "rm.attempts", "ppo.mode")  # `modes` says which
        if self.rm.select not in (SelectConfig(), self.kept.select):
            raise UsageError(
                "rm.select has no effect in SelfMotivated; set kept.select, which says for both "
                "what is learned from"
            )
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}; expected at least 1")


@dataclass
class Learned:
    """What a pass of A to E leaves behind."""

    sft: Path
    """M_sft's weights; a role loads them when its turn comes."""
    attempts: list[Attempt]
    """Of stages A and C'."""
    redrawn: list[Attempt]
    """Of stage C' alone: M_sft's own."""
    reward_model: Path | None
    """Folder, unless no mode reads one."""
    closed: str | None
    """Why the gate is closed, if it is."""


def train_self_motivated(config: SelfMotivatedConfig, out: Path) -> None:
    """All stages in `out`; the policy lands in `out/model`."""
    with open_method(config, "self-motivated", out) as setup:
        if setup.tuning == "lora":
            say_slow_rates(config)
        best, folder, name, writer = -math.inf, None, "Self-motivated Learning", None
        trained: dict[str, Sequence[str]] = {}
        for round in range(config.rounds):
            learned = attempts_to_rewards(
                setup, config, config.modes, f"round{round}", round, writer
            )
            scores: dict[Mode, float] = {}
            for mode in open_modes(config.modes, learned.closed):
                stage = f"{stage_of(mode)}-round{round}"
                improve(setup, learned, replace(config.ppo, mode=mode), stage)
                scores[mode] = best_score(setup, stage)
            if not scores:
                if folder is None:
                    folder, name = learned.sft, "RFT"
                break
            mode = max(scores, key=scores.__getitem__)
            rise, best = scores[mode] - best, max(best, scores[mode])
            if rise > 0:
                stage = f"{stage_of(mode)}-round{round}"
                folder = setup.run.folder("policies", stage)
                trained = {stage: learned_from(mode)}
            if rise < 0.5 / math.sqrt(len(setup.dev)):
                break  # less than a standard error of a share, at its widest
            writer = again(setup, folder or learned.sft)
        setup.conclude(again(setup, folder or learned.sft), name, trained=trained)


def say_slow_rates(config: SelfMotivatedConfig) -> None:
    """Name the preset where LoRA would learn at full tuning's rates, which are too low for it."""
    default = SelfMotivatedConfig()
    slow = [
        f"{stage}.fit.learning_rate {getattr(config, stage).fit.learning_rate:g}"
        for stage in ("kept", "rm", "ppo")
        if getattr(config, stage).fit.learning_rate == getattr(default, stage).fit.learning_rate
    ]
    if slow:
        say(
            f"LoRA learns here at the rates of full tuning ({', '.join(slow)}), which are low for "
            "it: --preset lora has higher ones"
        )


def attempts_to_rewards(
    setup: Setup, config: SelfMotivatedConfig, modes: Sequence[Mode], prefix: str, round: int = 0,
    writer: Policy | None = None,
) -> Learned:  # fmt: skip
    """Stages A to D; the reward model is trained where a mode reads it, and joins the suite."""
    run, by_id = setup.run, {q.id: q for q in setup.train}
    sft = restarting(setup, share(config.kept, config), f"{prefix}-sft", writer)
    redrawn = own_attempts(
        Sampler(sft.policy), setup.train, config.redraw, run, f"{prefix}-redraws", round=round,
        seed=config.seed, few_shot=False,
    )  # fmt: skip
    found = sort_attempts(redrawn, by_id, config.kept.select)
    log_coverage(redrawn, setup.train, found, run, f"{prefix}-redraws")
    learned = Learned(sft.folder, [*sft.attempts, *redrawn], redrawn, None, None)
    if any(mode != "z" for mode in modes):
        own = share(config.rm, config, select=config.kept.select)
        folder = run.folder("scorers", f"{prefix}-reward-model")
        facts: dict[str, Any] = {}
        try:
            facts = reward_model(setup, own, learned, folder, f"{prefix}-reward-model")
            learned.reward_model, learned.closed = folder, gate_reason(facts, own)
            say(describe(facts))
            if setup.tuning == "full":  # under LoRA it shares the policy's backbone, in `improve`
                setup.suite = setup.suite.with_reward(loaded_reward(setup, folder))
        except NoRank as error:
            learned.closed = str(error)
        gate = {"open": learned.closed is None, "reason": learned.closed, **facts}
        run.write_json(f"{prefix}-gate.json", gate)
    return learned


def loaded_reward(setup: Setup, folder: Path) -> Reward:
    """A finished reward model with weights of its own."""
    trust = setup.config.trust_remote_code
    return reward_of(RewardModel.load(folder, trust_remote_code=trust))


def reward_model(
    setup: Setup, config: RewardModelConfig, learned: Learned, folder: Path, stage: str
) -> dict[str, Any]:
    """Stage D, from M_sft's weights: in full, or as an adapter on them."""
    run = setup.run
    if run.done(stage) is not None:
        return read_facts(folder)
    if setup.tuning == "full":
        policy = again(setup, learned.sft)
        return learn_rank(
            policy, learned.attempts, setup.train, config, run, stage, folder, policy.save,
            scale_on=learned.redrawn,
        )  # fmt: skip
    variants = adapters(setup, learned.sft, [ADAPTER])
    with variants.active(ADAPTER) as policy:
        return learn_rank(
            policy, learned.attempts, setup.train, config, run, stage, folder,
            lambda place: variants.save(ADAPTER, place), scale_on=learned.redrawn,
            adapter_on=os.path.relpath(variants.source, folder),
        )  # fmt: skip


def open_modes(modes: Sequence[Mode], closed: str | None) -> list[Mode]:
    """The modes that may run: all, or behind a closed gate those that need no reward model."""
    if closed is None:
        return list(modes)
    stopped = [mode for mode in modes if mode != "z"]
    say(f"PPO with {', '.join(stopped)} is left out: {closed}")
    return [mode for mode in modes if mode == "z"]


def improve(setup: Setup, learned: Learned, config: PpoConfig, stage: str) -> None:
    """Stage E from M_sft; the weights land in the run's `policies/STAGE`."""
    own, run = share(config, setup.config, mode=config.mode), setup.run
    if run.done(stage) is not None:
        return
    if setup.tuning == "full":
        policy = again(setup, learned.sft)
        reference = policy.become_reference(half=own.fit.precision != "float32")
        ppo(policy, reference, setup.suite, setup.train, setup.dev, own, run, stage)
        return
    variants = adapters(setup, learned.sft, [stage])
    suite = setup.suite
    if own.mode != "z" and learned.reward_model:
        suite = suite.with_reward(reward_of(shared_model(variants, learned.reward_model, stage)))
    with variants.active(stage) as policy:
        ppo(policy, variants.base_policy, suite, setup.train, setup.dev, own, run, stage)


def shared_model(variants: Variants, folder: Path, policy: str) -> RewardModel:
    """The reward model as one more adapter; after it has scored, `policy` is active again."""
    variants.load(ADAPTER, folder)
    with variants.active(ADAPTER) as scorer:
        scalar_head = load_head(scorer, folder).requires_grad_(False)

    @contextmanager
    def opened() -> Iterator[Policy]:
        with variants.active(ADAPTER) as scorer:
            try:
                yield scorer
            finally:
                variants.base.model.set_adapter(policy)

    opening: Any = opened
    return RewardModel(opening, scalar_head, **scaling(read_facts(folder)))


def adapters(setup: Setup, sft: Path, names: Sequence[str]) -> Variants:
    """M_sft's weights, which never learn, with an adapter per name."""
    base = load_policy(sft, tuning="full", trust_remote_code=setup.config.trust_remote_code)
    return Variants.of(base, sft, names, seed=setup.config.seed)


def stage_of(mode: Mode) -> str:
    """A name that may be a file's."""
    return f"ppo-{mode.replace('+', '-')}"


def again(setup: Setup, folder: Path) -> Policy:
    """A stage's weights, loaded to learn."""
    policy = setup.load_policy()
    policy.load_weights(folder)
    return policy


def learned_from(mode: Mode) -> tuple[str, ...]:
    """The rewards that PPO's score adds up in a mode."""
    return ("reward_model",) if mode == "rm" else scores_of(mode)


def best_score(setup: Setup, stage: str) -> float:
    """Development score of a finished stage's selected weights."""
    return max((setup.run.done(stage) or {})["scores"].values())
