"""COALITION's step 1: M_IFT learns four modes, and the variants go on from it, or from the base
model (`variants_from`), each on its part.

    L = - sum_t log p(y_t | prompt of the mode, y_<t)      target tokens only, EOS counted

    warm-up      rationale, answer_from_rationale, answer
    imperfect    the warm model writes imperfect rationales R' of the same questions
    tune         the three modes, and  refine: question, R' -> rationale

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

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rationalize.errors import UserError
from rationalize.methods.base import Experiment
from rationalize.methods.coalition.config import (
    FOR_IFT,
    FOR_VARIANTS,
    CoalitionConfig,
    InstructionConfig,
)
from rationalize.methods.own_attempts import RejectConfig, SelectConfig, sort_attempts
from rationalize.models.answer_texts import Texts, answer_prompt, gold_text
from rationalize.models.forward import Row
from rationalize.models.policy import Policy
from rationalize.models.read_only import under_adapters
from rationalize.models.variants import Variants
from rationalize.progress import say
from rationalize.questions import group_duplicates, load_sample, without_repeats
from rationalize.questions.demonstrations import BUILT_IN, Demonstrations
from rationalize.records import Attempt, Question
from rationalize.runs import Stage
from rationalize.sampling.writing import (
    PromptOptions,
    Provenance,
    question_seed,
    teacher_attempts,
    write_attempts,
)
from rationalize.signals.draws import apportion
from rationalize.templates import prompt_text
from rationalize.training.batches import RowMaker, mixed_batch
from rationalize.training.loop import fit
from rationalize.training.objectives import nll

ModeRows = Mapping[str, Sequence[Row]]
"""Training rows of each mode."""


@dataclass(frozen=True)
class VariantWeights:
    """One variant's weights, for a stage to store."""

    variants: Variants
    name: str

    def save(self, folder: Path) -> None:
        self.variants.save(self.name, folder)

    def load_weights(self, folder: Path) -> None:
        self.variants.load(self.name, folder)


def tuned_variants(
    exp: Experiment, policy: Policy, questions: Sequence[Question], config: CoalitionConfig
) -> Variants:
    """M_IFT as the base, and the variants over it or beside it, each tuned on its own part."""
    stage = exp.stage("ift", needs=FOR_IFT)
    learned = {q.id for q in questions}
    held_out = [q for split in exp.splits.values() for q in split if q.id not in learned]
    source = questions_to_tune_on(exp, questions, held_out, config.instruction)
    parts_of(source, config, exp.seed)  # what is wrong with parts or sources is told before M_IFT
    of_their_own = [
        questions_to_tune_on(exp, (), held_out, replace(config.instruction, source=own))
        if own else ()
        for own in config.variant_sources
    ]  # fmt: skip
    reject = config.candidates.reject
    taught = with_rationales(exp, policy, source, config.instruction, stage, reject)
    imperfect = instruct(exp, policy, taught, config.instruction, stage)
    options = {"tuning": "full", "style": policy.style, "system": policy.system}
    base = exp.config.load_policy(stage.folder, **options)
    policy.model, policy.tuning = base.model, base.tuning  # keep one M_IFT in memory
    start = exp.config.load_policy(**options) if config.variants_from == "base" else None
    if not config.copies:  # it never learns
        base = under_adapters(base)
    variants = Variants.of(
        base, stage.folder, config.names, copies=config.copies, start=start, seed=exp.seed
    )
    del start
    parts = parts_of(taught, config, exp.seed)
    drafts = [imperfect] * len(parts)
    for i, own in enumerate(of_their_own):
        if own:
            parts[i] = list(own)
            drafts[i] = []  # nobody has written to these, whatever their ids
    for name, part, written in zip(config.names, parts, drafts, strict=True):
        tune_variant(exp, variants, name, part, written, config)
    return variants


def parts_of(train: Sequence[Question], config: CoalitionConfig, seed: int) -> list[list[Question]]:
    """What each variant is tuned on: disjoint parts that hold equally many questions of each kind,
    or with `parts: kinds` different kinds (the largest first, to the variant with the fewest
    questions). Questions that ask the same are in one part. Raises `UserError` where there are
    fewer kinds, or questions, than variants.
    """
    if config.parts == "same":
        return [list(train)] * config.variants
    groups = group_duplicates(train)
    if len(groups) < config.variants:
        raise UserError(
            f"{len(groups)} different questions are left to tune {config.variants} variants on; "
            "expected one each at least. Give more questions, or take fewer variants"
        )
    order = random.Random(seed).sample(groups, len(groups))
    # stable: shuffled within a kind, then dealt out in turn
    by_kind = sorted(order, key=lambda group: train[group[0]].kind or "")
    dealt = [by_kind[k :: config.variants] for k in range(config.variants)]
    if config.parts == "kinds":
        kinds = {k: list(g) for k, g in groupby(by_kind, lambda group: train[group[0]].kind or "")}
        if len(kinds) < config.variants:
            raise UserError(
                f"parts=kinds: the questions are of {len(kinds)} kinds ({', '.join(kinds)}); "
                f"expected at least {config.variants}, one a variant. Give questions with a `kind` "
                "(columns kind=FIELD), or take parts=stratified"
            )
        dealt = [[] for _ in range(config.variants)]
        for kind in sorted(kinds, key=lambda k: -len(kinds[k])):
            min(dealt, key=len).extend(kinds[kind])
    return [[train[i] for i in sorted(i for group in part for i in group)] for part in dealt]


def tune_variant(
    exp: Experiment, variants: Variants, name: str, part: Sequence[Question],
    imperfect: Sequence[Attempt], config: CoalitionConfig,
) -> None:  # fmt: skip
    """A variant learns its own part, in all four modes."""
    stage = exp.stage(f"{name}-tuned", kind="variants", needs=FOR_VARIANTS)

    def learn() -> Mapping[str, Any]:
        if config.variant_epochs:
            ids = {q.id for q in part}
            drafts = [a for a in imperfect if a.question_id in ids]
            instruction = replace(config.instruction, fit=config.variant_fit)
            with variants.active(name) as policy:
                rows = mode_rows(policy, part, drafts, instruction.texts)
                steps = tuning_steps(rows, instruction, config.passes)
                tune(policy, rows, instruction, stage, steps, exp.seed)
        return {"questions": len(part)}

    stage.policy(VariantWeights(variants, name), learn)


def instruct(
    exp: Experiment, policy: Policy, questions: Sequence[Question], config: InstructionConfig,
    stage: Stage,
) -> list[Attempt]:  # fmt: skip
    """Teach `policy` in place, in the stages `ift-warm` and `ift`.

    Returns the imperfect rationales that the warm model wrote.
    """
    refined = bool(config.shares.get("refine"))
    warm_epochs = config.epochs * config.warm_up if refined else 0.0
    imperfect: list[Attempt] = []

    # warm-up: every mode but refine
    def warm_up() -> Mapping[str, Any]:
        rows = mode_rows(policy, questions, [], config.texts)
        steps = tuning_steps(rows, config, warm_epochs)
        tune(policy, rows, config, warm, steps, exp.seed)
        return {"steps": steps}

    # imperfect rationales, to be refined
    def write() -> list[Attempt]:
        return write_attempts(
            exp.sampler(policy), questions, config.imperfect,
            Provenance("train", exp.seed, writer="warm-up"), PromptOptions(mode="rationale"),
            label="imperfect rationales",
        )  # fmt: skip

    if refined:
        warm = stage.sub("warm")
        if stage.done is None:
            warm.policy(policy, warm_up)
        imperfect = stage.attempts("imperfect", write)

    # the rest: all modes
    def learn() -> Mapping[str, Any]:
        rows = mode_rows(policy, questions, imperfect, config.texts)
        steps = tuning_steps(rows, config, config.epochs - warm_epochs)
        tune(policy, rows, config, stage, steps, exp.seed)
        counts = {mode: len(of_mode) for mode, of_mode in rows.items()}
        empty = sum(not a.rationale for a in imperfect)
        return {"steps": steps, "rows": counts, "empty_imperfect": empty}

    stage.policy(policy, learn)
    return imperfect


def tune(
    policy: Policy, rows: ModeRows, config: InstructionConfig, stage: Stage, steps: int, seed: int
) -> None:
    """Learn all modes that have rows, each its share of every batch."""
    counts = counts_of(config, rows)
    order = question_seed(seed, stage.name)  # no stage repeats another's order
    fit(
        policy, nll, lambda step: mixed_batch(rows, counts, step, order), config.fit, stage,
        steps=steps,
    )  # fmt: skip


def tuning_steps(
    rows: Mapping[str, Sequence[Any]], config: InstructionConfig, epochs: float
) -> int:
    """Optimiser steps for so many passes over the rationales, or over the longest mode without."""
    counts = counts_of(config, rows)
    mode = "rationale" if "rationale" in counts else max(counts, key=lambda m: len(rows[m]))
    return max(1, math.ceil(epochs * len(rows[mode]) / counts[mode]))


def questions_to_tune_on(
    exp: Experiment, train: Sequence[Question], held_out: Sequence[Question],
    config: InstructionConfig,
) -> Sequence[Question]:  # fmt: skip
    """The train questions, or those of the source that repeat no held-out question."""
    if not config.source:
        return train
    sample = load_sample(
        config.source, config.source_sample, seed=exp.seed, columns=config.source_columns,
        skip_bad_rows=exp.config.skip_bad_rows,
    )  # fmt: skip
    kept = without_repeats(sample, held_out)
    say(f"{config.source}: {len(sample)} questions, {len(sample) - len(kept)} left out because "
        "they repeat a held-out one")  # fmt: skip
    if not kept:
        raise UserError(
            f"{config.source}: all of its {len(sample)} questions repeat held-out ones; expected "
            "other questions to tune on. Give another source, or none: the train questions'"
        )
    return kept


def with_rationales(
    exp: Experiment, policy: Policy, questions: Sequence[Question], config: InstructionConfig,
    stage: Stage, reject: RejectConfig,
) -> list[Question]:  # fmt: skip
    """The questions; where none has a rationale, with the policy's own that led to the gold answer,
    are distinct, and have none of the faults of `reject`.
    """
    if teacher_attempts(questions, "correct"):
        return list(questions)

    def write() -> list[Attempt]:
        return write_attempts(
            exp.sampler(policy), questions, config.imperfect,
            Provenance("train", exp.seed, writer="few-shot"),
            PromptOptions(
                demos=Demonstrations(BUILT_IN, config.shots), told=not policy.knows_form
            ),
            label=f"{stage.name}: few-shot attempts",
        )  # fmt: skip

    attempts = stage.attempts("bootstrap", write)
    select = SelectConfig(**vars(reject), positives=0)
    chosen = sort_attempts(attempts, {q.id: q for q in questions}, select)
    rationales: dict[str, list[str]] = {}
    for a in chosen.positives:
        rationales.setdefault(a.question_id, []).append(a.rationale)
    others = {"wrong": len(chosen.negatives), "unread": len(chosen.unparsed), **chosen.rejected}
    why = ", ".join(f"{n} {reason}" for reason, n in others.items() if n) or "none"
    say(
        f"{stage.name}: no question has a teacher rationale; {len(chosen.positives)} of "
        f"{len(attempts)} few-shot attempts of {policy.name} reach the gold answer and take their "
        f"place (not taken: {why})"
    )
    if not rationales:
        raise UserError(
            f"no rationale to learn from: none of the {len(questions)} questions has one, and none "
            f"of the {len(attempts)} few-shot attempts can be learned from ({why}); give questions "
            "with `rationales`"
        )
    return [
        replace(q, rationales=tuple(rationales[q.id]), extra={}) if q.id in rationales else q
        for q in questions
    ]


def mode_rows(
    policy: Policy, questions: Sequence[Question], imperfect: Sequence[Attempt], texts: Texts
) -> dict[str, list[Row]]:
    """Training rows of each mode; the mode is chosen by the prompt alone."""
    row, by_id = RowMaker(policy).text, {q.id: q for q in questions}
    attempts = teacher_attempts(questions, "correct")
    taught = [(by_id[a.question_id], a.rationale) for a in attempts if a.rationale]
    drafts = [(by_id[a.question_id], a.rationale) for a in imperfect if a.rationale]
    targets: dict[str, list[str]] = {}
    for q, rationale in taught:
        targets.setdefault(q.id, []).append(rationale)
    return {
        "rationale": [row(prompt_text("rationale", q), rationale) for q, rationale in taught],
        "refine": [
            row(prompt_text("refine", q, draft), target)
            for q, draft in drafts
            for target in targets.get(q.id, ())
        ],
        "answer_from_rationale": [
            row(answer_prompt(texts, q, rationale), gold_text(texts, q)) for q, rationale in taught
        ],
        "answer": [row(answer_prompt(texts, q, None), gold_text(texts, q)) for q in questions],
    }


def counts_of(config: InstructionConfig, rows: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    """Rows of each mode in a batch; modes without rows leave their share to the others."""
    shares = {mode: share for mode, share in config.shares.items() if rows.get(mode)}
    return apportion(shares, config.fit.batch_size)
