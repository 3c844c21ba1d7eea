"""SFT on the teacher's rationales: `question -> rationale So the answer is (X).` (mario.md 5.1)

Also the direct fine-tune of the floor: `question -> (X)`, no rationale. Loss: NLL of the response
tokens, averaged over the batch's tokens. Deviations from the released script: development accuracy
selects the checkpoint (the script states no rule).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rationalize.errors import UserError
from rationalize.evaluation.metrics import ACCURACY, PARSE_RATE
from rationalize.methods.common import (
    MethodConfig,
    finish_stage,
    log_round,
    restore_or,
    rollouts,
    share,
)
from rationalize.methods.setup import Setup, open_method
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.records import Attempt, Question
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import teacher_attempts, write_attempts
from rationalize.signals.draws import shuffled_passes
from rationalize.templates import prompt_text, target_text
from rationalize.training.batches import RowMaker
from rationalize.training.loop import FitConfig, fit
from rationalize.training.objectives import nll
from rationalize.training.selection import BestCheckpoint


@dataclass(frozen=True)
class SftConfig(MethodConfig):
    """SFT on teacher rationales, or the direct fine-tune."""

    epochs: float = 2.0
    """Passes over the rows."""
    evaluations: int = 2
    """How often development accuracy is measured, evenly over the steps; the best step is kept."""
    fit: FitConfig = FitConfig(learning_rate=1e-4, batch_size=8)
    """How the policy learns."""


def train_sft(config: SftConfig, out: Path) -> None:
    """SFT alone; the policy lands in `out/model`."""
    with open_method(config, "sft", out) as setup:
        policy = setup.load_policy()
        restore_or(
            setup.run, "sft", policy,
            lambda: sft(policy, setup.train, setup.dev, config, setup.run, "sft"),
        )  # fmt: skip
        setup.conclude(policy, "SFT")


def train_direct(config: SftConfig, out: Path) -> None:
    """The direct fine-tune (question -> answer); the policy lands in `out/model`."""
    with open_method(config, "direct", out) as setup:
        policy = setup.load_policy()
        restore_or(
            setup.run, "direct", policy,
            lambda: sft(policy, setup.train, setup.dev, config, setup.run, "direct", mode="answer"),
        )  # fmt: skip
        setup.conclude(policy, "direct fine-tune", mode="answer")


def start_policy(setup: Setup, stage: str = "sft") -> Policy:
    """Where a method starts: after SFT on the teacher's rationales, or from the model itself."""
    policy, own = setup.load_policy(), setup.config
    if own.init == "sft":
        config = share(SftConfig(epochs=own.sft_epochs, fit=own.sft_fit), own)
        restore_or(
            setup.run,
            stage,
            policy,
            lambda: sft(policy, setup.train, setup.dev, config, setup.run, stage),
        )
    return policy


def sft(
    policy: Policy,
    train: Sequence[Question],
    dev: Sequence[Question],
    config: SftConfig,
    run: Run,
    stage: str,
    mode: Literal["rationale_answer", "answer"] = "rationale_answer",
) -> None:
    """Imitate the teacher's rationales, or in mode `answer` the gold answers."""
    if mode == "rationale_answer":
        texts = [(a.prompt, a.completion) for a in teacher_attempts(train, "correct")]
    else:
        texts = [(prompt_text("answer", q), target_text("answer", q)) for q in train]
    if not texts:
        raise UserError(
            "no training question has a teacher rationale that led to its answer; give questions "
            "with `rationales`, or write some with `rationalize sample --keep-correct`"
        )
    steps = max(1, math.ceil(config.epochs * len(texts) / config.fit.batch_size))
    imitate(policy, texts, dev, config, run, stage, steps=steps, mode=mode)


def imitate(
    policy: Policy,
    texts: Sequence[tuple[str, str]],
    dev: Sequence[Question],
    config: SftConfig,
    run: Run,
    stage: str,
    *,
    steps: int,
    mode: Literal["rationale_answer", "answer"] = "rationale_answer",
) -> None:
    """Learn prompts and their responses in place, and leave the weights of the best development
    accuracy in `policy`.
    """
    maker = RowMaker(policy)
    rows = [maker.text(prompt, response) for prompt, response in texts]
    checks = {round(steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    best = BestCheckpoint(run, stage)

    def batch_at(step: int) -> list[Row]:
        picked = shuffled_passes(len(rows), config.fit.batch_size, step, config.seed)
        return [rows[i] for i in picked]

    def after_step(step: int) -> None:
        if step + 1 in checks:
            score = dev_accuracy(
                policy, dev, config, run, stage, step + 1, sorted(checks).index(step + 1) + 1, mode
            )
            best.offer(step + 1, score, policy)

    fit(policy, nll, batch_at, config.fit, run=run, stage=stage, steps=steps, after_step=after_step)
    finish_stage(run, stage, best, policy)


def dev_accuracy(
    policy: Policy,
    dev: Sequence[Question],
    config: MethodConfig,
    run: Run,
    stage: str,
    step: int,
    round: int,
    mode: str,
) -> float:
    """Greedy accuracy on development questions, in [0, 1]."""
    sampling = (
        config.evaluation_sampling
        if mode != "answer"
        else SamplingConfig(temperature=0.0, max_new_tokens=8)
    )

    def write() -> list[Attempt]:
        return write_attempts(
            Sampler(policy), dev, sampling, split="dev", seed=config.seed, writer=stage, mode=mode,
            step=step, label=f"{stage} on dev, step {step}",
        )  # fmt: skip

    by_id = {q.id: q for q in dev}
    attempts = rollouts(run, f"{stage}-dev{step}", write)
    metrics = [ACCURACY, PARSE_RATE]
    return log_round(run, stage, attempts, by_id, metrics, round=round, step=step)["accuracy"]
