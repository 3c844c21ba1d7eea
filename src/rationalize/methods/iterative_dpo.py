"""Iterative DPO with an NLL term: iterative reasoning preference optimisation.

Pang et al. (arXiv 2404.19733, section 2). Every round, from M_t to M_t+1:

    1. write   M_t writes `sampling.n` attempts per question
    2. pair    right over wrong attempts at the same question, at most `pairs` of each
    3. learn   DPO(beta) + nll_weight * NLL per token of the right one; the reference is M_t;
               pairs of some questions are kept aside, and their order is measured afterwards

The pairs are those that a reward model would be trained on; there is neither reward model nor PPO.

Deviations: development questions select the round, or the start, where no round does better;
attempts without an answer are no losers unless `levels` is 3; hinted attempts are in no pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from rationalize.config.checks import above, at_least, between
from rationalize.methods.base import Experiment, NothingToLearn, evaluate_on_dev, selected
from rationalize.methods.own_attempts import (
    RejectConfig,
    SelectConfig,
    WriteConfig,
    log_coverage,
    own_attempts,
    sort_attempts,
)
from rationalize.methods.pair_accuracy import held_out_questions, log_held_out
from rationalize.methods.sft import LORA_FIT
from rationalize.methods.train_scorers.ranking import pair_texts, rank_attempts
from rationalize.methods.train_scorers.reward_model import RewardModelConfig, attempts_at
from rationalize.models.policy import Policy
from rationalize.records import Attempt, Question
from rationalize.runs import Stage
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig
from rationalize.training.preference import PairTexts, learn_pairs
from rationalize.training.selection import best_of, save_last


@dataclass(frozen=True)
class IterativeDpoConfig:
    """Iterative DPO."""

    rounds: int = 2
    """How often the policy writes and learns."""
    attempts: str | None = None
    """Attempts that the first round learns from: a file, a run, or a run's `attempts` folder; none:
    the policy writes them.
    """
    sampling: SamplingConfig = SamplingConfig(temperature=0.8, max_new_tokens=256, n=8)
    """How attempts are written."""
    resample: int = 0
    """Further attempts at questions that were always right or always wrong, which make no pair."""
    select: RejectConfig = RejectConfig()
    """Which attempts make no pairs."""
    pairs: int = 10
    """At most so many pairs of a question, drawn uniformly; 0: all."""
    levels: Literal[2, 3] = 2
    """3: attempts without an answer are losers too."""
    held_out: float = 0.1
    """Share of the questions whose pairs are not learned from, in any round: their pair accuracy is
    logged.
    """
    beta: float = 0.1
    """DPO's beta."""
    nll_weight: float = 1.0
    """Weight of the NLL per token of the right attempt; 0: plain DPO."""
    length_normalized: bool = False
    """Whether the margin counts log-ratios per token; `beta` is then the usual one times a reply's
    tokens, 5 to 10.
    """
    epochs: float = 1.0
    """Passes over a round's pairs."""
    select_by: str = "accuracy"
    """Development metric that selects the round."""
    dev_draws: int = 0
    """Replies to a development question, drawn at temperature 1, whose mean selects; 0: one greedy
    reply.
    """
    fit: FitConfig = FitConfig(learning_rate=5e-6, batch_size=16)
    """How the policy learns; a batch of 16 rows is 8 pairs."""

    LORA: ClassVar[dict[str, Any]] = {"fit": {"learning_rate": 5e-5}}
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {
        "lora": {"tuning": "lora", **LORA, "sft": LORA_FIT}
    }

    def __post_init__(self) -> None:
        at_least(self, 1, "rounds")
        WriteConfig(sampling=self.sampling, resample=self.resample)
        at_least(self, 0, "pairs", "beta", "nll_weight", "dev_draws")
        between(self, 0, 1, "held_out")
        above(self, 0, "epochs")


def iterative_dpo(
    exp: Experiment, policy: Policy, config: IterativeDpoConfig, stage: Stage
) -> Policy:
    """Teach in place, and leave the weights of the best round, or of the start, in `policy`.

    `config.attempts`, or else attempts that `exp.start` holds, which are this very policy's, stand
    for round 0's.
    """
    stage.policy(policy, lambda: _learn(exp, policy, config, stage))
    return policy


def _learn(
    exp: Experiment, policy: Policy, config: IterativeDpoConfig, stage: Stage
) -> Mapping[str, Any]:
    def dev_score(round: int) -> float:
        means = evaluate_on_dev(exp, stage, policy, round=round, step=round, draws=config.dev_draws)
        return selected(means, config.select_by)

    write = WriteConfig(sampling=config.sampling, resample=config.resample)
    select = SelectConfig(**vars(config.select))
    start = stage.sub("start")
    start.policy(policy, lambda: None)
    scores = {start.name: dev_score(0)}
    for round in range(config.rounds):
        this = stage.sub(f"round{round}")
        # 1. write
        attempts = _given(exp, config) if round == 0 else []
        if not attempts:
            attempts = own_attempts(exp, policy, write, this, "writes", round=round, for_pairs=True)
            kept = sort_attempts(attempts, {q.id: q for q in exp.train}, select)
            log_coverage(this, attempts, exp.train, kept)
        # 2. pair
        pairs, unseen = pairs_of(attempts, exp.train, config, exp.seed)
        if not pairs:
            if round:
                break  # the rounds before stand
            raise NothingToLearn(
                f"{this.name}: none of {len(attempts)} attempts at {len(exp.train)} questions make "
                f"a pair: no question {'but held-out ones ' * bool(unseen)}has a right and a wrong "
                "one. Write more per question (`sampling.n`), or take harder or easier questions"
            )

        # 3. learn
        learn = partial(_learn_round, exp, policy, config, this, pairs, unseen, round)
        this.policy(policy, learn)
        scores[this.name] = dev_score(round + 1)
    best = best_of(scores)
    if best != list(scores)[-1]:
        save_last(stage, policy)
    policy.load_weights(replace(stage, name=best).folder)
    return {"kept": best, "scores": scores}


def _given(exp: Experiment, config: IterativeDpoConfig) -> Sequence[Attempt]:
    if config.attempts:
        return attempts_at(Path(config.attempts), exp.splits)
    return exp.start.attempts if exp.start else []


def _learn_round(
    exp: Experiment, policy: Policy, config: IterativeDpoConfig, this: Stage,
    pairs: Sequence[PairTexts], unseen: Sequence[PairTexts], round: int,
) -> Mapping[str, Any]:  # fmt: skip
    margins = learn_pairs(
        policy, pairs, config.fit, beta=config.beta, nll_weight=config.nll_weight,
        epochs=config.epochs, stage=this, seed=[exp.seed, round], held_out=unseen,
        length_normalized=config.length_normalized,
    )  # fmt: skip
    return log_held_out(this, unseen, margins, learned=len(pairs))


def pairs_of(
    attempts: Sequence[Attempt], train: Sequence[Question], config: IterativeDpoConfig, seed: int
) -> tuple[list[PairTexts], list[PairTexts]]:
    """Pairs to learn from, and those of the questions that are held out.

    Right over wrong, by the rank that a reward model learns; nothing wrong is ever chosen.
    """
    rank = RewardModelConfig(pairs=config.pairs, levels=config.levels)
    questions = {q.id: q for q in train}
    ranks = rank_attempts(attempts, questions, config.select, rank, seed, best_only=True)
    aside = held_out_questions(train, config.held_out, seed)  # the same in all rounds
    learned: list[PairTexts] = []
    held_out: list[PairTexts] = []
    for ranked in ranks:
        (held_out if ranked.question.id in aside else learned).extend(pair_texts(ranked))
    return learned, held_out
