"""Iterative DPO with an NLL term (iterative reasoning preference optimisation, arXiv 2404.19733).

    every round:  the policy M_t writes n attempts per question
                  pairs: right over wrong attempts at the same question, at most `pairs` of each
                  M_{t+1} <- M_t by DPO(beta) + nll_weight * NLL per token of the right one,
                  reference M_t

The pairs are those that a reward model would be trained on; there is neither reward model nor PPO.

Deviations: development questions select the round, or the start, where no round does better;
attempts without an answer are no losers unless `levels` is 3; hinted attempts are in no pair.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rationalize.errors import UsageError, UserError
from rationalize.methods.common import (
    MethodConfig,
    evaluate_as_written,
    evaluate_on_dev,
    restore_or,
)
from rationalize.methods.own_attempts import (
    SelectConfig,
    WriteConfig,
    learned_text,
    log_coverage,
    own_attempts,
    sort_attempts,
)
from rationalize.methods.reward_model import RewardModelConfig, rank_attempts
from rationalize.methods.setup import Setup, open_method
from rationalize.methods.sft import start_policy
from rationalize.models.policy import Policy
from rationalize.records import Attempt, Question
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.training.loop import FitConfig, forget_checkpoint
from rationalize.training.preference import PairTexts, learn_pairs


@dataclass(frozen=True)
class IterativeDpoConfig(MethodConfig):
    """Iterative DPO."""

    rounds: int = 2
    """How often the policy writes and learns."""
    write: WriteConfig = WriteConfig(
        sampling=SamplingConfig(temperature=0.8, max_new_tokens=256, n=8)
    )
    """How attempts are written; the policy is tuned by then, and gets no demonstrations."""
    select: SelectConfig = SelectConfig()
    """Which attempts make pairs; `positives` has no effect here."""
    pairs: int = 10
    """At most so many pairs of a question, drawn uniformly; 0: all."""
    levels: Literal[2, 3] = 2
    """3: attempts without an answer are losers too."""
    beta: float = 0.1
    """DPO's beta."""
    nll_weight: float = 1.0
    """Weight of the NLL per token of the right attempt; 0: plain DPO."""
    epochs: float = 1.0
    """Passes over a round's pairs."""
    select_by: str = "accuracy"
    """Development metric that selects the round."""
    fit: FitConfig = FitConfig(learning_rate=5e-6, batch_size=16)
    """How the policy learns; a batch of 16 rows is 8 pairs."""
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=256)
    """How development and test rationales are written; by default as long as `write`'s."""

    def __post_init__(self) -> None:
        evaluate_as_written(self, self.write.sampling)
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}; expected at least 1")


class NoPairs(UserError):
    """No question has attempts to prefer among."""


def train_iterative_dpo(config: IterativeDpoConfig, out: Path) -> None:
    """SFT (unless `init: model`), then iterative DPO; the policy lands in `out/model`."""
    with open_method(config, "dpo", out) as setup:
        policy = iterative_dpo(setup, start_policy(setup), config, "dpo")
        setup.conclude(policy, "iterative DPO", trained={"dpo": ("correctness",)})


def iterative_dpo(
    setup: Setup,
    policy: Policy,
    config: IterativeDpoConfig,
    stage: str,
    first: Sequence[Attempt] | None = None,
) -> Policy:
    """Train in place; `first` are attempts of this very policy, in the place of round 0's own."""
    restore_or(setup.run, stage, policy, lambda: _learn(setup, policy, config, stage, first))
    return policy


def _learn(
    setup: Setup,
    policy: Policy,
    config: IterativeDpoConfig,
    stage: str,
    first: Sequence[Attempt] | None,
) -> None:
    run, by_id = setup.run, {q.id: q for q in setup.train}
    scores: dict[str, float] = {}
    start = f"{stage}-start"
    if run.done(start) is None:
        policy.save(run.folder("policies", start))
        run.finish(start)
    scores[start] = evaluate_on_dev(
        run, stage, Sampler(policy), setup.suite, setup.dev, config, round=0, step=0
    )
    for round in range(config.rounds):
        own = f"{stage}-round{round}"
        attempts: Sequence[Attempt] = first or [] if round == 0 else []
        if not attempts:
            attempts = own_attempts(
                Sampler(policy), setup.train, config.write, run, f"{own}-writes", round=round,
                seed=config.seed, few_shot=False,
            )  # fmt: skip
            found = sort_attempts(attempts, by_id, config.select)
            log_coverage(attempts, setup.train, found, run, own)
        pairs = pairs_of(attempts, by_id, config)
        if not pairs:
            if round:
                break  # the rounds before stand
            raise NoPairs(
                f"{own}: none of {len(attempts)} attempts at {len(by_id)} questions make a pair: "
                "no question has a right and a wrong one. Write more per question "
                "(`write.sampling.n`), or take harder or easier questions"
            )
        if run.done(own) is None:
            learn_pairs(
                policy, pairs, config.fit, beta=config.beta, nll_weight=config.nll_weight,
                epochs=config.epochs, run=run, stage=own, seed=[config.seed, round],
            )  # fmt: skip
            policy.save(run.folder("policies", own))
            run.finish(own, pairs=len(pairs))
            forget_checkpoint(run, own)
        else:
            policy.load_weights(run.folder("policies", own))
        scores[own] = evaluate_on_dev(
            run, stage, Sampler(policy), setup.suite, setup.dev, config, round=round + 1,
            step=round + 1,
        )  # fmt: skip
    best = max(scores, key=scores.__getitem__)  # of equals the first
    policy.load_weights(run.folder("policies", best))
    policy.save(run.folder("policies", stage))
    run.finish(stage, kept=best, scores=scores)


def pairs_of(
    attempts: Sequence[Attempt], questions: Mapping[str, Question], config: IterativeDpoConfig
) -> list[PairTexts]:
    """Right over wrong, by the rank that a reward model learns; nothing wrong is ever chosen."""
    rank = RewardModelConfig(
        pairs=config.pairs, levels=config.levels, select=config.select, seed=config.seed
    )
    pairs = []
    for one in rank_attempts(attempts, questions, rank, best_only=True):
        for better, worse in one.pairs:
            chosen, rejected = one.attempts[better], one.attempts[worse]
            prompt, text = learned_text(chosen, one.question)
            if rejected.parsed:  # both in the same words around the answer
                pairs.append(PairTexts(prompt, text, learned_text(rejected, one.question)[1]))
            else:
                ends = rejected.finish == "stop"
                pairs.append(PairTexts(prompt, text, rejected.completion, rejected_ends=ends))
    return pairs
