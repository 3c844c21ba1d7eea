"""`results.json`: means with intervals, paired differences, and the value of each seed.

docs/architecture.md gives the structure: `metrics` holds the range and role of each metric, `kinds`
the accuracy per kind of question, and the entry of a split its seeds, corpus figures, and the
shares that the report warns about.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rationalize.answers import label
from rationalize.errors import UserError
from rationalize.evaluation.differences import (
    PerSeed,
    Results,
    compare_rows,
    correct,
    no_seed_shared,
    partly_shared,
)
from rationalize.evaluation.intervals import (
    Interval,
    average_seeds,
    bootstrap_mean,
    over_seeds,
    same_questions,
)
from rationalize.evaluation.leakage import leakage_adjusted
from rationalize.evaluation.metrics import (
    ACCURACY,
    STATED_ACCURACY,
    Metric,
    RewardSpec,
    applicable,
    distinct_n,
    metrics_of,
    per_question,
    score_column,
    settle_worst,
    stated,
)
from rationalize.records import Attempt, Question

if TYPE_CHECKING:
    from rationalize.runs import Run

Evaluated = Mapping[str, Mapping[str, Mapping[int, Sequence[Attempt]]]]
"""Method -> split -> seed -> attempts."""
QUESTIONS_FILE = "questions.json"


def summarise(
    methods: Evaluated,
    questions: Mapping[str, Question],
    rewards: Iterable[RewardSpec] = (),
    diagnostics: Iterable[RewardSpec] = (),
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    nrg: Sequence[str] | None = None,
    meta: Mapping[str, Any] | None = None,
    untrained: Collection[str] = (),
) -> Results:
    """Means with intervals of every metric, and the paired differences a - b of `pairs`.

    Without `pairs`, the last method is compared with each of the others. `nrg` names the rewards
    that enter NRG (see `metrics_of`); `untrained` the methods, beside the base model's rows, that
    nobody trained on our form of an answer. Seeds are averaged within each question. Two methods
    are compared over the seeds that both have (a gate may have left one out), or over all seeds
    where they have none in common or one of them does not depend on a seed, on the questions that
    both answered.

    Raises `UserError` where seeds of a method answered different questions, where methods compared
    have none in common, and where a split has no attempts; `ValueError` where `pairs` names an
    unknown method.
    """
    metrics = metrics_of(rewards, diagnostics, nrg=nrg)
    return summarise_metrics(
        methods, questions, metrics, pairs=pairs, meta=meta, untrained=untrained
    )


def summarise_metrics(
    methods: Evaluated,
    questions: Mapping[str, Question],
    metrics: Sequence[Metric],
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    meta: Mapping[str, Any] | None = None,
    untrained: Collection[str] = (),
    seedless: Collection[str] = (),
) -> Results:
    """`summarise` with the metrics given; `seedless` names the methods, beside the baselines, that
    do not depend on a seed.
    """
    cells = [seeds for splits in methods.values() for seeds in splits.values()]
    everything = [a for seeds in cells for attempts in seeds.values() for a in attempts]
    _check_questions(everything, questions)
    metrics = settle_worst(metrics, everything, questions)
    results: Results = {
        "methods": {
            name: {"splits": {}, **({"untrained": True} if name in untrained else {})}
            for name in methods
        },
        "comparisons": [],
        "kinds": {},
        "metrics": {m.name: m.facts() for m in metrics},
        "obedience": [],
        "token_auc": [],
        "drawn": [],
        "bins": [],
        "training": [],
        "rounds": [],
        "rollouts": [],
        "coverage": [],
        "held_out": [],
        "trained": [],
        "meta": dict(meta or {}),
    }
    # means with intervals
    values: dict[tuple[str, str], dict[str, PerSeed]] = {}
    for method, splits in methods.items():
        for split, seeds in splits.items():
            values[method, split] = _values(f"{method} on {split}", seeds, questions, metrics)
            cell = _cell(values[method, split], seeds, questions, metrics)
            results["methods"][method]["splits"][split] = cell
            kinds = _kinds(values[method, split], questions)
            if kinds:
                results["kinds"].setdefault(method, {})[split] = kinds
    # paired differences
    names = list(methods)
    seeds_of = {(m, s): sorted(seeds) for m, of in methods.items() for s, seeds in of.items()}
    by_name = {m.name: m for m in metrics}
    pairs = pairs if pairs is not None else [(names[-1], other) for other in names[:-1]]
    seedless = {*seedless, *untrained}  # nobody trained these under a seed
    for a, b in pairs:
        results["comparisons"] += compare_rows(a, b, values, seeds_of, by_name, untrained, seedless)
    notes = no_seed_shared(results["comparisons"], seedless) + partly_shared(pairs, values)
    if notes:
        results["notes"] = notes
    return correct(results)


def _check_questions(attempts: Iterable[Attempt], questions: Mapping[str, Question]) -> None:
    unknown = {a.question_id for a in attempts} - set(questions)
    if unknown:
        raise UserError(
            f"{len(unknown)} attempts answer questions that were not given, for example "
            f"{min(unknown)!r}; evaluate them with the questions they were written for"
        )


def _values(
    where: str,
    seeds: Mapping[int, Sequence[Attempt]],
    questions: Mapping[str, Question],
    metrics: Sequence[Metric],
) -> dict[str, PerSeed]:
    """Metric -> a mapping of question id to value per seed, seeds in ascending order."""
    if not any(seeds.values()):
        raise UserError(f"{where}: there is no attempt to evaluate")
    everything = [a for attempts in seeds.values() for a in attempts]
    values = {
        m.name: [per_question(seeds[s], questions, m) for s in sorted(seeds)]
        for m in applicable(metrics, everything)
    }
    values = {name: per_seed for name, per_seed in values.items() if any(per_seed)}
    for other in values["accuracy"][1:]:
        same_questions(values["accuracy"][0], other)
    return values


def _cell(
    values: Mapping[str, PerSeed],
    seeds: Mapping[int, Sequence[Attempt]],
    questions: Mapping[str, Question],
    metrics: Sequence[Metric],
) -> dict[str, Any]:
    """The entry of a method on a split."""
    attempts = [a for s in sorted(seeds) for a in seeds[s]]
    # what the report warns about: undefined scores, and scores outside the declared range
    undefined, outside = {}, {}
    for metric in applicable(metrics, attempts):
        if metric.role != "task":
            column = score_column(metric, attempts, questions)
            width = metric.high - metric.low
            slack = 1e-6 * width if math.isfinite(width) else 0.0
            beyond = (column < metric.low - slack) | (column > metric.high + slack)
            undefined[metric.name] = float(np.isnan(column).mean())
            outside[metric.name] = float(beyond.mean())
    texts = [a.rationale for a in attempts if a.mode != "answer"]
    return {
        "metrics": {m.name: _row(values[m.name], m) for m in metrics if m.name in values},
        "seeds": sorted(seeds),
        "undefined": {name: share for name, share in undefined.items() if share},
        "out_of_range": {name: share for name, share in outside.items() if share},
        **variety(texts),
        "stated": sum(stated(a, questions[a.question_id]) is not None for a in attempts)
        / len(attempts),
        "one_choice": one_choice([a for a in attempts if a.mode != "answer"], questions),
        "leakage_adjusted": leakage_adjusted(attempts),
    }


def variety(texts: Sequence[str]) -> dict[str, float | None]:
    """Shares of distinct word pairs and of distinct texts, over all texts together."""
    distinct = len(set(texts)) / len(texts) if texts else None
    return {"distinct_2": distinct_n(texts), "distinct_rationales": distinct}


def one_choice(
    attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> dict[str, Any] | None:
    """The choice position that is answered most often, its share, and how often it is right. None
    without answered choices.
    """
    answered: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for attempt in attempts:
        choices = questions[attempt.question_id].choices
        if choices and attempt.prediction in choices:
            answered[choices.index(attempt.prediction)] += 1
        if choices and attempt.gold in choices:
            right[choices.index(attempt.gold)] += 1
    if not answered:
        return None
    [(position, count)] = answered.most_common(1)
    return {
        "label": label(position), "share": count / len(attempts),
        "right": right[position] / len(attempts),
    }  # fmt: skip


def _row(per_seed: PerSeed, metric: Metric) -> dict[str, Any]:
    means = [float(np.mean(list(v.values()))) if v else None for v in per_seed]
    interval = bootstrap_mean(over_seeds(per_seed), bounds=metric.bounds)
    return {**interval_row(interval), "seeds": means}


def _kinds(values: Mapping[str, PerSeed], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Accuracy by kind of question, and under `stated` its mean under that reading."""
    strict = average_seeds(values[ACCURACY.name])
    stated = average_seeds(values.get(STATED_ACCURACY.name, values[ACCURACY.name]))
    rows: dict[str, Any] = {}
    for kind in sorted({kind for q in strict if (kind := questions[q].kind)}):
        ids = [q for q in strict if questions[q].kind == kind]
        rows[kind] = {
            **interval_row(bootstrap_mean([strict[q] for q in ids], bounds=ACCURACY.bounds)),
            "stated": float(np.mean([stated[q] for q in ids])),
        }
    return rows


def interval_row(interval: Interval) -> dict[str, Any]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}


def round_rows(
    attempts: Sequence[Attempt],
    questions: Mapping[str, Question],
    metrics: Iterable[Metric],
    *,
    round: int,
    split: str,
) -> list[dict[str, Any]]:
    """Rows of the `rounds` section: each metric's mean on `split` after a round, and the variety of
    the rationales, which has no interval over questions.
    """
    rows = []
    for m in settle_worst(applicable(metrics, attempts), attempts, questions):
        if values := per_question(attempts, questions, m):
            row = interval_row(bootstrap_mean(values, bounds=m.bounds))
            rows.append({"round": round, "split": split, "reward": m.name, **row})
    for name, mean in variety([a.rationale for a in attempts if a.mode != "answer"]).items():
        if mean is not None:
            rows.append({"round": round, "split": split, "reward": name, "mean": mean})
    return rows


BY_STAGE = ("obedience", "token_auc", "bins", "drawn", "rounds", "rollouts", "coverage", "held_out")
"""Sections of results.json that are filled from a run's log."""


def merge_log(results: Results, lines: Iterable[Mapping[str, Any]], **labels: Any) -> Results:
    """Add the lines of a run's metrics.jsonl, with `labels` (for example `seed=1`) on every row.

    A line of stage `STAGE/SECTION` goes to that section (`BY_STAGE`), with STAGE as its method. Any
    other line with a loss is an optimiser step and goes to `training`.
    """
    for line in lines:
        method, _, section = line["stage"].rpartition("/")
        row = {k: v for k, v in line.items() if v is not None} | labels
        if section in BY_STAGE:
            del row["stage"]
            results[section].append({"method": method, **row})
        elif "loss" in row:
            results["training"].append(row)
    return results


def save_questions(run: Run, questions: Iterable[Question]) -> None:
    """Store the evaluated questions in the run, so that a report needs nothing else."""
    run.write_json(QUESTIONS_FILE, [dataclasses.asdict(q) for q in questions])


def read_questions(run: Run) -> dict[str, Question]:
    """The questions that `save_questions` stored, by id; a `UserError` where there are none."""
    rows = run.read_json(QUESTIONS_FILE)
    if rows is None:
        raise UserError(f"{run.path}: no {QUESTIONS_FILE}; evaluate the run again, which writes it")
    return {row["id"]: question_from_row(row) for row in rows}


def question_from_row(row: Mapping[str, Any]) -> Question:
    tuples = {
        k: tuple(row[k]) for k in ("choices", "rationales", "accepted") if row.get(k) is not None
    }
    return Question(**{**row, **tuples})
