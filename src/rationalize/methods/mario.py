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
       (Quark, section 2), plus `contrast` times how badly a row tells its tokens from others

Variants: CLASSIC (all tokens from the start), ADDITIVE (one reward more at each of `entries`),
PRODUCT (one token for the product of the rewards), single reward (a list of one). `filters` drops
pool attempts below a threshold, with a token or without.

Deviations from the released code:
 1. Ties stay in one bin; the code splits them by insertion order (`ties: released` restores that).
 2. Control tokens are masked in NLL, KL, entropy and decoding alike, over one vocabulary; the code
    masks the first 32,000 ids in the KL only and may emit control tokens.
 3. The policy starts from the SFT model, as the paper says; the released command starts from the
    raw base model.
 4. The best prefix at evaluation holds every reward's token, correctness included.
 5. Development questions select the checkpoint; test questions are not read during training.
 6. Every exploration covers its questions whole; the code drops the last partial batch.
 7. An attempt cut at the length limit gets no EOS; the code appends one.
 8. A row of each step is drawn by bin, then by attempt, since ties and by-value
    tokens make bins unequal, but no bin more than `over_draw` times its share of the pool; the code
    draws uniformly (`over_draw: 1`).
 9. Wrong teacher samples may enter the pool (`teacher: all`), so that the worst tokens have
    something to mean; where the correctness token is not obeyed, they seem to cost accuracy. The
    default is the code's, correct samples only.
10. PRODUCT multiplies rewards mapped to [0, 1] by their range; the code multiplies raw values, so
    that a negative consistency turns the other rewards round (`variant: product-raw`).
11. ADDITIVE to the left with no active reward uses no token; the code's slice `-0:` uses all.
12. The control tokens' rows may learn faster than the rest (`fit.control_factor`), a row may be
    told from other tokens (`contrast`) and decoding may be guided (`guidance`); 1, 0 and 0 are the
    paper's.
13. The tokens' rows start as the token before them (`control_init: statistics` restores the code's
    mean and deviation, which cost the first word of every response its probability).
14. The start is a candidate for the checkpoint; where no round is above it, it is kept.
The answer-label loss of the code is not kept: it is broken there and 0 in the released command.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from rationalize.evaluation.obedience import obedience, token_metrics
from rationalize.evaluation.token_auc import token_auc
from rationalize.methods.base import (
    Asked,
    Experiment,
    evaluate_on_dev,
    questions_for,
    selected,
)
from rationalize.methods.mario_config import (
    MarioConfig,
    active_when_sampling,
    active_when_training,
    best_prefix,
)
from rationalize.methods.pool import Pool
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.progress import say
from rationalize.records import Attempt
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Stage
from rationalize.sampling.local import Sampler
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    teacher_attempts,
    write_attempts,
)
from rationalize.training.batches import RowMaker
from rationalize.training.loop import fit
from rationalize.training.objectives import quark
from rationalize.training.selection import BestCheckpoint

EVALUATE_EVERY = 1_000
"""Steps after which development questions are asked in a long round too, as the code does."""

ATTEMPTS_EACH = 8
"""The start's attempts at a development question that the tokens must rank."""


def mario(exp: Experiment, policy: Policy, config: MarioConfig, stage: Stage) -> Policy:
    """Quark's algorithm 1 with MaRio's tokens. `policy` gets the control tokens' rows, in place,
    and the selected weights.
    """
    config = named_as_loaded(config, exp.suite)
    stage.policy(policy, lambda: _learn(exp, policy, config, stage))
    return policy


def _learn(exp: Experiment, policy: Policy, config: MarioConfig, stage: Stage) -> Mapping[str, Any]:
    questions = {q.id: q for q in exp.train}
    controls = control_bins(config, exp.suite)
    reference = policy.become_reference()
    copies, init = config.control_copies, config.control_init
    policy.add_controls(controls, copies=copies, init=init, seed=exp.seed)
    pool = Pool(config, exp.suite, controls, exp.seed)
    maker, best = (
        RowMaker(policy),
        BestCheckpoint(stage, last=config.steps, start=exp.start_weights),
    )

    # 1. explore: the policy writes under its best tokens, and the pool grows
    def explore(step: int) -> None:
        if step == 0:  # the start, without tokens: what a round must be above to be kept
            means = evaluate_on_dev(exp, stage, policy, round=0, step=0)
            best.offer(0, selected(means, config.select_by), policy)
            ranked()
        for round in range(pool.rounds, step // config.sample_interval + 1):
            attempts = stage.attempts(f"round{round}", partial(write_round, round))
            # 2. quantise: each reward by itself over the whole pool
            pool.add(attempts, active_when_training(round * config.sample_interval, config))
            if policy.controls:
                policy.controls = replace(policy.controls, lowest=pool.lowest())
            pool.log(stage)
            first, after = (config.sample_interval * (round + i) for i in (0, 1))
            coming = range(first, min(after, config.steps))
            pool.log_drawn(stage, [(s, active_when_training(s, config)) for s in coming])

    def write_round(round: int) -> list[Attempt]:
        step = round * config.sample_interval
        active = active_when_sampling(step, config)
        attempts = write_attempts(
            exp.sampler(policy), questions_for(exp.train, config.prompts, round, exp.seed),
            config.sampling, Provenance("train", exp.seed, round=round, step=step),
            PromptOptions(control=dict.fromkeys(active, 0)),
            label=f"{stage.name} explores, round {round}",
        )  # fmt: skip
        if round == 0:
            attempts = teacher_attempts(exp.train, config.teacher) + attempts
        return exp.suite.score(attempts, questions)

    def ranked() -> list[Attempt]:
        """The start's attempts at development questions, which the tokens must rank."""
        asked = exp.dev[: config.token_questions]

        drawn = replace(
            config.sampling, n=ATTEMPTS_EACH, beams=1,
            temperature=config.sampling.temperature or 1.0,
        )  # fmt: skip

        def write() -> list[Attempt]:
            attempts = write_attempts(
                Sampler(policy), asked, drawn,
                Provenance("dev", exp.seed, writer=f"{stage.name}-ranked"),
                label=f"{stage.name}: attempts to rank",
            )  # fmt: skip
            return exp.suite.score(attempts, {q.id: q for q in exp.dev})

        written = stage.attempts("ranked", write) if asked else []
        return [a for a in written if a.completion.strip()]  # one that was cut may hold nothing

    # 3. learn: each row under the tokens of its bins
    def batch_at(step: int) -> list[Row]:
        active = active_when_training(step, config)
        return [
            maker.attempt(drawn.attempt, drawn.bins, other=drawn.other)
            for drawn in pool.draw(step, active)
        ]

    def after_step(step: int) -> None:
        done = step + 1
        ends = done % config.sample_interval == 0 or done == config.steps  # a round does
        if not ends and done % EVALUATE_EVERY:
            return
        active = dict.fromkeys(active_when_sampling(done, config), 0)
        asked = Asked(control=active, guidance=config.guidance)
        round = -(-done // config.sample_interval)
        means = evaluate_on_dev(exp, stage, policy, round=round, step=done, asked=asked)
        if len(active) == len(controls):  # a policy is only ever used under all its tokens
            best.offer(done, selected(means, config.select_by), policy)
        if active and config.token_questions and ends:
            bins = {name: pool.filled()[name] for name in active}
            _measure_tokens(exp, policy, config, stage, bins, ranked(), done)

    fit(
        policy, quark(
            reference, beta=config.beta, alpha=config.alpha, direction=config.kl,
            contrast=config.contrast,
        ),
        batch_at, config.fit, stage, steps=config.steps, before_step=explore,
        after_step=after_step,
    )  # fmt: skip
    return best.load_into(policy)


def control_bins(config: MarioConfig, suite: RewardSuite) -> dict[str, int]:
    """Control tokens: reward -> number of bins, in prefix order."""
    if config.product:
        return {"product": config.bins}
    levels = {name: suite[name].levels for name in config.rewards}
    return {n: len(v) if v else config.bins for n, v in levels.items()}


def named_as_loaded(config: MarioConfig, suite: RewardSuite) -> MarioConfig:
    """The configuration with rewards under their own names: `my_rewards:brevity` is `brevity`."""
    by_name = {n: suite[n].name for n in (*config.rewards, *config.filters)}
    return replace(
        config, rewards=tuple(by_name[n] for n in config.rewards),
        filters={by_name[n]: t for n, t in config.filters.items()},
        select_by=by_name.get(config.select_by, config.select_by),
    )  # fmt: skip


def under_best_tokens(exp: Experiment, config: MarioConfig, stage: Stage) -> Asked:
    """How a finished policy is asked; without tokens where no round was above the start."""
    if (stage.done or {}).get("step") == 0:
        say(f"{stage.name}: no round was above the start on development questions; it is kept")
        return Asked()
    named = named_as_loaded(config, exp.suite)
    return Asked(control=best_prefix(named), guidance=config.guidance)


def _measure_tokens(
    exp: Experiment, policy: Policy, config: MarioConfig, stage: Stage,
    bins: Mapping[str, Sequence[int]], ranked: Sequence[Attempt], step: int,
) -> None:  # fmt: skip
    """How well the policy's tokens rank the start's attempts, and after the last step what it
    reaches when it is asked for each bin; both on development questions.
    """
    round, raw = -(-step // config.sample_interval), config.variant == "product-raw"
    metrics = token_metrics(exp.suite, bins, config.rewards, raw=raw)
    asked = exp.dev[: config.token_questions]
    questions = {q.id: q for q in asked}
    rows = stage.facts(
        f"token_auc/{stage.name}-{step}",
        lambda: token_auc(
            policy, ranked, questions, bins=bins, metrics=metrics, config=config.fit
        ),
    )  # fmt: skip
    stage.log("token_auc", step, [{"round": round, "split": "dev", **r} for r in rows])
    if step < config.steps:  # the others need passes alone, this writes
        return
    rows = stage.facts(
        f"obedience/{stage.name}-{step}",
        lambda: obedience(
            Sampler(policy, guidance=config.guidance), exp.suite, asked, exp.evaluation,
            Provenance("dev", exp.seed, round=round, step=step), bins=bins, metrics=metrics,
        ),
    )  # fmt: skip
    stage.log("obedience", step, rows)
