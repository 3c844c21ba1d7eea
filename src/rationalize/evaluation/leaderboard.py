"""Rationales of other models and of our own runs on the same test questions, one split per set.

A set is a folder with a test file and `reference_rationales.jsonl(.gz)`: rows of `{id, model,
rationale, predicted, correct}`. Accuracy is the mean of `correct` as the rows give it. Notes list
the rows whose prediction contradicts `correct`, and everything that is missing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rationalize.answers import read_prediction
from rationalize.errors import UserError
from rationalize.evaluation.baselines import MAJORITY
from rationalize.evaluation.compare import EvaluatedRun, Methods, flat, shown_methods
from rationalize.evaluation.intervals import (
    Interval,
    over_seeds,
    percentiles,
    resampled_means,
    rule_of_three,
)
from rationalize.evaluation.metrics import GIVEN, Metric, applicable, per_question, settle_worst
from rationalize.questions import ReferenceRationale, load_questions, load_reference_rationales
from rationalize.records import Attempt, Question
from rationalize.templates import given_attempt

PATTERN = "reference_rationales*.jsonl*"


@dataclass(frozen=True)
class ReferenceSet:
    """A set's test questions, and the rationales of other models for them."""

    name: str
    questions: Mapping[str, Question]
    attempts: Mapping[str, Sequence[Attempt]]
    """Model -> its attempts, unscored."""
    coverage: Sequence[Mapping[str, Any]]
    """A row per model: questions, rationales, how many are missing, empty, without an answer."""
    notes: Sequence[str]
    """What is missing or contradictory, in sentences."""


def sets_in(folder: Path) -> list[str]:
    """Sorted names of the subfolders that hold reference rationales; a `UserError` without any."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such file or folder; expected a folder with one per set")
    names = sorted({file.parent.name for file in folder.glob(f"*/{PATTERN}")})
    if not names:
        raise UserError(
            f"{folder}: found no {PATTERN} in any folder of it; expected a folder per set with a "
            "test file and the rationales. Name the sets to rank runs alone"
        )
    return names


def read_set(
    folder: Path, models: Sequence[str], *, skip_bad_rows: str | None = None
) -> ReferenceSet:
    """A set's test questions and reference rationales. Models besides `models` are read too; one of
    `models` without rationales gets a note.

    Raises `UserError` where a model has two rationales for a question, or where no rationale
    answers a question of the test file.
    """
    name = folder.name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such file or folder; expected a folder with a test file")
    questions = {q.id: q for q in load_questions(folder, "test", skip_bad_rows=skip_bad_rows)}
    files = sorted(folder.glob(PATTERN))
    if not files:
        note = f"{name}: no {PATTERN} there, so none of its {len(questions)} questions has one."
        return ReferenceSet(name, questions, {}, (), [note])
    rows = [r for f in files for r in load_reference_rationales(f, skip_bad_rows=skip_bad_rows)]
    known = [r for r in rows if r.id in questions]
    if not known:
        raise UserError(
            f"{files[0]}: none of its {len(rows)} rationales answers a question of {name}'s test "
            f"file; expected ids such as {next(iter(questions))!r}"
        )
    # rationales by model and question, each once
    notes = []
    if len(known) < len(rows):
        notes.append(
            f"{name}: {len(rows) - len(known)} of {len(rows)} reference rationales answer "
            "questions that are not in the test file; left out."
        )
    by_model: dict[str, dict[str, ReferenceRationale]] = {m: {} for m in models}
    for row in known:
        by_id = by_model.setdefault(row.model, {})
        if row.id in by_id:
            raise UserError(
                f"{files[0]}: {row.model!r} has two rationales for question {row.id!r}; expected "
                "one per model and question. Leave one out"
            )
        by_id[row.id] = row
    # what is missing, or contradicts the answer key
    coverage = []
    for model, by_id in by_model.items():
        of_model = list(by_id.values())
        coverage.append({
            "set": name, "model": model, "questions": len(questions), "rationales": len(of_model),
            "missing": len(questions) - len(of_model),
            "empty": sum(not r.rationale.strip() for r in of_model),
            "no_answer": sum(r.predicted is None for r in of_model),
        })  # fmt: skip
        asked = [(r, questions[r.id]) for r in of_model]
        contradicting = [r for r, q in asked if q.is_right(r.predicted) != r.correct]
        notes += _notes(coverage[-1], contradicting)
    if incomplete := [r for r in coverage if r["empty"] or r["no_answer"]]:
        each = ", ".join(f"{r['model']} {r['empty']}/{r['no_answer']}" for r in incomplete)
        notes.append(
            f"{name}: empty rationales, and predictions that could not be read (counted as "
            f"`correct` says): {each}."
        )
    attempts = {
        model: [reference_attempt(by_id[q], questions[q], name) for q in questions if q in by_id]
        for model, by_id in by_model.items()
        if by_id
    }
    return ReferenceSet(name, questions, attempts, coverage, notes)


def some_of(one: ReferenceSet, ids: Sequence[str], models: Sequence[str] = ()) -> ReferenceSet:
    """The set with only the questions of these ids, and only these models where any is named."""
    questions = {id: one.questions[id] for id in ids}
    attempts = {
        model: [a for a in everything if a.question_id in questions]
        for model, everything in one.attempts.items()
        if not models or model in models
    }
    return replace(one, questions=questions, attempts=attempts)


def reference_attempt(row: ReferenceRationale, question: Question, split: str) -> Attempt:
    """The row as an attempt of its model, with its own verdict (`GIVEN`)."""
    prediction = row.predicted
    if prediction is not None:
        prediction = read_prediction(prediction, question.choices)
    return given_attempt(
        f"{split}/{row.model}/{row.id}", question, row.rationale, prediction, writer=row.model,
        split=split,
    ).scored({GIVEN: float(row.correct)})  # fmt: skip


def run_attempts(
    runs: Sequence[EvaluatedRun], sets: Sequence[ReferenceSet]
) -> tuple[Methods, list[str]]:
    """Attempts of runs at questions of the sets: method -> set -> seed -> attempts, and notes.

    An attempt belongs to a set where the set has its question, equal and of the same id. A method
    with the name of a reference model, or of the majority answer, gets its run's name in brackets.
    Raises `UserError` where a run answered no question of the sets.
    """
    taken = {MAJORITY, *(model for one in sets for model in one.attempts)}
    methods: Methods = {}
    notes = []
    for method, shown, run in shown_methods(runs):
        if method == MAJORITY:
            continue  # the sets have their own
        name = shown if shown not in taken else f"{shown} ({run.name})"
        splits = run.attempts[method].values()
        everything = [a for seeds in splits for of_seed in seeds.values() for a in of_seed]
        used = 0
        for one in sets:
            attempts = [a for a in everything if _same(run, a.question_id, one)]
            used += len(attempts)
            seeds = methods.setdefault(name, {}).setdefault(one.name, {}) if attempts else {}
            for attempt in attempts:
                moved = replace(attempt, split=one.name, writer=name)
                seeds.setdefault(attempt.seed, []).append(moved)
            missing = len(one.questions) - len({a.question_id for a in attempts})
            if missing:
                notes.append(
                    f"{one.name}: {name} answered {len(one.questions) - missing} of "
                    f"{len(one.questions)} questions; the other {missing} are not counted."
                )
        if not used:
            raise UserError(
                f"{run.name}: none of the {len(everything)} attempts of {method!r} answers a test "
                f"question of {', '.join(s.name for s in sets)}; evaluate it on these sets first"
            )
        if used < len(everything):
            notes.append(
                f"{len(everything) - used} of {len(everything)} attempts of {name} answer "
                "questions of none of the sets; left out."
            )
    return methods, notes


def join_sets(sets: Sequence[ReferenceSet]) -> tuple[dict[str, Question], Methods]:
    """All questions by id, and the references: model -> set -> seed 0 -> attempts.

    Raises `UserError` where two sets share an id.
    """
    questions: dict[str, Question] = {}
    methods: Methods = {}
    for one in sets:
        if shared := sorted(questions.keys() & one.questions.keys()):
            raise UserError(
                f"{one.name}: {len(shared)} question ids, such as {shared[0]!r}, are those of "
                "another set too; expected ids of its own. Rank the sets apart"
            )
        questions |= one.questions
        for model, attempts in one.attempts.items():
            methods.setdefault(model, {})[one.name] = {0: list(attempts)}
    return questions, methods


def pairs_on_equal_questions(
    ours: Iterable[str], references: Sequence[str], methods: Methods
) -> tuple[list[tuple[str, str]], list[str]]:
    """Each of our methods with each reference that answered the same questions; notes on others."""
    answered = {
        (method, name): {a.question_id for attempts in seeds.values() for a in attempts}
        for method, splits in methods.items()
        for name, seeds in splits.items()
    }
    pairs, notes = [], []
    for a in ours:
        unequal: dict[str, list[str]] = {}  # sets with different questions -> references
        for b in references:
            shared = methods[a].keys() & methods[b].keys()
            if differing := sorted(s for s in shared if answered[a, s] != answered[b, s]):
                unequal.setdefault(", ".join(differing), []).append(b)
            elif shared:
                pairs.append((a, b))
        notes += [
            f"{a} answered other questions of {where} than {', '.join(names)}: not compared."
            for where, names in unequal.items()
        ]
    return pairs, notes


def over_sets(
    methods: Methods, questions: Mapping[str, Question], metrics: Sequence[Metric]
) -> list[dict[str, Any]]:
    """A row per method and metric: the unweighted mean over its sets; draws are within the sets,
    and a set of equal values adds the width that the rule of three gives it.
    """
    everything = [a for attempts in flat(methods).values() for a in attempts]
    metrics = settle_worst(metrics, everything, questions)
    means: dict[tuple[str, str], list[float]] = {}
    draws: dict[tuple[str, str], np.ndarray] = {}
    level: dict[tuple[str, str], np.ndarray] = {}  # (2,): what equal values add below and above
    counts: Counter[tuple[str, str]] = Counter()
    names = list(dict.fromkeys(name for splits in methods.values() for name in splits))
    for seed, name in enumerate(names):  # a seed per set, so that sets are resampled independently
        for method, splits in methods.items():
            attempts = [a for of_seed in splits.get(name, {}).values() for a in of_seed]
            for metric in applicable(metrics, attempts) if attempts else ():
                per_seed = [per_question(a, questions, metric) for a in splits[name].values()]
                values = over_seeds(per_seed)
                if not values:  # a diagnostic that is undefined on every attempt
                    continue
                key = method, metric.name
                means.setdefault(key, []).append(float(np.mean(list(values.values()))))
                counts[key] += len(values)
                drawn = resampled_means(values, seed=seed)
                draws[key] = draws.get(key, 0.0) + drawn
                mean, (low, high) = means[key][-1], percentiles(drawn)
                wide = rule_of_three(Interval(mean, low, high, len(values)), *metric.bounds)
                level[key] = level.get(key, 0.0) + np.array([low - wide.low, wide.high - high])
    rows = []
    for key, set_means in means.items():
        low, high = percentiles(draws[key] / len(set_means))
        below, above = level[key] / len(set_means)
        rows.append({
            "method": key[0], "metric": key[1], "mean": float(np.mean(set_means)),
            "low": low - below, "high": high + above, "sets": len(set_means), "n": counts[key],
        })  # fmt: skip
    return rows


def _notes(row: Mapping[str, Any], disagreeing: Sequence[ReferenceRationale]) -> list[str]:
    name, model = row["set"], row["model"]
    notes = []
    if not row["rationales"]:
        notes.append(f"{name}: no reference rationale by {model}.")
    elif row["missing"]:
        notes.append(
            f"{name}: {model} has a rationale for {row['rationales']} of {row['questions']} "
            f"questions; the other {row['missing']} are not counted."
        )
    if disagreeing:
        notes.append(
            f"{name}: `correct` of {len(disagreeing)} predictions of {model} is not what "
            f"comparing them with the answer says, such as {disagreeing[0].id}; accuracy follows "
            "`correct`."
        )
    return notes


def _same(run: EvaluatedRun, id: str, of: ReferenceSet) -> bool:
    """Whether the run's question of this id is the set's."""
    theirs, ours = run.questions.get(id), of.questions.get(id)
    if theirs is None or ours is None:
        return False
    return (theirs.question, theirs.choices, theirs.answer, theirs.context) == (
        ours.question, ours.choices, ours.answer, ours.context,
    )  # fmt: skip
