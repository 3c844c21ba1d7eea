"""Paired differences between the methods of one table: which values, which seeds, which tests."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rationalize.errors import UserError
from rationalize.evaluation.baselines import depends_on_no_seed, is_base
from rationalize.evaluation.intervals import (
    Difference,
    average_seeds,
    over_seeds,
    paired_difference,
)
from rationalize.evaluation.metrics import ACCURACY, STATED_ACCURACY, Metric
from rationalize.evaluation.significance import holm, mcnemar, seeds_p

PerSeed = list[dict[str, float]]
"""Per seed, a mapping of question id to value."""
Results = dict[str, Any]


def compare_rows(
    a: str, b: str, values: Mapping[tuple[str, str], Mapping[str, PerSeed]],
    seeds_of: Mapping[tuple[str, str], Sequence[int]], metrics: Mapping[str, Metric],
    untrained: Collection[str], seedless: Collection[str] = (),
) -> list[dict[str, Any]]:  # fmt: skip
    """Rows of every metric on every split that both methods have, over the questions that both
    answered. Raises `UserError` where there are none.
    """
    known = {method for method, _ in values}
    if not {a, b} <= known:
        raise ValueError(f"cannot compare {a!r} with {b!r}: the methods are {sorted(known)}")
    rows = []
    for (method, split), of_a in values.items():
        of_b = values.get((b, split), {})
        if method != a or not of_b:
            continue
        if not of_a["accuracy"][0].keys() & of_b["accuracy"][0].keys():
            raise UserError(
                f"{a} and {b} answered no question in common on {split}; expected at least one. "
                "Evaluate both on the same file, or name other pairs"
            )
        # the seeds that both have, or all where they have none in common or one needs none
        seeds = seeds_of[a, split], seeds_of[b, split]
        shared_seeds = [s for s in seeds[0] if s in seeds[1]]
        fixed = any(depends_on_no_seed(method, seedless) for method in (a, b))
        kept = [each if fixed or not shared_seeds else shared_seeds for each in seeds]
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
            shared = [q for q in means_a if q in means_b]  # a score may be undefined on some
            if shared:
                pair = {q: means_a[q] for q in shared}, {q: means_b[q] for q in shared}
                row = {"a": a, "b": b, "split": split, "metric": name, "seeds": kept}
                if readings != [name, name]:
                    row["readings"] = readings
                beside = kept[0] == kept[1] or (fixed and 1 in map(len, kept))
                by_seeds = _by_seeds(*by_seed) if beside else {}
                rows.append(row | _tested(metrics[name], *pair) | by_seeds)
    return rows


def partly_shared(
    pairs: Iterable[tuple[str, str]], values: Mapping[tuple[str, str], Mapping[str, PerSeed]]
) -> list[str]:
    """Notes on the pairs of methods that answered some questions apart."""
    notes = []
    for a, b in pairs:
        for split in dict.fromkeys(s for method, s in values if method == a and (b, s) in values):
            of_a, of_b = (values[method, split]["accuracy"][0].keys() for method in (a, b))
            if of_a != of_b:
                notes.append(
                    f"{a} and {b} on {split}: compared on the {len(of_a & of_b)} questions that "
                    f"both answered, of {len(of_a)} and {len(of_b)}."
                )
    return notes


def no_seed_shared(rows: Iterable[Mapping[str, Any]], seedless: Collection[str]) -> list[str]:
    """Notes on the methods of comparisons that each depend on a seed, and have none in common."""
    notes = []
    for row in rows:
        a, b = row["a"], row["b"]
        fixed = any(depends_on_no_seed(method, seedless) for method in (a, b))
        if not fixed and not {*row["seeds"][0]} & {*row["seeds"][1]}:
            own = " and ".join(", ".join(map(str, each)) for each in row["seeds"])
            notes.append(
                f"{a} and {b} on {row['split']}: no seed in common; compared over all seeds of "
                f"each ({own}), without p over seeds."
            )
    return list(dict.fromkeys(notes))  # a note per pair and split, not per metric


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
    row = {**difference_row(paired_difference(a, b, bounds=metric.bounds)), "test": "sign-flip"}
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


def difference_row(d: Difference) -> dict[str, Any]:
    return {"mean": d.mean, "low": d.low, "high": d.high, "p": d.p, "n": d.n}


def is_significant(row: Mapping[str, Any]) -> bool:
    """Whether a comparison's interval excludes zero and its Holm-corrected p is below .05."""
    return (row["low"] > 0 or row["high"] < 0) and row["p_holm"] < 0.05
