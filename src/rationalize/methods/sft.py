"""SFT on the teacher's rationales: `question -> rationale So the answer is (X).`

The start of MaRio (arXiv 2311.02805, section 3), and the direct fine-tune beside it:
`question -> (X)`, no rationale. Loss: NLL of the response tokens, averaged over the batch's tokens.
Deviations from the released script: development accuracy selects the checkpoint (the script states
no rule).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from rationalize.config.checks import above, at_least
from rationalize.errors import UserError
from rationalize.methods.base import Asked, Experiment, Learned, NothingToLearn, evaluate_on_dev
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.records import Attempt, Question
from rationalize.runs import Stage
from rationalize.sampling.writing import teacher_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.templates import prompt_text, target_text
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import nll
from rationalize.training.selection import BestCheckpoint

DIRECTLY = Asked(mode="answer")
"""How the direct fine-tune is asked."""

Texts = Sequence[tuple[str, str]]
"""Prompts and their responses."""


LORA_FIT = {"fit": {"learning_rate": 2e-4}}
"""LoRA's rate where texts are imitated."""


@dataclass(frozen=True)
class SftConfig:
    """SFT on teacher rationales, or the direct fine-tune."""

    epochs: float = 2.0
    """Passes over the rows."""
    evaluations: int = 2
    """How often development accuracy is measured, evenly over the steps; the best step is kept."""
    fit: FitConfig = FitConfig(learning_rate=1e-4, batch_size=8)
    """How the policy learns."""

    LORA: ClassVar[dict[str, Any]] = LORA_FIT
    PRESETS: ClassVar[dict[str, dict[str, Any]]] = {"lora": {"tuning": "lora", **LORA}}

    def __post_init__(self) -> None:
        above(self, 0, "epochs")
        at_least(self, 1, "evaluations")


@dataclass(frozen=True)
class StartConfig:
    """SFT as the start of another method."""

    epochs: float = 2.0
    """Passes over the teacher's rationales; 0: start from the base model."""
    fit: FitConfig = FitConfig(learning_rate=1e-4, batch_size=8)
    """How that SFT learns."""

    def __post_init__(self) -> None:
        at_least(self, 0, "epochs")


@dataclass(frozen=True)
class SftStart:
    """Of methods that start from SFT."""

    sft: StartConfig = StartConfig()
    """SFT on the teacher's rationales, done first, in this run."""

    LORA: ClassVar[dict[str, Any]] = {"sft": LORA_FIT}


def sft(exp: Experiment, policy: Policy, config: SftConfig, stage: Stage) -> Policy:
    """Imitate the teacher's rationales that led to the gold answer."""
    texts = [(a.prompt, a.completion) for a in taught(exp.train)]
    return imitate(exp, policy, texts, config, stage, steps=steps_for(texts, config))


def taught(train: Sequence[Question]) -> list[Attempt]:
    """The teacher's rationales that led to the gold answer. Raises `UserError` without any."""
    attempts = teacher_attempts(train, "correct")
    if not attempts:
        raise UserError(
            "no training question has a teacher rationale that led to its answer; give questions "
            "with `rationales` (or name the column, --columns rationales=COLUMN), or write some "
            "with `rationalize sample --keep-correct`"
        )
    return attempts


def direct(exp: Experiment, policy: Policy, config: SftConfig, stage: Stage) -> Policy:
    """Imitate the gold answers alone."""
    stage.policy(policy, lambda: learn_directly(exp, policy, config, stage))
    return policy


def learn_directly(
    exp: Experiment, policy: Policy, config: SftConfig, stage: Stage
) -> Mapping[str, Any]:
    """As `direct`, but the weights stay in memory alone."""
    texts = [(prompt_text("answer", q), target_text("answer", q)) for q in exp.train]
    steps = steps_for(texts, config)
    return _learn(exp, policy, texts, config, stage, steps=steps, asked=DIRECTLY)


def asked_directly(exp: Experiment, config: SftConfig, stage: Stage) -> Asked:
    """For the answer alone."""
    return DIRECTLY


def steps_for(texts: Texts, config: SftConfig) -> int:
    """Optimiser steps of `epochs` passes over the texts."""
    steps = config.epochs * len(texts) / config.fit.batch_size
    return max(1, math.ceil(round(steps, 6)))  # where epochs are steps over rows: not one more


def imitate(
    exp: Experiment, policy: Policy, texts: Texts, config: SftConfig, stage: Stage, *, steps: int
) -> Policy:
    """Learn responses in place; leaves the weights of the best development accuracy in `policy`.

    Raises `NothingToLearn` where `texts` is empty.
    """
    if not texts:
        raise NothingToLearn(f"{stage.name}: there is no response to learn from")
    stage.policy(policy, lambda: _learn(exp, policy, texts, config, stage, steps=steps))
    return policy


def _learn(
    exp: Experiment, policy: Policy, texts: Texts, config: SftConfig, stage: Stage, *, steps: int,
    asked: Asked | None = None,
) -> Mapping[str, Any]:  # fmt: skip
    maker = RowMaker(policy)
    rows = [maker.text(prompt, response) for prompt, response in texts]
    # steps after which development accuracy is measured, the last one among them
    checks = [round(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)]
    best = BestCheckpoint(stage, last=steps)

    def batch_at(step: int) -> list[Row]:
        picked = shuffled_passes(len(rows), config.fit.batch_size, step, exp.seed)
        return [rows[i] for i in picked]

    def after_step(step: int) -> None:
        done = step + 1
        if done in checks:
            place = sorted(set(checks)).index(done) + 1
            means = evaluate_on_dev(
                exp, stage, policy, round=place, step=done, asked=asked, scored=False
            )
            best.offer(done, means["accuracy"], policy)

    fit(policy, nll, batch_at, config.fit, stage, steps=steps, after_step=after_step)
    return best.load_into(policy)


def start_from_sft(
    exp: Experiment, policy: Policy, config: StartConfig
) -> tuple[Experiment, Policy]:
    """The experiment and the policy after SFT; as they are at 0 epochs."""
    if not config.epochs:
        return exp, policy
    stage = exp.stage("sft", needs=("sft",))
    sft(exp, policy, SftConfig(epochs=config.epochs, fit=config.fit), stage)
    return replace(exp, start=Learned(policy, stage.folder)), policy
