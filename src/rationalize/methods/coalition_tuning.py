"""COALITION's first step: M_IFT, and the variants that go on from it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rationalize.methods.coalition_config import CoalitionConfig
from rationalize.methods.instruction import (
    InstructionConfig,
    instruct,
    mode_rows,
    questions_to_tune_on,
    tune,
    tuning_steps,
    with_rationales,
)
from rationalize.methods.setup import Setup
from rationalize.models.choices import cast_linears_to_bf16
from rationalize.models.policy import load_policy
from rationalize.models.variants import Variants
from rationalize.questions import alike
from rationalize.records import Attempt, Question
from rationalize.runs import Run
from rationalize.training.loop import forget_checkpoint


def m_ift(
    setup: Setup, questions: Sequence[Question], instruction: InstructionConfig,
    config: CoalitionConfig,
) -> tuple[Variants, list[Question], list[Attempt]]:  # fmt: skip
    """M_IFT as the base of variants that change nothing yet; the questions with the rationales that
    it learned; the imperfect ones that its warm-up wrote.
    """
    run, policy = setup.run, setup.load_policy()
    ids = {q.id for q in questions}
    held_out = [q for own in setup.splits.values() for q in own if q.id not in ids]
    source = questions_to_tune_on(questions, held_out, instruction)
    taught = with_rationales(policy, source, instruction, run, "ift")
    imperfect = instruct(policy, taught, instruction, run, "ift")
    folder = run.folder("policies", "ift")
    base = load_policy(
        folder, style=policy.style, system=policy.system,
        trust_remote_code=config.trust_remote_code,
    )  # fmt: skip
    precisions = {f.precision for f in (config.fit, config.variant_fit, config.controller.fit)}
    if not config.copies and "float32" not in precisions:
        base = cast_linears_to_bf16(base)  # it never learns
    variants = Variants.of(base, folder, config.names, copies=config.copies, seed=config.seed)
    return variants, taught, imperfect


def parts_of(train: Sequence[Question], config: CoalitionConfig) -> list[list[Question]]:
    """What each variant is tuned on: disjoint parts, each kind of question dealt out in turn, and
    what asks the same to one.
    """
    if config.parts == "same":
        return [list(train)] * config.variants
    groups = alike(train)
    order = random.Random(config.seed).sample(groups, len(groups))
    dealt = sorted(order, key=lambda group: train[group[0]].kind or "")
    own = [
        sorted(i for g in dealt[k :: config.variants] for i in g) for k in range(config.variants)
    ]
    return [[train[i] for i in part] for part in own]


def tune_variant(
    variants: Variants, name: str, part: Sequence[Question], imperfect: Sequence[Attempt],
    instruction: InstructionConfig, config: CoalitionConfig, run: Run,
) -> None:  # fmt: skip
    """A variant goes on from M_IFT on its own part, in all four modes."""
    stage = f"{name}-tuned"
    if run.done(stage) is None and config.variant_epochs:
        ids = {q.id for q in part}
        with variants.active(name) as policy:
            rows = mode_rows(
                policy, part, [a for a in imperfect if a.question_id in ids], instruction.texts
            )
            own = replace(instruction, fit=config.variant_fit)
            steps = tuning_steps(rows, own, config.passes)
            tune(policy, rows, own, run, stage, steps)
    keep_variant(variants, name, run, stage, questions=len(part))


def keep_variant(variants: Variants, name: str, run: Run, stage: str, **facts: Any) -> None:
    """Store a variant's weights at the end of a stage, or take them over from there."""
    folder = run.folder("variants", stage)
    if run.done(stage) is not None:
        variants.load(name, folder)
        return
    variants.save(name, folder)
    run.finish(stage, **facts)
    forget_checkpoint(run, stage)
