"""Self-training: the model writes, and the base model learns what was right. STaR and RFT.

STaR is Zelikman et al. (arXiv 2203.14465, algorithm 1); RFT, rejection-sampling fine-tuning, is
Yuan et al. (arXiv 2308.01825, section 3.3). Neither needs a teacher. Every round:

    1. generate      the last round's model attempts every question (the base model few-shot, at
                     first); STaR: one near-greedy attempt, RFT: k samples
                     (`write.resample`: further ones where all were wrong)
    2. rationalise   STaR: it attempts those it failed again, with the answer as a hint
    3. filter        right attempts are kept; RFT: with true equations, one per list of equations
    4. fine-tune     the *base* model learns them, without demonstrations and hints, for `growth`
                     times as many steps as in the round before

Deviations: development questions select the round and, within it, the checkpoint; a tuned model
writes without demonstrations; the writer may first be taught `seed_rationales` of the teacher's,
where the base model cannot follow demonstrations (0 is the papers').
"""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rationalize.config.checks import above, at_least
from rationalize.methods.base import Experiment, Learned, kept_on_dev, log_kept
from rationalize.methods.own_attempts import (
    SelectConfig,
    WriteConfig,
    check_writer,
    learned_text,
    log_coverage,
    nothing_right,
    own_attempts,
    seed_attempts,
    sort_attempts,
)
from rationalize.methods.settings import RunConfig
from rationalize.methods.sft import LORA_FIT, SftConfig, imitate
from rationalize.models.policy import Policy
from rationalize.records import Attempt
from rationalize.runs import Stage
from rationalize.sampling.local import SamplingConfig
from rationalize.training.loop import FitConfig
from rationalize.training.selection import best_of


@dataclass(frozen=True)
class RestartConfig:
    """Rounds that each restart from the base model."""

    rounds: int = 1
    """How often the model writes and learns."""
    write: WriteConfig = WriteConfig()
    """How attempts are written."""
    select: SelectConfig = SelectConfig()
    """Which of them are learned from."""
    accumulate: bool = False
    """Learn from all rounds' attempts, not from the newest alone."""
    seed_rationales: int = 0
    """Teacher rationales (one a question) that the writer is taught first; they stay in the
    training rows. 0: the base model writes, few-shot.
    """
    seed_epochs: float = 3.0
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

    LORA: ClassVar[dict[str, Any]] = LORA_FIT
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"lora": {"tuning": "lora", **LORA}}

    def __post_init__(self) -> None:
        at_least(self, 1, "rounds", "evaluations")
        at_least(self, 0, "seed_rationales", "first_steps")
        above(self, 0, "seed_epochs", "epochs", "growth")

    @property
    def max_new_tokens(self) -> int:
        """The longest reply that is written."""
        return self.write.sampling.max_new_tokens


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


@dataclass(frozen=True)
class RftConfig(RestartConfig):
    """RFT: rejection-sampling fine-tuning."""

    write: WriteConfig = WriteConfig(
        sampling=SamplingConfig(temperature=0.7, max_new_tokens=256, n=16)
    )
    """How attempts are written."""
    select: SelectConfig = SelectConfig(true_equations=True, positives=0)
    """Which of them are learned from."""


def self_training(exp: Experiment, policy: Policy, config: RestartConfig, stage: Stage) -> Learned:
    """STaR or RFT, as configured; leaves the weights of the best round in `policy`.

    `policy` writes first: the base model, taught the seed rationales and few-shot without any; or
    what `exp.start` left, as it is.
    """
    questions = {q.id: q for q in exp.train}
    few_shot = exp.start is None and not config.seed_rationales
    if exp.start is None and config.seed_rationales:
        seed_sft(exp, policy, config, stage)
    # what later rounds are measured against; a writer that never answers stops the run here
    greedy = replace(config.write, hints="off", resample=0, sampling=exp.evaluation)
    part = "writer-dev"
    attempts = own_attempts(exp, policy, greedy, stage, part, split="dev", few_shot=few_shot)
    log_kept(exp, stage, attempts, 0)
    check_writer(attempts, exp.dev, stage, config.write.hints)
    store: list[Attempt] = []
    scores: dict[str, float] = {}  # stage of a round -> development accuracy
    for round in range(config.rounds):
        this = stage.sub(f"round{round}")
        # 1. generate, and 2. rationalise what failed
        attempts = own_attempts(
            exp, policy, config.write, this, "writes", round=round,
            few_shot=few_shot and round == 0,
        )  # fmt: skip
        store = [*attempts, *store]  # a cap on a question's attempts keeps the newest
        # 3. filter
        kept = sort_attempts(store if config.accumulate else attempts, questions, config.select)
        figures = log_coverage(this, attempts, exp.train, kept)
        if not kept.positives and not kept.hinted:
            if round == 0:
                raise nothing_right(figures)
            break  # the rounds before stand
        texts = [learned_text(a, questions[a.question_id]) for a in kept.positives + kept.hinted]
        seeds = seed_attempts(exp.train, config.seed_rationales)
        texts += [(a.prompt, a.completion) for a in seeds]
        # 4. fine-tune the base model: errors of earlier rounds do not add up
        exp.reset(policy)
        sft_config = SftConfig(evaluations=config.evaluations, fit=config.fit)
        steps = steps_in(round, len(texts), config)
        imitate(exp, policy, texts, sft_config, this, steps=steps)
        scores[this.name] = max((this.done or {})["scores"].values())
        log_kept(exp, stage, kept_on_dev(this), round + 1)
    best = best_of(scores)
    exp.run.write_json(f"{stage.name}-rounds.json", {"dev_accuracy": scores, "kept": best})
    weights = replace(stage, name=best).folder
    if best != list(scores)[-1]:
        policy.load_weights(weights)
    return Learned(policy, weights, trained={stage.name: ("correctness",)}, store=store)


def seed_sft(exp: Experiment, policy: Policy, config: RestartConfig, stage: Stage) -> Learned:
    """Teach `seed_rationales` of the teacher's rationales to who shall write first.

    The stage is named by what it depends on: methods of one run with the same settings share it.
    """
    seeds = seed_attempts(exp.train, config.seed_rationales)
    texts = [(a.prompt, a.completion) for a in seeds]
    steps = max(1, math.ceil(config.seed_epochs * len(seeds) / config.fit.batch_size))
    shared = replace(stage, name=seed_stage_name(exp.config, config), source=None)
    imitate(exp, policy, texts, SftConfig(evaluations=1, fit=config.fit), shared, steps=steps)
    return Learned(policy, shared.folder, trained={})


def seed_stage_name(run_config: RunConfig, config: RestartConfig) -> str:
    """`warm-up-` and a checksum of the settings, as the first version of `FitConfig` spelled them:
    its runs resume.
    """
    fit = config.fit
    spelled = (
        f"FitConfig(learning_rate={fit.learning_rate!r}, control_factor=1.0, head_rate=0.0, "
        f"batch_size={fit.batch_size!r}, schedule={fit.schedule!r}, warmup={fit.warmup!r}, "
        f"max_grad_norm={fit.max_grad_norm!r}, beta1=0.9, beta2=0.99, epsilon=1e-08, "
        f"precision={run_config.precision!r}, micro_tokens={fit.micro_tokens!r}, "
        f"checkpoint_every={run_config.checkpoint_every!r})"
    )
    settings = (
        f"({config.seed_rationales!r}, {config.seed_epochs!r}, {spelled}, {run_config.seed!r})"
    )
    return f"warm-up-{zlib.crc32(settings.encode()):08x}"


def steps_in(round: int, rows: int, config: RestartConfig) -> int:
    """Optimiser steps of a round: `first_steps * growth^round`, or `epochs * growth^round`.

    >>> [steps_in(r, 999, StarConfig()) for r in range(8)]  # STaR's schedule
    [40, 48, 57, 69, 82, 99, 119, 143]
    """
    if config.first_steps:
        return max(1, int(config.first_steps * config.growth**round))
    return max(1, math.ceil(config.epochs * config.growth**round * rows / config.fit.batch_size))
