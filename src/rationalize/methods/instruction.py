"""Multi-mode instruction tuning (coalition.md 1): one model learns to write a rationale, to refine
one, and to answer with or without one.

    L = - sum_t log p(y_t | prompt of the mode, y_<t)      target tokens only, EOS counted

    warm-up:    rationale, answer_from_rationale, answer
    then:       the warm model writes imperfect rationales R' of the same questions
    rest:       these three and  refine: question, R' -> rationale

Deviations:

1. Prompts are the modes of `templates.py`, through the chat template where there is one (the
   release: one plain-text skeleton with a role line).
2. R' is sampled from the warm-up checkpoint; the release decodes it with the base model, three
   beams. An empty R' is dropped and counted; the release trained on nothing else by accident.
3. Every batch holds the modes in fixed shares; the release shuffles its 430,000 rows.
4. Without any teacher rationale the base model's own few-shot attempts that reach the gold answer
   take their place, and a message says so.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rationalize.answers import is_correct
from rationalize.config import nearest
from rationalize.errors import UsageError, UserError
from rationalize.methods.common import MethodConfig, restore_or, rollouts
from rationalize.models.answer_texts import Texts, answer_prompt, gold_text
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.progress import say
from rationalize.questions import builtin_questions, load_sample, without_repeats
from rationalize.records import Attempt, Question
from rationalize.runs import Run
from rationalize.sampling.local import Sampler, SamplingConfig
from rationalize.sampling.writing import question_seed, teacher_attempts, write_attempts
from rationalize.signals.draws import apportion
from rationalize.templates import prompt_text
from rationalize.training.batches import RowMaker, mixed_batch
from rationalize.training.loop import FitConfig, fit, forget_checkpoint
from rationalize.training.objectives import nll

SHARES = {"rationale": 0.35, "refine": 0.35, "answer_from_rationale": 0.2, "answer": 0.1}


@dataclass(frozen=True)
class InstructionConfig(MethodConfig):
    """Multi-mode instruction tuning."""

    source: str = ""
    """Questions with rationales to tune on in the place of the train questions: a file, a folder, a
    set's name (`cot-collection`), a hub id.
    """
    source_columns: dict[str, str] = field(default_factory=dict)
    """Column names of the source, as `columns`."""
    source_sample: int = 0
    """How many of the source's questions, at random; 0: all."""
    epochs: float = 2.0
    """Passes over the rationales, warm-up included."""
    warm_up: float = 0.4
    """Share of the steps before the imperfect rationales are written."""
    shares: dict[str, float] = field(default_factory=lambda: dict(SHARES))
    """Share of each mode (rationale, refine, answer_from_rationale, answer) in a batch, of their
    sum; a mode at 0 is not learned.
    """
    texts: Texts = "choices"
    """How answers are written: in the words of the choice, or as its letter (`modes`)."""
    imperfect: SamplingConfig = SamplingConfig(temperature=1.0, top_p=0.95, max_new_tokens=48)
    """How the rationales to refine are written."""
    shots: int = 3
    """Built-in demonstrations for the few-shot attempts where no question has a rationale."""
    fit: FitConfig = FitConfig(learning_rate=1e-4, batch_size=16)
    """How the model learns."""

    def __post_init__(self) -> None:
        check_shares(self.shares, self.fit.batch_size, "fit.batch_size")


def check_shares(shares: Mapping[str, float], batch_size: int, name: str) -> None:
    """Raise `UsageError` where the shares name no mode, or cannot fill a batch."""
    for mode, share in shares.items():
        if mode not in SHARES:
            raise UsageError(f"shares: unknown mode {mode!r}{nearest(mode, SHARES)}")
        if not share >= 0:
            raise UsageError(f"shares: {mode} has the share {share}; expected at least 0")
    shared = [mode for mode, share in shares.items() if share]
    if set(shared) <= {"refine"}:
        raise UsageError(
            "shares: no mode but refine has a share; expected one of "
            f"{', '.join(m for m in SHARES if m != 'refine')}, which come before it"
        )
    if batch_size < len(shared):
        raise UsageError(
            f"{name} is {batch_size}; expected at least {len(shared)}, a row for each mode that "
            f"has a share ({', '.join(shared)})"
        )


def instruct(
    policy: Policy, questions: Sequence[Question], config: InstructionConfig, run: Run, stage: str
) -> list[Attempt]:
    """Teach `policy` in place, in the stages `stage-warm` and `stage` of the run.

    Returns the imperfect rationales that the warm model wrote.
    """
    refined = bool(config.shares.get("refine"))
    first = config.epochs * config.warm_up if refined else 0.0

    def warm_up() -> None:
        own = mode_rows(policy, questions, [], config.texts)
        steps = tuning_steps(own, config, first)
        tune(policy, own, config, run, f"{stage}-warm", steps)
        _keep(policy, run, f"{stage}-warm", steps=steps)

    def write() -> list[Attempt]:
        restore_or(run, f"{stage}-warm", policy, warm_up)
        return write_attempts(
            Sampler(policy), questions, config.imperfect, split="train", seed=config.seed,
            writer="warm-up", mode="rationale", label="imperfect rationales",
        )  # fmt: skip

    imperfect = rollouts(run, f"{stage}-imperfect", write) if refined else []

    def learn() -> None:
        if refined:
            policy.load_weights(run.folder("policies", f"{stage}-warm"))
        own = mode_rows(policy, questions, imperfect, config.texts)
        steps = tuning_steps(own, config, config.epochs - first)
        tune(policy, own, config, run, stage, steps)
        empty = sum(not a.rationale for a in imperfect)
        counts = {mode: len(rows) for mode, rows in own.items()}
        _keep(policy, run, stage, steps=steps, rows=counts, empty_imperfect=empty)

    restore_or(run, stage, policy, learn)
    return imperfect


def tune(
    policy: Policy, rows: Mapping[str, Sequence[Row]], config: InstructionConfig, run: Run,
    stage: str, steps: int,
) -> None:  # fmt: skip
    """Learn all modes that have rows, each its share of every batch; nothing is saved."""
    counts = _counts(config, rows)
    seed = question_seed(config.seed, stage)  # no stage repeats another's order
    fit(
        policy, nll, lambda step: mixed_batch(rows, counts, step, seed), config.fit,
        run=run, stage=stage, steps=steps,
    )  # fmt: skip


def tuning_steps(
    rows: Mapping[str, Sequence[Row]], config: InstructionConfig, epochs: float
) -> int:
    """Optimiser steps for so many passes over the rationales, or over the longest mode without."""
    counts = _counts(config, rows)
    mode = "rationale" if "rationale" in counts else max(counts, key=lambda m: len(rows[m]))
    return max(1, math.ceil(epochs * len(rows[mode]) / counts[mode]))


def questions_to_tune_on(
    train: Sequence[Question], held_out: Sequence[Question], config: InstructionConfig
) -> Sequence[Question]:
    """The train questions, or the source's; of these, what repeats a held-out question is left out,
    and counted.
    """
    if not config.source:
        return train
    found = load_sample(
        config.source, config.source_sample, seed=config.seed, columns=config.source_columns,
        skip_bad_rows=config.skip_bad_rows,
    )  # fmt: skip
    kept = without_repeats(found, held_out)
    say(f"{config.source}: {len(found)} questions, {len(found) - len(kept)} left out because they "
        "repeat a held-out one")  # fmt: skip
    if not kept:
        raise UserError(
            f"{config.source}: all of its {len(found)} questions repeat held-out ones; expected "
            "other questions to tune on. Give another source, or none: the train questions'"
        )
    return kept


def with_rationales(
    policy: Policy, questions: Sequence[Question], config: InstructionConfig, run: Run, stage: str
) -> list[Question]:
    """The questions; with rationales of the policy's own where none has one."""
    if teacher_attempts(questions, "correct"):
        return list(questions)

    def write() -> list[Attempt]:
        demos = builtin_questions(train=config.shots, dev=0, test=0, unseen=0, seed=config.seed)
        return write_attempts(
            Sampler(policy), questions, config.imperfect, split="train", seed=config.seed,
            writer="few-shot", demos=demos["train"], label=f"{stage}: few-shot attempts",
        )  # fmt: skip

    attempts = rollouts(run, f"{stage}-bootstrap", write)
    by_id = {q.id: q for q in questions}
    right = [
        a for a in attempts
        if a.rationale and is_correct(a.prediction, a.gold, by_id[a.question_id].choices)
    ]  # fmt: skip
    print(
        f"{stage}: no question has a teacher rationale; {len(right)} of {len(attempts)} few-shot "
        f"attempts of {policy.name} reach the gold answer and take their place",
        file=sys.stderr,
    )
    if not right:
        raise UserError(
            f"no rationale to learn from: none of the {len(questions)} questions has one, and none "
            f"of the {len(attempts)} few-shot attempts is right; give questions with `rationales`"
        )
    own: dict[str, list[str]] = {}
    for a in right:
        own.setdefault(a.question_id, []).append(a.rationale)
    return [
        dataclasses.replace(q, rationales=tuple(own[q.id]), extra={}) if q.id in own else q
        for q in questions
    ]


def mode_rows(
    policy: Policy, questions: Sequence[Question], imperfect: Sequence[Attempt], texts: Texts
) -> dict[str, list[Row]]:
    """Training rows of each mode; the mode is chosen by the prompt alone."""
    maker = RowMaker(policy)
    by_id = {q.id: q for q in questions}
    taught = [a for a in teacher_attempts(questions, "correct") if a.rationale]
    targets: dict[str, list[str]] = {}
    for a in taught:
        targets.setdefault(a.question_id, []).append(a.rationale)
    rows: dict[str, list[Row]] = {
        "rationale": [
            maker.text(prompt_text("rationale", by_id[a.question_id]), a.rationale) for a in taught
        ],
        "refine": [],
        "answer_from_rationale": [
            maker.text(
                answer_prompt(texts, by_id[a.question_id], a.rationale),
                gold_text(texts, by_id[a.question_id]),
            )
            for a in taught
        ],
        "answer": [
            maker.text(answer_prompt(texts, q, None), gold_text(texts, q)) for q in questions
        ],
    }
    for attempt in imperfect:
        if attempt.rationale:
            question = by_id[attempt.question_id]
            prompt = prompt_text("refine", question, attempt.rationale)
            rows["refine"] += [maker.text(prompt, t) for t in targets.get(question.id, ())]
    return rows


def _counts(config: InstructionConfig, rows: Mapping[str, Sequence[Row]]) -> dict[str, int]:
    """Rows of each mode in a batch; modes without rows leave their share to the others."""
    here = {mode: share for mode, share in config.shares.items() if rows.get(mode)}
    return apportion(here, config.fit.batch_size)


def _keep(policy: Policy, run: Run, stage: str, **facts: Any) -> None:
    policy.save(run.folder("policies", stage))
    run.finish(stage, **facts)
    forget_checkpoint(run, stage)
