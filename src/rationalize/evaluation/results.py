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
from rationalize.evaluation.baselines import SEEDLESS, is_base
from rationalize.evaluation.intervals import (
    Difference,
    Interval,
    average_seeds,
    bootstrap_mean,
    over_seeds,
    paired_difference,
    rule_of_three,
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
from rationalize.evaluation.significance import holm, mcnemar, seeds_p
from rationalize.records import Attempt, Question

if TYPE_CHECKING:
    from rationalize.runs import Run

Evaluated = Mapping[str, Mapping[str, Mapping[int, Sequence[Attempt]]]]
"""Method -> split -> seed -> attempts."""
Results = dict[str, Any]
QUESTIONS_FILE = "questions.json"
PerSeed = list[dict[str, float]]
"""One mapping of question id to value per seed."""


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
    where one of them does not depend on a seed.

    Raises `UserError` where seeds of a method, or methods compared, answered different questions,
    and where a split has no attempts; `ValueError` where `pairs` names an unknown method.
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
) -> Results:
    """`summarise` with the metrics given."""
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
    for a, b in pairs if pairs is not None else [(names[-1], other) for other in names[:-1]]:
        by_name = {m.name: m for m in metrics}
        results["comparisons"] += _compare(a, b, values, seeds_of, by_name, untrained)
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
    interval = rule_of_three(bootstrap_mean(over_seeds(per_seed)), metric.low, metric.high)
    return {**interval_row(interval), "seeds": means}


def _kinds(values: Mapping[str, PerSeed], questions: Mapping[str, Question]) -> dict[str, Any]:
    """Accuracy by kind of question, and under `stated` its mean under that reading."""
    strict = average_seeds(values[ACCURACY.name])
    stated = average_seeds(values.get(STATED_ACCURACY.name, values[ACCURACY.name]))
    rows: dict[str, Any] = {}
    for kind in sorted({kind for q in strict if (kind := questions[q].kind)}):
        ids = [q for q in strict if questions[q].kind == kind]
        rows[kind] = {
            **interval_row(bootstrap_mean([strict[q] for q in ids])),
            "stated": float(np.mean([stated[q] for q in ids])),
        }
    return rows


def _compare(
    a: str, b: str, values: Mapping[tuple[str, str], Mapping[str, PerSeed]],
    seeds_of: Mapping[tuple[str, str], Sequence[int]], metrics: Mapping[str, Metric],
    untrained: Collection[str],
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of every metric on every split that both methods have."""
    known = {method for method, _ in values}
    if not {a, b} <= known:
        raise ValueError(f"cannot compare {a!r} with {b!r}: the methods are {sorted(known)}")
    rows = []
    for (method, split), of_a in values.items():
        of_b = values.get((b, split), {})
        if method != a or not of_b:
            continue
        same_questions(of_a["accuracy"][0], of_b["accuracy"][0])
        # the seeds that both have, or all where one of the methods does not depend on a seed
        seeds = seeds_of[a, split], seeds_of[b, split]
        shared_seeds = [s for s in seeds[0] if s in seeds[1]]
        kept = [each if {a, b} & SEEDLESS else shared_seeds for each in seeds]
        for name in (name for name in of_a if name in of_b):
            readings = [
                _reading(of, name) if is_base(method) or method in untrained else name
                for method, of in ((a, of_a), (b, of_b))
            ]
            by_seed = [
                [v for v, s in zip(of[reading], every, strict=True) if s in which]
                for of, reading, every, which in zip(
                    (of_a, of_b), readings, seeds, kept, strict=True
                )
            ]
            means_a, means_b = map(over_seeds, by_seed)
            shared = [q for q in means_a if q in means_b]  # a diagnostic may be undefined on some
            if shared:
                pair = {q: means_a[q] for q in shared}, {q: means_b[q] for q in shared}
                row = {"a": a, "b": b, "split": split, "metric": name, "seeds": kept}
                if readings != [name, name]:
                    row["readings"] = readings
                rows.append(row | _tested(metrics[name], *pair) | _by_seeds(*by_seed))
    return rows


def _by_seeds(a_S: PerSeed, b_S: PerSeed) -> dict[str, Any]:
    """The difference of every seed, and its p with the seed as the unit, where there are several;
    a row that does not depend on a seed stands beside each.
    """
    size = max(len(a_S), len(b_S))
    if size < 2 or not {len(a_S), len(b_S)} <= {1, size}:
        return {}
    differences = []
    for a, b in zip(a_S * (size // len(a_S)), b_S * (size // len(b_S)), strict=True):
        shared = [q for q in a if q in b]
        if not shared:
            return {}
        differences.append(float(np.mean([a[q] - b[q] for q in shared])))
    return {"by_seed": differences, "p_seeds": seeds_p(differences)}


def _reading(values: Mapping[str, PerSeed], name: str) -> str:
    """The metric that a difference takes from an untrained row: of its accuracies, the better.

    Its replies may state a right answer in another form: that is no gain of training.
    """
    other = STATED_ACCURACY.name
    if name != ACCURACY.name or other not in values:
        return name
    means = [np.mean(list(average_seeds(values[n]).values())) for n in (name, other)]
    return other if means[1] > means[0] else name


def _tested(metric: Metric, a: Mapping[str, float], b: Mapping[str, float]) -> dict[str, Any]:
    """The paired difference. p is from McNemar's test for accuracy where each value is 0 or 1, else
    from the sign-flip test, whose exact form for such values is McNemar's.
    """
    width = metric.high - metric.low
    difference = rule_of_three(paired_difference(a, b), -width, width)
    row = {**difference_row(difference), "test": "sign-flip"}
    test = mcnemar(a, b) if metric.name == ACCURACY.name else None
    return row | {"test": "mcnemar", **dataclasses.asdict(test)} if test else row


def correct(results: Results) -> Results:
    """Add `p_holm` to every comparison, corrected over the `tests` of its family: all differences
    of its split in rewards and task metrics, or all in diagnostics.
    """
    # diagnostics are shown, not claimed: they must not cost the other metrics their significance
    families: dict[tuple[str, bool], list[dict[str, Any]]] = {}
    for row in results["comparisons"]:
        diagnostic = results["metrics"][row["metric"]]["role"] == "diagnostic"
        families.setdefault((row["split"], diagnostic), []).append(row)
    for rows in families.values():
        for row, p in zip(rows, holm([row["p"] for row in rows]), strict=True):
            row |= {"p_holm": p, "tests": len(rows)}
    return results


def interval_row(interval: Interval) -> dict[str, Any]:
    return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n}


def difference_row(d: Difference) -> dict[str, Any]:
    return {"mean": d.mean, "low": d.low, "high": d.high, "p": d.p, "n": d.n}


def is_significant(row: Mapping[str, Any]) -> bool:
    """Whether a comparison's interval excludes zero and its Holm-corrected p is below .05."""
    return (row["low"] > 0 or row["high"] < 0) and row["p_holm"] < 0.05


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
            row = interval_row(bootstrap_mean(values))
            rows.append({"round": round, "split": split, "reward": m.name, **row})
    for name, mean in variety([a.rationale for a in attempts if a.mode != "answer"]).items():
        if mean is not None:
            rows.append({"round": round, "split": split, "reward": name, "mean": mean})
    return rows


BY_STAGE = ("obedience", "token_auc", "bins", "drawn", "rounds", "rollouts", "coverage")
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
