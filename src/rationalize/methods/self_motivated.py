"""Self-motivated Learning: the model's own attempts, ranked by correctness, teach a reward model,
and PPO learns from it.

Feng et al., "Improving Language Model Reasoning with Self-motivated Learning" (LREC-COLING 2024,
arXiv 2404.07017). Of the paper, the abstract alone could be read: the model writes its own
rationales, correctness ranks them, the rank trains a reward model, reinforcement learning learns
from it. Every figure and formula below that is our default: docs/methods/self-motivated.md.

    A  write    the base model attempts every question, few-shot                 own_attempts.py
    B  sort     right, wrong, unreadable; equals once; caps; coverage            own_attempts.py
    C  imitate  M_sft <- the base model, fresh, on the right attempts (RFT)      self_training.py
    C' redraw   M_sft attempts every question
    D  rank     R <- M_sft with a scalar head, on right over wrong (B and C')    reward_model.py
       gate     R must order held-out pairs, also without the answer sentence
    E  improve  M_rl <- PPO(M_sft; R, correctness, or both; KL to M_sft)         ppo.py
    F  repeat   `rounds`: M_rl writes in the place of the base model

Under LoRA one backbone serves all roles: M_sft is the reference with every adapter off, policy and
reward model are an adapter each, the value head reads the policy's hidden states.

Deviations: none known from what could be read. Modes `z` and `rm+z` use the gold answer in PPO,
which the abstract does not mention; `rm` is its literal reading. Two choices of ours:
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

from rationalize.config.checks import at_least
from rationalize.errors import UsageError
from rationalize.methods import outcome
from rationalize.methods.base import Experiment, Learned, NothingToLearn
from rationalize.methods.own_attempts import (
    SelectConfig,
    WriteConfig,
    log_coverage,
    own_attempts,
    sort_attempts,
)
from rationalize.methods.ppo import Mode, PpoConfig, PpoRowConfig, ppo, scores_of
from rationalize.methods.self_training import RftConfig, self_training
from rationalize.methods.train_scorers.reward_model import (
    RankData,
    RewardModelConfig,
    describe,
    gate_reason,
    learn_rank,
)
from rationalize.models.policy import Policy
from rationalize.models.reward_model import (
    ADAPTER,
    RewardModel,
    read_facts,
    scaling,
    scoring_head,
)
from rationalize.models.variants import Variants
from rationalize.progress import say
from rationalize.rewards.reward_model import reward_model as reward_of
from rationalize.runs import Stage
from rationalize.sampling.local import SamplingConfig
from rationalize.training.selection import best_of, last_of


@dataclass(frozen=True)
class SelfMotivatedConfig:
    """Self-motivated Learning."""

    rft: RftConfig = RftConfig(
        write=WriteConfig(sampling=SamplingConfig(temperature=0.7, max_new_tokens=256, n=16)),
        select=SelectConfig(positives=4),
    )
    """Stages A to C: how attempts are written, sorted and imitated."""
    redraw: SamplingConfig = SamplingConfig(temperature=1.0, max_new_tokens=256, n=8)
    """Stage C': how M_sft attempts every question again."""
    resample: int = 0
    """Further attempts there at questions that were always right or always wrong."""
    rm: RewardModelConfig = RewardModelConfig()
    """Stage D: the reward model and its gate. What is not ranked, `rft.select` says."""
    ppo: PpoConfig = PpoConfig()
    """Stage E."""
    modes: tuple[Mode, ...] = ("rm+z",)
    """PPO runs, each from M_sft: `rm`, `z`, `rm+z`. The best on development questions is kept."""
    rounds: int = 1
    """Passes A to E; ends early when development accuracy rises by less than a standard error."""

    LORA: ClassVar[dict[str, Any]] = {
        "rft": {"fit": {"learning_rate": 2e-4}}, "rm": {"fit": {"learning_rate": 1e-4}},
        "ppo": {"fit": {"learning_rate": 1e-5}},
    }  # fmt: skip
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"lora": {"tuning": "lora", **LORA}}

    def __post_init__(self) -> None:
        if not self.modes or set(self.modes) - {"rm", "z", "rm+z"}:
            raise UsageError(f"modes is {self.modes}; expected some of rm, z, rm+z")
        at_least(self, 1, "rounds")
        at_least(self, 0, "resample")

    @property
    def max_new_tokens(self) -> int:
        """The longest reply that is written."""
        drawn = self.redraw.max_new_tokens, self.ppo.sampling.max_new_tokens
        return max(self.rft.max_new_tokens, *drawn)

    @property
    def ranking(self) -> RankConfig:
        """Stages C' and D."""
        return RankConfig(self.redraw, self.rft.select, self.rm, self.modes, self.resample)


@dataclass(frozen=True)
class RankConfig:
    """Stages C' and D: M_sft's own attempts, and the reward model of their rank."""

    redraw: SamplingConfig = SamplingConfig(temperature=1.0, max_new_tokens=256, n=8)
    """How M_sft attempts every question again."""
    select: SelectConfig = SelectConfig()
    """What is not ranked."""
    rm: RewardModelConfig = RewardModelConfig()
    """The reward model and its gate."""
    modes: tuple[Mode, ...] = ("rm+z",)
    """What PPO shall learn from: where no mode reads a reward model, none is trained."""
    resample: int = 0
    """Further attempts at questions that were always right or always wrong."""


def self_motivated(
    exp: Experiment, policy: Policy, config: SelfMotivatedConfig, stage: Stage
) -> Learned:
    """All stages; leaves the weights of the best round and mode in `policy`.

    Stages are named by round and mode alone, not after `stage`: there is one such method in a run.
    """
    best, kept = -math.inf, None
    for round in range(config.rounds):
        prefix = f"round{round}"
        # A write, B sort, C imitate: M_sft
        m_sft = self_training(exp, policy, config.rft, exp.stage(f"{prefix}-sft"))
        # C' redraw, D rank, and the gate
        ranked = rank(
            replace(exp, start=m_sft), policy, config.ranking, exp.stage(prefix), round=round
        )
        if exp.tuning == "full":  # under LoRA it is an adapter, which `improve` adds
            exp = with_reward_model(exp, ranked)
        exp = replace(exp, start=ranked)
        # E improve: PPO in every open mode, from M_sft each
        improved: dict[Mode, Learned] = {}
        scores: dict[Mode, float] = {}
        modes = [mode for mode in config.modes if mode == "z" or not ranked.closed]
        if ranked.closed:  # behind the gate are the modes that read a reward model
            stopped = ", ".join(mode for mode in config.modes if mode != "z")
            say(f"PPO with {stopped} is left out: {ranked.closed}")
        for mode in modes:
            policy.load_weights(m_sft.weights)
            this = exp.stage(f"ppo-{mode.replace('+', '-')}-{prefix}")
            improved[mode] = improve(exp, policy, config.ppo.in_mode(mode), this)
            scores[mode] = max((this.done or {})["scores"].values())
        if not scores:
            kept = kept or replace(m_sft, label="RFT")
            break
        mode = best_of(scores)
        rise = scores[mode] - best
        if rise > 0 or kept is None:
            best, kept = scores[mode], improved[mode]
        if rise < 0.5 / math.sqrt(len(exp.dev)):
            break  # less than a standard error of a share, at its widest
        # F repeat: the best so far writes in the place of the base model
        policy.load_weights(kept.weights)
        exp = replace(exp, start=kept)
    assert kept is not None
    policy.load_weights(kept.weights)
    return replace(kept, reward_model=kept.reward_model or ranked.reward_model)


def conclude(exp: Experiment, learned: Learned, name: str) -> None:
    """As every method, with the scores of the reward model."""
    outcome.conclude(with_reward_model(exp, learned), learned, name)


def rank(
    exp: Experiment, policy: Policy, config: RankConfig, stage: Stage, *, round: int = 0
) -> Learned:
    """Stages C' and D from M_sft, which `exp.start` is: leaves M_sft with its attempts, the reward
    model where a mode reads one, and the gate's reason where it is closed.
    """
    start = _start(exp)
    # C' redraw
    write = WriteConfig(sampling=config.redraw, resample=config.resample)
    redrawn = own_attempts(exp, policy, write, stage, "redraws", round=round, for_pairs=True)
    kept = sort_attempts(redrawn, {q.id: q for q in exp.train}, config.select)
    log_coverage(stage.sub("redraws"), redrawn, exp.train, kept)
    ranked = replace(start, policy=policy, attempts=redrawn, store=[*start.store, *redrawn])
    if set(config.modes) == {"z"}:
        return ranked
    # D rank: the reward model
    model_stage = replace(stage.sub("reward-model"), kind="scorers")
    data = RankData(ranked.store, exp.train, config.select, scale_on=redrawn, seed=exp.seed)
    facts: dict[str, Any] = {}
    closed: str | None = None
    try:
        facts = _reward_model(exp, policy, data, config.rm, model_stage)
    except NothingToLearn as error:
        closed = str(error)
    else:
        # the gate
        closed = gate_reason(facts, config.rm, exp.train)
        say(describe(facts))
        ranked = replace(ranked, reward_model=model_stage.folder)
    gate = {"open": closed is None, "reason": closed, **facts}
    exp.run.write_json(f"{stage.name}-gate.json", gate)
    return replace(ranked, closed=closed or "")


def _reward_model(
    exp: Experiment, policy: Policy, data: RankData, config: RewardModelConfig, stage: Stage
) -> dict[str, Any]:
    """Trained from M_sft, in full or as an adapter on it; `policy` is M_sft again afterwards."""
    if stage.done is not None:
        return read_facts(stage.folder)
    try:
        if exp.tuning == "full":
            return learn_rank(policy, data, config, stage, stage.folder)
        variants = adapters(exp, policy, [ADAPTER])
        with variants.active(ADAPTER) as scorer:
            return learn_rank(
                scorer, data, config, stage, stage.folder,
                save=lambda place: variants.save(ADAPTER, place),
                adapter_on=os.path.relpath(variants.source, stage.folder),
            )  # fmt: skip
    finally:
        policy.load_weights(_start(exp).weights)


def improve(exp: Experiment, policy: Policy, config: PpoRowConfig, stage: Stage) -> Learned:
    """Stage E: PPO in a mode from M_sft with its reward model, which `rank` left as `exp.start`.

    Raises `NothingToLearn` where the mode reads a reward model behind a closed gate.
    """
    start, reads_model = _start(exp), config.mode != "z"
    if reads_model and start.closed:
        raise NothingToLearn(start.closed)
    if stage.done is None:
        if exp.tuning == "full":
            exp = with_reward_model(exp, start)
            ppo(exp, policy, policy.become_reference(), config, stage)
        else:
            variants = adapters(exp, policy, [stage.name])
            if reads_model and start.reward_model:
                model = shared_model(variants, start.reward_model, stage.name)
                exp = exp.with_reward(reward_of(model))
            with variants.active(stage.name) as learner:
                ppo(exp, learner, variants.base_policy, config, stage)
    policy.load_weights(stage.folder)
    trained = {stage.name: learned_from(config.mode)}
    return replace(
        start, weights=stage.folder, last=last_of(stage), policy=policy, trained=trained,
        attempts=(),
    )  # fmt: skip


def with_reward_model(exp: Experiment, learned: Learned) -> Experiment:
    """The experiment with the method's reward model, if it has one, with weights of its own."""
    folder = learned.reward_model
    if folder is None:
        return exp
    loaded = {reward.scorer_hash for reward in exp.suite.rewards if reward.name == "reward_model"}
    if read_facts(folder)["weights_hash"] in loaded:
        return exp
    return exp.with_reward(reward_of(load_reward_model(exp, folder)))


def load_reward_model(exp: Experiment, folder: Path) -> RewardModel:
    """A finished reward model, with weights of its own."""
    return RewardModel.load(folder, trust_remote_code=exp.config.trust_remote_code)


def adapters(exp: Experiment, policy: Policy, names: Sequence[str]) -> Variants:
    """M_sft, whose weights never learn, with an adapter per name: in the memory of `policy`, which
    must be loaded again afterwards.
    """
    m_sft = _start(exp).weights
    policy.load_weights(m_sft)
    base = replace(policy, model=policy.model.unload(), tuning="full")  # its adapter is new
    return Variants.of(base, m_sft, names, seed=exp.seed)


def shared_model(variants: Variants, folder: Path, learner: str) -> RewardModel:
    """The reward model as one more adapter; after it has scored, `learner` is active again."""
    variants.load(ADAPTER, folder)
    with variants.active(ADAPTER) as scorer:
        scalar_head = scoring_head(scorer, folder)

    @contextmanager
    def opened() -> Iterator[Policy]:
        with variants.active(ADAPTER) as scorer:
            try:
                yield scorer
            finally:
                variants.base.model.set_adapter(learner)

    opening: Any = opened
    return RewardModel(opening, scalar_head, **scaling(read_facts(folder)))


def _start(exp: Experiment) -> Learned:
    """M_sft, or what `rank` left."""
    if exp.start is None:
        raise UsageError("this stage goes on from the right attempts' SFT; start it from RFT's row")
    return exp.start


def learned_from(mode: Mode) -> tuple[str, ...]:
    """The rewards that PPO's score adds up in a mode."""
    return ("reward_model",) if mode == "rm" else scores_of(mode)
