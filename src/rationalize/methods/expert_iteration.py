"""Expert iteration: write, keep what is right, learn from it.

FILT-ACC is the filter baseline of MaRio (mario.md 3.4): the pool of MaRio's Quark with the filter
`correctness >= 1` and no tokens, so multi-step SFT on the policy's own correct rationales. The
teacher's correct rationales are part of the pool from the start.

    every `sample_interval` steps:  the policy writes; attempts whose every filtered reward
                                    reaches its threshold join the pool
    every step:                     NLL on rows drawn from the pool

STaR (arXiv 2203.14465) and RFT (arXiv 2308.01825) need no teacher, and restart from the base model:

    every round:  the last round's model writes (the base model few-shot, at first);
                  STaR: one near-greedy attempt, and for failures one with the answer as a hint
                  RFT:  k samples, of which equal ones are kept once
                  the base model, fresh, learns the right ones without demonstrations and hints,
                  for `growth` times as many steps as in the round before

Deviations of FILT-ACC: exact repeats of one completion to one question are kept once; development
questions select the checkpoint; no KL unless `beta` is set (the code's form keeps Quark's KL:
`preset=released`). Of STaR and RFT: development questions select the round and, within it, the
checkpoint; a tuned model writes without demonstrations; the writer may be taught `warm_up` of the
teacher's rationales first, where the base model cannot follow demonstrations (0 is the papers').
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from rationalize.errors import UsageError
from rationalize.evaluation.metrics import metrics_of
from rationalize.methods.common import (
    MethodConfig,
    evaluate_as_written,
    evaluate_on_dev,
    finish_stage,
    log_round,
    questions_for,
    refuse_unused,
    restore_or,
    rollouts,
    share,
)
from rationalize.methods.own_attempts import (
    NothingRight,
    SelectConfig,
    WriteConfig,
    check_writer,
    learned_text,
    log_coverage,
    own_attempts,
    seed_attempts,
    sort_attempts,
)
from rationalize.methods.setup import Setup, open_method
from rationalize.methods.sft import SftConfig, imitate, start_policy
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.questions.demonstrations import form_of
from rationalize.records import Attempt, Question
from rationalize.rewards.suite import RewardSuite
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import Teacher, teacher_attempts, write_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.signals.filters import first_of_each, keep_above
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import quark
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


@dataclass(frozen=True)
class RestartConfig(MethodConfig):
    """Rounds that each restart from the base model."""

    rounds: int = 1
    """How often the model writes and learns."""
    write: WriteConfig = WriteConfig()
    """How attempts are written."""
    select: SelectConfig = SelectConfig()
    """Which of them are learned from."""
    accumulate: bool = False
    """Learn from all rounds' attempts, not from the newest alone."""
    warm_up: int = 0
    """Teacher rationales (one a question) that the writer is taught first; they stay in the
    training rows. 0: the base model writes, few-shot.
    """
    warm_up_epochs: float = 3.0
    """Passes over them."""
    first_steps: int = 0
    """Optimiser steps of the first round; 0: as many as `epochs` takes."""
    epochs: float = 3.0
    """Passes over the kept attempts in the first round."""
    growth: float = 1.0
    """Each round learns so many times as long as the one before."""
    evaluations: int = 2
    """How often development accuracy is measured in a round; the best step is kept."""
    fit: FitConfig = FitConfig(learning_rate=1e-4, batch_size=8)
    """How the policy learns."""
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=256)
    """How development and test rationales are written; by default as long as `write`'s."""

    def __post_init__(self) -> None:
        refuse_unused(self, "init", "sft_epochs", "sft_fit")
        evaluate_as_written(self, self.write.sampling)
        if self.rounds < 1:
            raise UsageError(f"rounds is {self.rounds}; expected at least 1")


@dataclass(frozen=True)
class StarConfig(RestartConfig):
    """STaR."""

    rounds: int = 4
    """How often the model writes and learns."""
    write: WriteConfig = WriteConfig(
        hints="failed", sampling=SamplingConfig(temperature=0.0, max_new_tokens=96)
    )
    """How attempts are written: one greedy attempt, and a hinted one for failures."""
    select: SelectConfig = SelectConfig(dedupe="none", positives=0)
    """Which of them are learned from."""
    first_steps: int = 40
    """Optimiser steps of the first round; 0: as many as `epochs` takes."""
    growth: float = 1.2
    """Each round learns so many times as long as the one before."""
    evaluations: int = 1
    """How often development accuracy is measured in a round; the best step is kept."""
    evaluation_sampling: SamplingConfig = SamplingConfig(temperature=0.0, max_new_tokens=96)
    """How development and test rationales are written; by default as long as `write`'s."""


@dataclass(frozen=True)
class RftConfig(RestartConfig):
    """RFT: rejection-sampling fine-tuning."""

    write: WriteConfig = WriteConfig(
        sampling=SamplingConfig(temperature=0.7, max_new_tokens=256, n=16)
    )
    """How attempts are written."""
    select: SelectConfig = SelectConfig(true_equations=True, positives=0)
    """Which of them are learned from."""


def train_star(config: StarConfig, out: Path) -> None:
    """STaR; the policy lands in `out/model`."""
    _train_restarting(config, out, "star", "STaR")


def train_rft(config: RftConfig, out: Path) -> None:
    """RFT; the policy lands in `out/model`."""
    _train_restarting(config, out, "rft", "RFT")


def _train_restarting(config: RestartConfig, out: Path, stage: str, name: str) -> None:
    with open_method(config, stage, out) as setup:
        policy = restarting(setup, config, stage).policy
        setup.conclude(policy, name, trained={stage: ("correctness",)})


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
        setup.conclude(policy, "FILT-ACC", trained={"filt-acc": tuple(own.filters)})


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
        if step == 0:  # what the rounds are measured against
            evaluate_on_dev(run, stage, Sampler(policy), suite, dev, config, round=0, step=0)
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


class Imitated(NamedTuple):
    """What rounds of expert iteration leave behind."""

    policy: Policy
    """The model of the best round."""
    folder: Path
    """Its weights."""
    attempts: list[Attempt]
    """All that were written."""


def restarting(
    setup: Setup, config: RestartConfig, stage: str, writer: Policy | None = None
) -> Imitated:
    """STaR or RFT, as configured.

    `writer` writes in the first round, without demonstrations; by default the base model does, with
    them, or the warm-up's.
    """
    run, by_id = setup.run, {q.id: q for q in setup.train}
    few_shot = writer is None and not config.warm_up
    writer = writer or warmed_up(setup, config)
    greedy = replace(config.write, hints="off", sampling=config.evaluation_sampling)
    forms = {form_of(q) for q in setup.train}  # demonstrations are asked for these alone
    asked = [q for q in setup.dev if form_of(q) in forms]
    before = own_attempts(
        Sampler(writer), asked, greedy, run, f"{stage}-writer-dev", round=0, seed=config.seed,
        few_shot=few_shot, train=setup.train, split="dev",
    )  # fmt: skip
    _log_dev(setup, before, stage, 0)
    check_writer(before, asked, stage, config.write.hints)
    store: list[Attempt] = []
    scores: dict[str, float] = {}
    for round in range(config.rounds):
        own = f"{stage}-round{round}"
        attempts = own_attempts(
            Sampler(writer), setup.train, config.write, run, f"{own}-writes", round=round,
            seed=config.seed, few_shot=few_shot and not round, train=setup.train,
        )  # fmt: skip
        store += attempts
        kept = sort_attempts(store if config.accumulate else attempts, by_id, config.select)
        figures = log_coverage(attempts, setup.train, kept, run, own)
        if not kept.positives and not kept.hinted:
            if not scores:
                raise NothingRight(figures)
            break  # the rounds before stand
        texts = [learned_text(a, by_id[a.question_id]) for a in (*kept.positives, *kept.hinted)]
        texts += [(a.prompt, a.completion) for a in seed_attempts(setup.train, config.warm_up)]
        steps = steps_in(round, len(texts), config)
        writer = setup.load_policy()
        sft_config = share(SftConfig(evaluations=config.evaluations, fit=config.fit), config)
        restore_or(
            run, own, writer,
            partial(imitate, writer, texts, setup.dev, sft_config, run, own, steps=steps),
        )  # fmt: skip
        done = run.done(own) or {}
        scores[own] = max(done["scores"].values())
        _log_dev(setup, run.read_shard(f"{own}-dev{done['step']}"), stage, round + 1)
    best = max(reversed(list(scores)), key=scores.__getitem__)
    run.write_json(f"{stage}-rounds.json", {"dev_accuracy": scores, "kept": best})
    folder = run.folder("policies", best)
    if best != list(scores)[-1]:
        writer.load_weights(folder)
    return Imitated(writer, folder, store)


def _log_dev(setup: Setup, attempts: Sequence[Attempt], stage: str, round: int) -> None:
    """Every metric of a round's development attempts, beside those of who wrote first."""
    suite, by_id = setup.suite, {q.id: q for q in setup.dev}
    metrics = metrics_of(suite.trainable, suite.diagnostics)
    scored = suite.score(attempts, by_id)
    log_round(setup.run, stage, scored, by_id, metrics, round=round, step=round)


def steps_in(round: int, rows: int, config: RestartConfig) -> int:
    """Optimiser steps of a round: `first_steps * growth^round`, or `epochs * growth^round`.

    >>> [steps_in(r, 999, StarConfig()) for r in range(8)]  # STaR's schedule
    [40, 48, 57, 69, 82, 99, 119, 143]
    """
    if config.first_steps:
        return int(config.first_steps * config.growth**round)
    return max(1, math.ceil(config.epochs * config.growth**round * rows / config.fit.batch_size))


def warmed_up(setup: Setup, config: RestartConfig) -> Policy:
    """Who writes first: the base model, or after SFT on `warm_up` of the teacher's rationales."""
    policy, seeds = setup.load_policy(), seed_attempts(setup.train, config.warm_up)
    if not seeds:
        return policy
    own = share(SftConfig(evaluations=1, fit=config.fit), config)
    steps = max(1, math.ceil(config.warm_up_epochs * len(seeds) / config.fit.batch_size))
    texts = [(a.prompt, a.completion) for a in seeds]
    told = zlib.crc32(repr((len(seeds), config.warm_up_epochs, config.fit, config.seed)).encode())
    stage = f"warm-up-{told:08x}"

    def learn() -> None:
        imitate(policy, texts, setup.dev, own, setup.run, stage, steps=steps)

    restore_or(setup.run, stage, policy, learn)
    return policy


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
