"""Other models' rationales and our own runs' on the same test questions, a split per set.

A set is a folder with a test file and `reference_rationales.jsonl(.gz)`: rows of `{id, model,
rationale, predicted, correct}`. Accuracy is the mean of `correct`, as the rows say it; where the
prediction says otherwise, that is a note. What is missing anywhere is a note, never silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rationalize.answers import is_correct, read_answer
from rationalize.errors import UserError
from rationalize.evaluation.baselines import MAJORITY
from rationalize.evaluation.compare import EvaluatedRun, Methods, shown_methods
from rationalize.evaluation.intervals import (
    over_seeds,
    percentiles,
    resampled_means,
)
from rationalize.evaluation.metrics import (
    GIVEN,
    Metric,
    applicable,
    per_question,
    settle_worst,
)
from rationalize.questions import ReferenceRationale, load_questions, load_reference_rationales
from rationalize.records import Attempt, Question
from rationalize.templates import given_attempt

PATTERN = "reference_rationales*.jsonl*"


@dataclass(frozen=True)
class ReferenceSet:
    """A set's test questions, and what other models wrote for them."""

    name: str
    questions: Mapping[str, Question]
    attempts: Mapping[str, Sequence[Attempt]]
    """Model -> its attempts, unscored."""
    coverage: Sequence[Mapping[str, Any]]
    """A row per model: questions, rationales, how many are missing, empty, without an answer."""
    notes: Sequence[str]
    """What is missing or odd, in sentences."""


def sets_in(folder: Path) -> list[str]:
    """The folders of `folder` that hold reference rationales, by name."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a folder per set")
    found = sorted({file.parent.name for file in folder.glob(f"*/{PATTERN}")})
    if not found:
        raise UserError(
            f"{folder}: found no {PATTERN} in any folder of it; expected a folder per set with a "
            "test file and the rationales. Name the sets to rank runs alone"
        )
    return found


def read_set(
    folder: Path, models: Sequence[str], *, skip_bad_rows: str | None = None
) -> ReferenceSet:
    """A set's test questions and reference rationales; `models` are expected, others are welcome.

    Raises `UserError` where a model has two rationales for a question, or where no rationale
    answers a question of the test file.
    """
    name = folder.name
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; expected one with a test file")
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
    notes = []
    if len(known) < len(rows):
        notes.append(
            f"{name}: {len(rows) - len(known)} of {len(rows)} reference rationales answer "
            "questions that are not in the test file; left out."
        )
    by_model: dict[str, dict[str, ReferenceRationale]] = {m: {} for m in models}
    for row in known:
        own = by_model.setdefault(row.model, {})
        if row.id in own:
            raise UserError(
                f"{files[0]}: {row.model!r} has two rationales for question {row.id!r}; expected "
                "one per model and question. Leave one out"
            )
        own[row.id] = row
    coverage = [_coverage(name, questions, m, own) for m, own in by_model.items()]
    for counts, own in zip(coverage, by_model.values(), strict=True):
        notes += _notes(counts, [r for r in own.values() if _disagrees(r, questions[r.id])])
    if odd := [r for r in coverage if r["empty"] or r["no_answer"]]:
        each = ", ".join(f"{r['model']} {r['empty']}/{r['no_answer']}" for r in odd)
        notes.append(
            f"{name}: empty rationales, and predictions that could not be read (counted as "
            f"`correct` says): {each}."
        )
    attempts = {
        model: [reference_attempt(own[q.id], q, name) for q in questions.values() if q.id in own]
        for model, own in by_model.items()
        if own
    }
    return ReferenceSet(name, questions, attempts, coverage, notes)


def some_of(one: ReferenceSet, ids: Sequence[str], models: Sequence[str] = ()) -> ReferenceSet:
    """The set's questions of these ids alone, and of the models these alone, where any is named."""
    questions = {id: one.questions[id] for id in ids}
    attempts = {
        model: [a for a in own if a.question_id in questions]
        for model, own in one.attempts.items()
        if not models or model in models
    }
    return replace(one, questions=questions, attempts=attempts)


def reference_attempt(row: ReferenceRationale, question: Question, split: str) -> Attempt:
    """The row as an attempt of its model, with its own verdict (`GIVEN`)."""
    prediction = row.predicted
    if prediction is not None and prediction not in (question.choices or (prediction,)):
        prediction = read_answer(prediction, question.choices)
    return given_attempt(
        f"{split}/{row.model}/{row.id}", question, row.rationale, prediction, writer=row.model,
        split=split, rewards={GIVEN: float(row.correct)},
    )  # fmt: skip


def run_attempts(
    runs: Sequence[EvaluatedRun], sets: Sequence[ReferenceSet]
) -> tuple[Methods, list[str]]:
    """What runs wrote for questions of the sets: method -> set -> seed -> attempts, and notes.

    A question is found by its id and must be the same one. A method that is called like a model of
    the sets, or like the floor, gets its run's name. Raises `UserError` where a run answered none.
    """
    taken = {MAJORITY, *(model for one in sets for model in one.attempts)}
    methods: Methods = {}
    notes = []
    for method, shown, one in shown_methods(runs):
        if method == MAJORITY:
            continue  # the sets have their own
        name = shown if shown not in taken else f"{shown} ({one.name})"
        everything = [
            a for seeds in one.attempts[method].values() for own in seeds.values() for a in own
        ]
        found = 0
        for of in sets:
            own = [a for a in everything if _same(one, a.question_id, of)]
            found += len(own)
            into = methods.setdefault(name, {}).setdefault(of.name, {}) if own else {}
            for attempt in own:
                moved = replace(attempt, split=of.name, writer=name)
                into.setdefault(attempt.seed, []).append(moved)
            missing = len(of.questions) - len({a.question_id for a in own})
            if missing:
                notes.append(
                    f"{of.name}: {name} answered {len(of.questions) - missing} of "
                    f"{len(of.questions)} questions; the other {missing} are not counted."
                )
        if not found:
            raise UserError(
                f"{one.name}: none of the {len(everything)} attempts of {method!r} answers a test "
                f"question of {', '.join(s.name for s in sets)}; evaluate it on these sets first"
            )
        if found < len(everything):
            notes.append(
                f"{len(everything) - found} of {len(everything)} attempts of {name} answer "
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
    """Each of our methods with each reference, where both answered the same questions of the sets
    that they share; notes say where not.
    """
    asked = {
        (method, name): {a.question_id for own in seeds.values() for a in own}
        for method, splits in methods.items()
        for name, seeds in splits.items()
    }
    pairs, notes = [], []
    for a in ours:
        other: dict[str, list[str]] = {}
        for b in references:
            shared = methods[a].keys() & methods[b].keys()
            if odd := sorted(s for s in shared if asked[a, s] != asked[b, s]):
                other.setdefault(", ".join(odd), []).append(b)
            elif shared:
                pairs.append((a, b))
        notes += [
            f"{a} answered other questions of {where} than {', '.join(names)}: not compared."
            for where, names in other.items()
        ]
    return pairs, notes


def over_sets(
    methods: Methods, questions: Mapping[str, Question], metrics: Sequence[Metric]
) -> list[dict[str, Any]]:
    """A row per method and metric: the mean of the sets' means, each set counting alike, over the
    sets that the method has, and its interval (questions are drawn within their set).
    """
    everything = [a for splits in methods.values() for s in splits.values() for o in s.values()
                  for a in o]  # fmt: skip
    metrics = settle_worst(metrics, everything, questions)
    means: dict[tuple[str, str], list[float]] = {}
    draws: dict[tuple[str, str], np.ndarray] = {}
    counts: Counter[tuple[str, str]] = Counter()
    names = list(dict.fromkeys(name for splits in methods.values() for name in splits))
    for seed, name in enumerate(names):
        for method, splits in methods.items():
            own = [a for attempts in splits.get(name, {}).values() for a in attempts]
            for metric in applicable(metrics, own) if own else ():
                per_seed = [per_question(a, questions, metric) for a in splits[name].values()]
                values = over_seeds(per_seed)
                if not values:  # a diagnostic that is undefined on all of them
                    continue
                key = method, metric.name
                means.setdefault(key, []).append(float(np.mean(list(values.values()))))
                counts[key] += len(values)
                draws[key] = draws.get(key, 0.0) + resampled_means(values, seed=seed)
    rows = []
    for (method, metric_name), own_means in means.items():
        low, high = percentiles(draws[method, metric_name] / len(own_means))
        rows.append(
            {
                "method": method,
                "metric": metric_name,
                "mean": float(np.mean(own_means)),
                "low": low,
                "high": high,
                "sets": len(own_means),
                "n": counts[method, metric_name],
            }
        )
    return rows


def _coverage(
    name: str, questions: Mapping[str, Question], model: str, own: Mapping[str, ReferenceRationale]
) -> dict[str, Any]:
    return {
        "set": name, "model": model, "questions": len(questions), "rationales": len(own),
        "missing": len(questions) - len(own),
        "empty": sum(not r.rationale.strip() for r in own.values()),
        "no_answer": sum(r.predicted is None for r in own.values()),
    }  # fmt: skip


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


def _disagrees(row: ReferenceRationale, question: Question) -> bool:
    return is_correct(row.predicted, question.answer, question.choices) != row.correct


def _same(one: EvaluatedRun, id: str, of: ReferenceSet) -> bool:
    """Whether the run's question of this id is the set's."""
    theirs, ours = one.questions.get(id), of.questions.get(id)
    if theirs is None or ours is None:
        return False
    return (theirs.question, theirs.choices, theirs.answer, theirs.context) == (
        ours.question, ours.choices, ours.answer, ours.context,
    )  # fmt: skip
