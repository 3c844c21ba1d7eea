"""The one experiment driver: baselines and rows, times seeds, to a table and a page.

A row is a method with its configuration, and the row that it starts from. Every stage is stored in
the run when it ends; a second start goes on where the first was stopped. The three demos
(`presets.py`) and the larger experiments are rows with other sizes and seeds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rationalize.errors import UsageError
from rationalize.evaluation.baselines import BASE, FEW_SHOT, MAJORITY
from rationalize.evaluation.compare import Methods
from rationalize.methods import method_named, outcome
from rationalize.methods.base import (
    Asked,
    Experiment,
    Learned,
    NothingToLearn,
    final_part,
    final_stage,
)
from rationalize.methods.launch import learn
from rationalize.methods.outcome import base_row, majority_row, trained_rows
from rationalize.methods.sft import DIRECTLY, SftConfig, StartConfig, learn_directly
from rationalize.progress import say
from rationalize.questions.demonstrations import Demonstrations, training_demonstrations
from rationalize.records import Question
from rationalize.teacher import solved

DIRECT, SFT = "direct fine-tune", "SFT"
"""Rows of every table, beside the baselines."""


@dataclass(frozen=True)
class Row:
    """A row of a table: a method with its configuration, and what it starts from."""

    label: str
    method: str
    """Its name in the table of methods, or `module:function`."""
    config: Any
    stage: str
    """Its name in the run; `{seed}` stands for the seed."""
    start: str = ""
    """Label of the row whose policy it starts from; empty: the base model."""
    shown: bool = True
    """Whether it is evaluated and stands in the table."""


@dataclass
class Table:
    """What the rows of an experiment came to."""

    methods: Methods = field(default_factory=dict)
    """Label -> split -> seed -> scored attempts."""
    learned: dict[tuple[str, int], Learned] = field(default_factory=dict)
    """What each row left behind, by label and seed, without its policy."""

    def add(self, label: str, split: str, seed: int, attempts: Any) -> None:
        self.methods.setdefault(label, {}).setdefault(split, {})[seed] = attempts

    def selected(self, exp: Experiment, label: str, seed: int) -> float:
        """The development score of a row's weights."""
        facts = exp.run.done(self.learned[label, seed].weights.name) or {}
        return max(facts["scores"].values())

    def trained(self) -> list[dict[str, Any]]:
        """Rows of the section `trained`: which rewards each row learned from, by stage."""
        by_label: dict[str, dict[str, Sequence[str]]] = {}
        for (label, _), learned in self.learned.items():
            if label in self.methods:
                by_label.setdefault(label, {}).update(learned.trained or {})
        return [row for label, stages in by_label.items() for row in trained_rows(label, stages)]


After = Callable[[Experiment, Row, Learned], None]


def run_rows(
    exp: Experiment, rows: Sequence[Row], seeds: Sequence[int], table: Table,
    after: After | None = None,
) -> None:  # fmt: skip
    """Learn and evaluate every row with every seed; `after` is called when a row is done.

    A row that finds nothing to learn from says so and is left out, with those that start from it.
    """
    for seed in seeds:
        seeded = exp.with_seed(seed)
        for row in rows:
            start = table.learned.get((row.start, seed))
            if row.start and start is None:
                continue
            policy = seeded.load_policy(start.weights if start else None)
            stage, method = exp.stage(row.stage.format(seed=seed)), method_named(row.method)
            try:
                learned = learn(replace(seeded, start=start), policy, row.config, stage, method)
            except NothingToLearn as error:
                say(f"{row.label} is left out: {error}")
                continue
            if row.shown:
                for label, policy in outcome.policies_of(row.label, learned):
                    for split in exp.final_splits:
                        scored = seeded.evaluate(policy, label, split, asked=learned.asked)
                        table.add(label, split, seed, scored)
            if after:
                after(seeded, row, learned)
            table.learned[row.label, seed] = replace(learned, policy=None)
            del policy, learned  # not in memory when the next one is loaded
    complete_last(exp, rows, table)


def best_left(exp: Experiment, table: Table, rows: Sequence[str], seed: int) -> outcome.Best | None:
    """The policy of the last of these rows that has learned with a seed, read from its stage."""
    for row in reversed(rows):
        if learned := table.learned.get((row, seed)):
            policy = exp.with_seed(seed).load_policy(learned.weights)
            return outcome.Best(row, seed, policy, learned.asked, learned.weights)
    return None


def complete_last(exp: Experiment, rows: Sequence[Row], table: Table) -> None:
    """Give the rows of last policies the seeds that kept their last policy: its attempts count for
    both rows.
    """
    for label in (row.label for row in rows):
        name = outcome.last_label(label)
        for split, seeds in table.methods.get(name, {}).items():
            for seed, kept in table.methods[label][split].items():
                if seed not in seeds:
                    as_last = [
                        replace(a, id=f"{name}/{seed}/{a.question_id}", writer=name) for a in kept
                    ]
                    stage = final_stage(exp.run, name)
                    seeds[seed] = stage.attempts(final_part(split, seed), partial(list, as_last))


def baselines(exp: Experiment, config: StartConfig, shots: int) -> Table:
    """Majority answer, the untouched base model, and the direct fine-tune as `config` says."""
    table = Table({MAJORITY: majority_row(exp), BASE: base_row(exp), FEW_SHOT: {}, DIRECT: {}})
    demos = Asked(told=not exp.base.knows_form, demos=solved_examples(exp.train, shots))
    own = SftConfig(epochs=config.epochs, evaluations=1, fit=config.fit)
    stage = exp.stage("direct")

    def learn_and_answer() -> Mapping[str, Any]:
        policy = exp.load_policy()
        facts = learn_directly(exp, policy, own, stage)
        for split in exp.final_splits:
            exp.evaluate(policy, DIRECT, split, asked=DIRECTLY)
        return facts

    stage.once(learn_and_answer)  # its weights are of no use once it has answered
    for split in exp.final_splits:
        table.add(FEW_SHOT, split, 0, exp.evaluate(exp.base, FEW_SHOT, split, asked=demos, seed=0))
        table.add(DIRECT, split, exp.seed, exp.evaluated(DIRECT, split))
    return table


def solved_examples(train: Sequence[Question], shots: int) -> Demonstrations:
    """The solved questions, one of each kind in turn as far as there are kinds; the built-in
    demonstrations for forms of answer of which none is solved.
    """
    by_kind: dict[str | None, list[Question]] = {}
    for q in filter(solved, train):
        by_kind.setdefault(q.kind, []).append(q)
    longest = max(map(len, by_kind.values()), default=0)
    turns = [asked[i] for i in range(longest) for asked in by_kind.values() if i < len(asked)]
    return training_demonstrations(turns, shots)


def tokens_written(exp: Experiment) -> Mapping[str, int]:
    """Tokens written on training questions, by who wrote them."""
    tokens: Counter[str] = Counter()
    for attempt in exp.run.attempts(split="train"):
        tokens[attempt.writer.replace("-hinted", "")] += attempt.n_tokens
    return dict(tokens)


def refuse_unknown_methods(methods: Sequence[str], known: Sequence[str]) -> None:
    """Raise `UsageError` for a method that an experiment does not have."""
    unknown = sorted(set(methods) - set(known))
    if unknown:
        raise UsageError(
            f"unknown methods: {', '.join(unknown)}; expected some of {', '.join(known)}"
        )
