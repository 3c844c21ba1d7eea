"""Several runs in one table: `rationalize compare RUN RUN ..`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.errors import UserError
from rationalize.evaluation.baselines import MAJORITY, SEEDLESS
from rationalize.evaluation.metrics import Metric, metrics_from_facts
from rationalize.evaluation.results import (
    Results,
    merge_log,
    read_questions,
    summarise_metrics,
)
from rationalize.records import Attempt, Question
from rationalize.runs import Run

Methods = dict[str, dict[str, dict[int, list[Attempt]]]]
"""Method -> split -> seed -> attempts."""


@dataclasses.dataclass(frozen=True)
class EvaluatedRun:
    """A run with its final evaluation."""

    name: str
    run: Run
    results: Results
    questions: dict[str, Question]
    attempts: Methods


def final_attempts(run: Run, results: Mapping[str, Any]) -> Methods:
    """The attempts behind results.json: those whose writer is one of its methods, on its splits.
    Of an attempt that was scored again, the last scores are read."""
    found: Methods = {}
    for method, entry in results["methods"].items():
        for split, cell in entry["splits"].items():
            last = {(a.seed, a.id): a for a in run.attempts(writer=method, split=split)}
            for attempt in last.values():
                if attempt.seed in cell.get("seeds", [attempt.seed]):
                    of_split = found.setdefault(method, {}).setdefault(split, {})
                    of_split.setdefault(attempt.seed, []).append(attempt)
    return found


def read_run(path: Path | str) -> EvaluatedRun:
    run = Run.read(path)
    results = run.read_json("results.json")
    if results is None:
        raise UserError(
            f"{path}: no results.json; expected a run that was evaluated. Finish it, or call "
            f"rationalize evaluate --model {path}"
        )
    attempts = final_attempts(run, results)
    lost = sorted(set(results["methods"]) - {MAJORITY} - set(attempts))
    if lost:
        raise UserError(
            f"{path}: results.json names {lost[0]!r}, but the run holds no attempts by "
            "that writer; evaluate it again"
        )
    return EvaluatedRun(Path(path).name, run, results, read_questions(run), attempts)


def compare_runs(
    paths: Sequence[Path | str], *, pairs: Sequence[tuple[str, str]] | None = None
) -> tuple[Results, dict[str, list[Attempt]], dict[str, Question]]:
    """Results over all methods of several runs, with everything that `write_report` needs.

    A method that several runs hold is one method of several seeds where their configurations differ
    in nothing but the seeds, and none wrote otherwise under the same one; otherwise each gets its
    run's name: `MaRio (run-2)`. What no seed moves is shown once. Without `pairs`, the last method
    is compared with each of the others.
    """
    runs = [read_run(path) for path in paths]
    labels = _distinct_names(runs)
    questions = _one_set(runs)
    methods: Methods = {}
    for method, label, one in shown_methods(runs):
        if label in SEEDLESS and label in methods:
            continue
        into = methods.setdefault(label, {})
        for split, seeds in one.attempts[method].items():
            into.setdefault(split, {}).update(seeds)
    meta = {
        "runs": {label: r.results["meta"] for label, r in zip(labels, runs, strict=True)},
        "seeds": sorted({a.seed for r in runs for own in flat(r.attempts).values() for a in own}),
    }
    results = summarise_metrics(methods, questions, _common_metrics(runs), pairs=pairs, meta=meta)
    for label, one in zip(labels, runs, strict=True):
        own = {"run": label} if len(runs) > 1 else {}
        merge_log(results, one.run.metrics(), **own)
        for row in one.results.get("trained") or []:
            method = _shown_name(row["method"], label, one, runs)
            results["trained"].append({**row, "method": method, **own})
    return results, flat(methods), questions


def shown_methods(runs: Sequence[EvaluatedRun]) -> list[tuple[str, str, EvaluatedRun]]:
    """Every method of every run: its name there, the name it is shown under, its run."""
    labels = _distinct_names(runs)
    return [
        (method, _shown_name(method, label, one, runs), one)
        for label, one in zip(labels, runs, strict=True)
        for method in one.attempts
    ]


def _shown_name(method: str, label: str, one: EvaluatedRun, runs: Sequence[EvaluatedRun]) -> str:
    others = [r for r in runs if r is not one and method in r.attempts]
    if method == MAJORITY or all(_same_but_seed(one, other, method) for other in others):
        return method
    return f"{method} ({label})"


def flat(methods: Methods) -> dict[str, list[Attempt]]:
    """Method -> all its attempts, as `write_report` takes them."""
    return {
        method: [a for seeds in splits.values() for seed in sorted(seeds) for a in seeds[seed]]
        for method, splits in methods.items()
    }


def _same_but_seed(one: EvaluatedRun, other: EvaluatedRun, method: str) -> bool:
    configs = [
        {k: v for k, v in r.run.config.items() if k not in ("seed", "seeds")} for r in (one, other)
    ]
    if configs[0] != configs[1] or method in SEEDLESS:
        return configs[0] == configs[1]
    first, second = (
        {
            (split, seed): [(a.question_id, a.completion, a.prediction) for a in attempts]
            for split, of_split in r.attempts[method].items()
            for seed, attempts in of_split.items()
        }
        for r in (one, other)
    )
    return all(first[key] == second[key] for key in first.keys() & second.keys())


def _distinct_names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Folder names; equal ones are numbered."""
    names = [r.name for r in runs]
    numbers = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [f"{n} #{i}" if names.count(n) > 1 else n for n, i in zip(names, numbers, strict=True)]


def _one_set(runs: Sequence[EvaluatedRun]) -> dict[str, Question]:
    """All questions; an id that means two different questions is an error."""
    merged: dict[str, Question] = {}
    for one in runs:
        for q in one.questions.values():
            other = merged.setdefault(q.id, q)
            if (other.question, other.choices, other.answer) != (q.question, q.choices, q.answer):
                raise UserError(
                    f"{one.name}: question {q.id!r} is another one than in an earlier run; only "
                    "runs on the same questions can be compared"
                )
    return merged


def _common_metrics(runs: Sequence[EvaluatedRun]) -> list[Metric]:
    """The metrics of any run; one name must mean one range and place in NRG."""
    facts: dict[str, Any] = {}
    for one in runs:
        for name, fact in one.results["metrics"].items():
            known = facts.setdefault(name, fact)
            if any(known[k] != fact[k] for k in ("low", "high", "in_nrg")):
                raise UserError(
                    f"{one.name}: {name!r} has another range or place in NRG than in an "
                    f"earlier run ({fact} against {known}); evaluate both with the same rewards"
                )
    return metrics_from_facts(facts)
