"""The work of methods that learn from their own attempts: STaR, RFT, iterative DPO, PPO, and
Self-motivated Learning of them.

How many attempts are right is not known before the run: the scene's `right` is assumed, for every
question alike, and of pairs what follows from it (`usable_share`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from rationalize.methods.iterative_dpo import IterativeDpoConfig
from rationalize.methods.own_attempts import WriteConfig
from rationalize.methods.ppo import PpoRowConfig, scores_of
from rationalize.methods.relearn import RelearnConfig
from rationalize.methods.self_motivated import RankConfig, SelfMotivatedConfig
from rationalize.methods.self_training import RestartConfig, seed_stage_name, steps_in
from rationalize.methods.sft import SftConfig
from rationalize.methods.train_scorers.choosing import MOST_QUESTIONS
from rationalize.methods.train_scorers.reward_model import (
    MOST_LEARNED,
    MOST_SCALED,
    RewardModelConfig,
)
from rationalize.methods.work.learners import imitation, updates_work
from rationalize.methods.work.parts import Stores, Work
from rationalize.methods.work.scene import Scene
from rationalize.sampling.config import SamplingConfig
from rationalize.signals.ranks import usable_share


def self_training_work(at: Scene, config: RestartConfig, stage: str) -> Iterator[Work]:
    """STaR and RFT."""
    few_shot = not config.seed_rationales
    if config.seed_rationales:
        yield from seed_work(at, config, stage)
    shots = config.write.shots if few_shot else 0
    yield from at.evaluates(f"{stage}-writer-dev", shots=shots, taught=not few_shot)
    for round in range(config.rounds):
        this, untaught = f"{stage}-round{round}", few_shot and round == 0
        yield from attempts_work(at, config.write, f"{this}-writes", few_shot=untaught)
        rows = round_rows(at, config, round)
        sft = SftConfig(evaluations=config.evaluations, fit=config.fit)
        yield from imitation(at, sft, this, steps_in(round, rows, config))
        yield from at.scores(this, at.dev)


def seed_work(at: Scene, config: RestartConfig, stage: str) -> Iterator[Work]:
    """The writer learns the seed rationales first."""
    steps = round_up(config.seed_epochs * config.seed_rationales / config.fit.batch_size)
    sft = SftConfig(evaluations=1, fit=config.fit)
    yield from imitation(at, sft, seed_stage_name(at.config, config), steps)


def attempts_work(
    at: Scene, write: WriteConfig, part: str, *, few_shot: bool = False, for_pairs: bool = False
) -> Iterator[Work]:
    """Attempts at training questions, further ones, and hinted ones at those that none solves."""
    shots, n = write.shots if few_shot else 0, replies(write.sampling)
    yield at.writes(part, at.train, write.sampling, shots=shots, taught=not few_shot)
    wrong = (1 - at.right) ** n
    unsure = round(len(at.train) * (wrong + at.right**n * for_pairs)) if write.resample else 0
    if unsure:
        sampling = replace(write.sampling, n=write.resample)
        yield at.writes(part, at.train[:unsure], sampling, shots=shots, taught=not few_shot)
        wrong *= (1 - at.right) ** write.resample
    unsolved = {"off": 0.0, "failed": wrong, "all": 1.0}
    hinted = round(len(at.train) * unsolved[write.hints])
    if hinted:
        asked = at.train[:hinted]
        yield at.writes(part, asked, write.sampling, shots=shots, taught=not few_shot)


def replies(sampling: SamplingConfig) -> int:
    """Different replies to a question."""
    return 1 if sampling.greedy else sampling.n


def round_rows(at: Scene, config: RestartConfig, round: int) -> int:
    """Rows that a round learns from, if no two right attempts say the same."""
    n = replies(config.write.sampling)
    right = at.right * n
    if config.select.positives:
        right = min(config.select.positives, right)
    if config.write.hints != "off":
        right += (1 - at.right) ** n * at.right
    rounds = round + 1 if config.accumulate else 1
    return round_up(len(at.train) * right * rounds) + config.seed_rationales


def iterative_dpo_work(at: Scene, config: IterativeDpoConfig, stage: str) -> Iterator[Work]:
    yield from at.evaluates(stage, draws=config.dev_draws)
    yield at.stores(f"{stage}-start")
    for round in range(config.rounds):
        this = f"{stage}-round{round}"
        write = WriteConfig(sampling=config.sampling, resample=config.resample)
        if round or not config.attempts:
            yield from attempts_work(at, write, f"{this}-writes", for_pairs=True)
        yield from pairs_work(at, config, this)
    yield at.stores(stage, loads=1)


def pairs_work(at: Scene, config: IterativeDpoConfig, this: str) -> Iterator[Work]:
    """A round's DPO, on the pairs of attempts that are right and wrong."""
    pairs = len(at.train) * pairs_each(at, config.sampling.n, config.pairs)
    aside = config.held_out * pairs  # only ordered, before and after
    size = max(1, config.fit.batch_size // 2)
    n = config.sampling.n
    each = min(n, 2 * config.pairs) if config.pairs else n
    yield at.reads_replies(this, "logprobs", 2 * (pairs + aside), each)
    steps = round_up(config.epochs * (pairs - aside) / size)
    yield at.learns(this, "dpo", steps, config.fit, rows=2 * size, together=2)
    yield from at.evaluates(this, draws=config.dev_draws)
    yield at.stores(this)


def pairs_each(at: Scene, n: int, cap: int) -> float:
    """Pairs of a right and a wrong attempt at a question that has both, times its chance."""
    usable = usable_share(at.right, n)
    all_pairs = n * (n - 1) * at.right * (1 - at.right) / usable if usable else 0.0
    return usable * (min(cap, all_pairs) if cap else all_pairs)


def self_motivated_work(at: Scene, config: SelfMotivatedConfig, stage: str) -> Iterator[Work]:
    for round in range(config.rounds):
        prefix = f"round{round}"
        yield from self_training_work(at, config.rft, f"{prefix}-sft")
        yield from rank_work(at, config.ranking, prefix)
        for mode in config.modes:
            name = f"ppo-{mode.replace('+', '-')}-{prefix}"
            yield from ppo_work(at, config.ppo.in_mode(mode), name)
        yield Stores(stage, loads=1 + len(config.modes))


def rank_work(at: Scene, config: RankConfig, stage: str) -> Iterator[Work]:
    """Stages C' and D; where no mode reads a reward model, the first alone."""
    write = WriteConfig(sampling=config.redraw, resample=config.resample)
    yield from attempts_work(at, write, f"{stage}-redraws", for_pairs=True)
    if set(config.modes) != {"z"}:
        written = 2 * config.redraw.n  # RFT's attempts are ranked too
        yield from rank_steps(at, config.rm, f"{stage}-reward-model", written)


def rank_steps(at: Scene, config: RewardModelConfig, stage: str, attempts: float) -> Iterator[Work]:
    """A reward model from so many attempts a question."""
    questions = len(at.train) * usable_share(at.right, max(1, round(attempts)))
    learned = questions * (1 - config.held_out)
    size = max(1, min(config.fit.batch_size, round(learned)))
    used = min(attempts, 1.5 * config.pairs) if config.pairs else attempts
    if config.score == "auto":
        tried = min(learned, MOST_QUESTIONS) * used
        yield at.reads_replies(stage, "rank", tried, used)
        yield at.reads_replies(stage, "logprobs", tried, used)
    if config.score == "dpo":
        pairs = config.pairs or used
        rows = config.fit.batch_size
        steps = round_up(config.epochs * learned * pairs / max(1, rows // 2))
        yield at.reads_replies(stage, "logprobs", 2 * learned * pairs, used)
        yield at.learns(stage, "dpo", steps, config.fit, rows=rows, together=2)
    elif config.score != "likelihood":
        steps = round_up(config.epochs * learned / size)
        yield at.learns(
            stage, "rank", steps, config.fit, rows=size * used, together=max(1, round(used))
        )
    # the scale, the order after learning, and the gate with and without the answer sentence
    read = min(len(at.train) * attempts / 2, MOST_SCALED)
    read += attempts * (min(learned, MOST_LEARNED) + 2 * (questions - learned))
    yield at.reads_replies(stage, "rank", read, attempts)
    yield at.stores(stage, loads=1)


def relearn_work(at: Scene, config: RelearnConfig, stage: str) -> Iterator[Work]:
    """As many steps as RFT's, on attempts that are there."""
    steps = steps_in(0, round_rows(at, config.rft, 0), config.rft)
    if config.learns == "best":
        written = 2 * replies(config.rft.write.sampling) * at.right
        rows = written * len(at.train)
        yield at.reads_replies(stage, "rank", rows, written)
    sft = SftConfig(evaluations=config.rft.evaluations, fit=config.rft.fit)
    yield from imitation(at, sft, f"{stage}-sft", steps)
    for _ in range(2):
        yield from at.scores(f"{stage}-sft", at.dev)


def ppo_work(at: Scene, config: PpoRowConfig, stage: str) -> Iterator[Work]:
    learning = at.learns(
        stage, "ppo", config.updates * config.steps_per_update, config.fit,
        rows=config.prompts * config.sampling.n / config.minibatches,
    )  # fmt: skip
    yield from updates_work(at, config, learning, passes=2, names=scores_of(config.mode), loads=1)


def round_up(steps: float) -> int:
    return max(1, math.ceil(steps))
