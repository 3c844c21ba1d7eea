"""Several runs in one table: `rationalize compare RUN RUN ..`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.config import nearest
from rationalize.errors import UsageError, UserError
from rationalize.evaluation.baselines import MAJORITY, SEEDLESS
from rationalize.evaluation.metrics import Metric, metrics_from_facts
from rationalize.evaluation.results import Results, merge_log, read_questions, summarise_metrics
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

    An attempt that was scored more than once appears with its last scores.
    """
    methods: Methods = {}
    for method, entry in results["methods"].items():
        for split, cell in entry["splits"].items():
            last = {(a.seed, a.id): a for a in run.attempts(writer=method, split=split)}
            for attempt in last.values():
                if attempt.seed in cell.get("seeds", [attempt.seed]):
                    seeds = methods.setdefault(method, {}).setdefault(split, {})
                    seeds.setdefault(attempt.seed, []).append(attempt)
    return methods


def read_run(path: Path | str) -> EvaluatedRun:
    """A run with its results, questions and attempts; a `UserError` where one is missing."""
    run = Run.read(path)
    results = run.read_json("results.json")
    if results is None:
        raise UserError(
            f"{path}: no results.json; expected a run that was evaluated. Finish it, or call "
            f"rationalize evaluate --model {path}"
        )
    attempts = final_attempts(run, results)
    # a majority row without attempts is left out of a comparison
    missing = sorted(set(results["methods"]) - {MAJORITY} - set(attempts))
    if missing:
        raise UserError(
            f"{path}: results.json names {missing[0]!r}, but the run holds no attempts by "
            "that writer; evaluate it again"
        )
    return EvaluatedRun(Path(path).name, run, results, read_questions(run), attempts)


def compare_runs(
    paths: Sequence[Path | str], *, pairs: Sequence[tuple[str, str]] | None = None
) -> tuple[Results, dict[str, list[Attempt]], dict[str, Question]]:
    """Results over all methods of several runs, with everything that `write_report` needs.

    A method of several runs is one method with several seeds where the runs' configurations differ
    in the seeds only, and where runs of the same seed hold the same attempts. Otherwise each gets
    its run's name: `MaRio (run-2)`. Rows that do not depend on a seed appear once. Without `pairs`,
    the last method is compared with each of the others.
    """
    runs = [read_run(path) for path in paths]
    labels = _distinct_names(runs)
    questions = _merged_questions(runs)
    # attempts of equal methods are joined, seed by seed
    methods: Methods = {}
    for method, label, run in shown_methods(runs):
        if label in SEEDLESS and label in methods:
            continue
        splits = methods.setdefault(label, {})
        for split, seeds in run.attempts[method].items():
            splits.setdefault(split, {}).update(seeds)
    pairs = pairs and [(_method_of(a, methods), _method_of(b, methods)) for a, b in pairs]
    everything = [a for run in runs for attempts in flat(run.attempts).values() for a in attempts]
    meta = {
        "runs": {n: run.results.get("meta", {}) for n, run in zip(labels, runs, strict=True)},
        "seeds": sorted({a.seed for a in everything}),
    }
    untrained = {
        label
        for method, label, run in shown_methods(runs)
        if run.results["methods"][method].get("untrained")
    }
    results = summarise_metrics(
        methods, questions, _common_metrics(runs), pairs=pairs, meta=meta, untrained=untrained
    )
    # rows of the runs' logs are labelled, so that charts keep the runs apart
    for label, evaluated in zip(labels, runs, strict=True):
        origin = {"run": label} if len(runs) > 1 else {}
        merge_log(results, evaluated.run.metrics(), **origin)
        for row in evaluated.results.get("trained") or []:
            method = _shown_name(row["method"], label, evaluated, runs)
            results["trained"].append({**row, "method": method, **origin})
    return results, flat(methods), questions


def _method_of(name: str, methods: Methods) -> str:
    """The row of a name, whatever its case. Raises `UsageError` where there is none."""
    named = {method.casefold(): method for method in methods}
    if name in methods or name.casefold() in named:
        return name if name in methods else named[name.casefold()]
    raise UsageError(f"unknown method {name!r} among the pairs{nearest(name, methods)}")


def shown_methods(runs: Sequence[EvaluatedRun]) -> list[tuple[str, str, EvaluatedRun]]:
    """Every method of every run: its name in the run, the name it is shown under, its run."""
    labels = _distinct_names(runs)
    return [
        (method, _shown_name(method, label, run, runs), run)
        for label, run in zip(labels, runs, strict=True)
        for method in run.attempts
    ]


def _shown_name(method: str, label: str, run: EvaluatedRun, runs: Sequence[EvaluatedRun]) -> str:
    others = [r for r in runs if r is not run and method in r.attempts]
    if method == MAJORITY or all(_same_but_seed(run, other, method) for other in others):
        return method
    return f"{method} ({label})"


def flat(methods: Methods) -> dict[str, list[Attempt]]:
    """Method -> all its attempts, as `write_report` takes them."""
    return {
        method: [a for seeds in splits.values() for seed in sorted(seeds) for a in seeds[seed]]
        for method, splits in methods.items()
    }


def _same_but_seed(a: EvaluatedRun, b: EvaluatedRun, method: str) -> bool:
    """Whether two runs differ in the seed only, as far as a method's attempts show."""
    configs = [
        # `out` was stored by an earlier version
        {k: v for k, v in r.run.config.items() if k not in ("seed", "seeds", "out")}
        for r in (a, b)
    ]
    if method in SEEDLESS:  # the base model is the same whatever was trained, unless scored anew
        return configs[0] == configs[1] or _written(a, method) == _written(b, method)
    if configs[0] != configs[1]:
        return False
    # two runs of one seed that wrote different attempts differ in more than the configuration says
    first, second = (
        {
            (split, seed): [(a.question_id, a.completion, a.prediction) for a in attempts]
            for split, seeds in r.attempts[method].items()
            for seed, attempts in seeds.items()
        }
        for r in (a, b)
    )
    return all(first[key] == second[key] for key in first.keys() & second.keys())


def _written(run: EvaluatedRun, method: str) -> dict[tuple[str, str], Any]:
    """A row's replies and scores by split and question."""
    return {
        (split, a.question_id): (a.completion, a.prediction, dict(a.rewards))
        for split, seeds in run.attempts[method].items()
        for attempts in seeds.values()
        for a in attempts
    }


def _distinct_names(runs: Sequence[EvaluatedRun]) -> list[str]:
    """Folder names; equal ones are numbered."""
    names = [r.name for r in runs]
    numbers = [names[: i + 1].count(name) for i, name in enumerate(names)]
    return [f"{n} #{i}" if names.count(n) > 1 else n for n, i in zip(names, numbers, strict=True)]


def _merged_questions(runs: Sequence[EvaluatedRun]) -> dict[str, Question]:
    """All questions by id; a `UserError` where one id stands for two different questions."""
    merged: dict[str, Question] = {}
    for run in runs:
        for q in run.questions.values():
            other = merged.setdefault(q.id, q)
            if (other.question, other.choices, other.answer) != (q.question, q.choices, q.answer):
                raise UserError(
                    f"{run.name}: question {q.id!r} is another one than in an earlier run; only "
                    "runs on the same questions can be compared"
                )
    return merged


def _common_metrics(runs: Sequence[EvaluatedRun]) -> list[Metric]:
    """The metrics of all runs; a `UserError` where two runs differ in the range or NRG of one."""
    facts: dict[str, Any] = {}
    for run in runs:
        for name, fact in run.results["metrics"].items():
            known = facts.setdefault(name, fact)
            if any(known[k] != fact[k] for k in ("low", "high", "in_nrg")):
                raise UserError(
                    f"{run.name}: {name!r} has another range or place in NRG than in an "
                    f"earlier run ({fact} against {known}); evaluate both with the same rewards"
                )
    return metrics_from_facts(facts)
