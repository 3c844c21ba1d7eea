"""The tables of a split: means with intervals, then paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rationalize.evaluation.differences import is_significant
from rationalize.evaluation.tables import (
    NONE,
    cells_of,
    differences,
    heading,
    leakage_rows,
    metrics_of_split,
    show,
    show_interval,
    show_p,
)


def headline(results: Mapping[str, Any], split: str) -> dict[str, Any]:
    """A split's tables: task metrics and rewards, then the diagnostics."""
    names = metrics_of_split(results, split)
    facts = results["metrics"]
    beside = ("stated_accuracy", "parse_rate")
    main = [m for m in names if facts[m]["role"] != "diagnostic" or m in beside]
    groups = {"": main, "diagnostics": [m for m in names if m not in main]}
    tables = [{"caption": name, **_table(results, split, ms)} for name, ms in groups.items() if ms]
    return {
        "split": split, "tables": tables, "kinds": _kinds(results, split),
        "leakage": leakage_rows(results, split),
    }  # fmt: skip


def _table(results: Mapping[str, Any], split: str, names: Sequence[str]) -> dict[str, Any]:
    """Methods by metrics, then the paired differences; rows without any metric are left out."""
    facts = results["metrics"]
    methods = [
        {
            "name": method, "n": cell["metrics"]["accuracy"]["n"], "seeds": len(cell["seeds"]),
            "cells": [_mean_cell(cell["metrics"].get(m), facts[m]) for m in names],
        }
        for method, cell in cells_of(results, split).items()
        if set(names) & set(cell["metrics"])
    ]  # fmt: skip
    pairs = [
        {"name": f"{a} − {b}", "cells": [_difference_cell(of.get(m), facts[m]) for m in names]}
        for (a, b), of in differences(results, split).items()
        if set(names) & set(of)
    ]
    heads = [{"name": heading(m, facts[m]), "role": facts[m]["role"]} for m in names]
    return {"heads": heads, "methods": methods, "pairs": pairs}


def _mean_cell(row: Mapping[str, Any] | None, fact: Mapping[str, Any]) -> dict[str, str] | None:
    if row is None:
        return None
    seeds = ", ".join(show(v, fact) for v in row.get("seeds", []))
    mean, _, interval = show_interval(row, fact).partition(" ")
    return {"mean": mean, "interval": interval, "seeds": f"{row['n']} questions; seeds: {seeds}"}


def _difference_cell(
    row: Mapping[str, Any] | None, fact: Mapping[str, Any]
) -> dict[str, str] | None:
    if row is None:
        return None
    marked = "better" if row["mean"] > 0 else "worse"
    if not is_significant(row):
        marked = ""
    elif fact["role"] == "diagnostic":
        marked = "marked"
    mean, _, interval = show_interval(row, fact, sign=True).partition(" ")
    return {
        "mean": mean, "interval": interval, "p": f"p {show_p(row['p'])}",
        "holm": f"Holm {show_p(row['p_holm'])}", "about": _about(row), "marked": marked,
    }  # fmt: skip


def _about(row: Mapping[str, Any]) -> str:
    """The test, and the number of differences that it was corrected over."""
    corrected = f"corrected over {row['tests']} differences"
    if row["test"] == "mcnemar":
        counts = f"only {row['a']} right on {row['only_a']}, only {row['b']} on {row['only_b']}"
        return f"McNemar's test: {counts}; {corrected}"
    return f"sign-flip test; {corrected}"


def _kinds(results: Mapping[str, Any], split: str) -> dict[str, Any] | None:
    """Accuracy by kind of question, in both readings where they differ; None for fewer than two
    kinds.
    """
    of_method = {m: splits[split] for m, splits in results["kinds"].items() if split in splits}
    kinds = sorted({k for of_kind in of_method.values() for k in of_kind})
    if len(kinds) < 2:
        return None
    fact = results["metrics"]["accuracy"]
    first = next(iter(of_method.values()))
    return {
        "heads": [{"name": k, "n": first[k]["n"] if k in first else NONE} for k in kinds],
        "rows": [
            {"name": m, "cells": [_kind_cell(of_kind.get(k), fact) for k in kinds]}
            for m, of_kind in of_method.items()
        ],
    }


def _kind_cell(row: Mapping[str, Any] | None, fact: Mapping[str, Any]) -> dict[str, str] | None:
    cell = _mean_cell(row, fact)
    if row and cell and "stated" in row and (stated := show(row["stated"], fact)) != cell["mean"]:
        cell["interval"] += f", stated {stated}"
    return cell
