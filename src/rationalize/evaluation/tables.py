"""Results as rows of text, for the terminal and the report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rationalize.evaluation.leakage import GROUPS, shown
from rationalize.evaluation.results import is_significant
from rationalize.text import one_line

NONE = "–"
LEGEND = "95 % interval, p/Holm's p (* interval without 0 and Holm's p < .05)"
"""How a cell of `difference_table` is read."""


def splits_of(results: Mapping[str, Any]) -> list[str]:
    """Every split of any method: test first, then unseen, development and the rest."""
    found = {split for entry in results["methods"].values() for split in entry["splits"]}
    order = {"test": 0, "unseen": 1, "dev": 2}
    return sorted(found, key=lambda s: (order.get(s, 3), s))


def metrics_of_split(results: Mapping[str, Any], split: str) -> list[str]:
    """The metrics that any method has on a split, in the order of `results["metrics"]`."""
    found = {m for cell in cells_of(results, split).values() for m in cell["metrics"]}
    return [name for name in results["metrics"] if name in found]


def show(value: float | None, fact: Mapping[str, Any], *, sign: bool = False) -> str:
    """A number as the metric is read: one decimal in per cent and on large scales, three on small
    ones.
    """
    if value is None or not math.isfinite(value):
        return NONE
    if fact.get("percent"):
        value, digits = 100 * value, 1
    else:
        digits = decimals(fact)
    value = round(value, digits) + 0.0  # no negative zero
    text = f"{value:+.{digits}f}" if sign and value else f"{value:.{digits}f}"
    return text.replace("-", "−")


def decimals(fact: Mapping[str, Any]) -> int:
    """Digits after the point that suit a metric's range."""
    low, high = fact.get("low", 0.0), fact.get("high", 1.0)
    if high is None or high > 20:
        return 1
    return 2 if low is None else 3


def show_interval(row: Mapping[str, Any], fact: Mapping[str, Any], *, sign: bool = False) -> str:
    """`62.5 [54.2, 70.8]`"""
    mean, low, high = (show(row[k], fact, sign=sign) for k in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def show_p(p: float) -> str:
    return "<.001" if p < 0.001 else f"{p:.3f}".lstrip("0")


def heading(name: str, fact: Mapping[str, Any]) -> str:
    words = "NRG" if name == "nrg" else one_line(name).replace("_", " ")
    return f"{words} %" if fact.get("percent") else words


def table(results: Mapping[str, Any], split: str) -> list[list[str]]:
    """Methods as rows and metrics as columns, the header first; a cell is `mean [low, high]`."""
    names = metrics_of_split(results, split)
    facts = results["metrics"]
    rows = [["", "n", *(heading(m, facts[m]) for m in names)]]
    for method, cell in cells_of(results, split).items():
        of = cell["metrics"]
        numbers = [show_interval(of[m], facts[m]) if m in of else NONE for m in names]
        rows.append([one_line(method), str(of["accuracy"]["n"]), *numbers])
    return rows


def difference_table(results: Mapping[str, Any], split: str) -> list[list[str]]:
    """Comparisons as rows, metrics as columns; a cell is read as `LEGEND` says."""
    names = metrics_of_split(results, split)
    facts = results["metrics"]
    rows = [["", *(heading(m, facts[m]) for m in names)]]
    for (a, b), found in differences(results, split).items():
        cells = [_difference(found[m], facts[m]) if m in found else NONE for m in names]
        rows.append([one_line(f"{a} − {b}"), *cells])
    return rows if len(rows) > 1 else []


def leaderboard_tables(results: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Accuracy by set, and every metric over the sets, as captions and rows; best accuracy first.

    A set that a method lacks is marked, and a method that lacks one stands below those that have
    all.
    """
    facts, splits = results["metrics"], splits_of(results)
    over: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in results["leaderboard"]:
        over.setdefault(row["method"], {})[row["metric"]] = row

    def rank(method: str) -> tuple[float, float]:
        own = over[method]["accuracy"]
        return -own["sets"], -own["mean"]

    order = sorted(over, key=rank)
    cells = {split: cells_of(results, split) for split in splits}
    by_set = [["", "sets", "n", "all sets", *map(one_line, splits)]]
    for method in order:
        own = over[method]["accuracy"]
        numbers = [
            show_interval(cells[s][method]["metrics"]["accuracy"], facts["accuracy"])
            if method in cells[s] else NONE
            for s in splits
        ]  # fmt: skip
        all_sets = show_interval(own, facts["accuracy"])
        by_set.append([one_line(method), str(own["sets"]), str(own["n"]), all_sets, *numbers])
    names = [m for m in facts if any(m in own for own in over.values())]
    by_metric = [["", "sets", "n", *(heading(m, facts[m]) for m in names)]]
    for method in order:
        own_rows = over[method]
        by_metric.append([
            one_line(method), str(own_rows["accuracy"]["sets"]), str(own_rows["accuracy"]["n"]),
            *(show_interval(own_rows[m], facts[m]) if m in own_rows else NONE for m in names),
        ])  # fmt: skip
    return [("accuracy % by set", by_set), ("every metric, mean of the sets' means", by_metric)]


def format_leaderboard(results: Mapping[str, Any], width: int = 160) -> str:
    """Both tables as plain text."""
    return "\n\n".join(
        f"{caption}: mean and 95 % interval\n{aligned(rows, 3, width)}"
        for caption, rows in leaderboard_tables(results)
    )


def differences(results: Mapping[str, Any], split: str) -> dict[tuple[str, str], dict[str, Any]]:
    """The comparisons of a split: pair -> metric -> row."""
    pairs: dict[tuple[str, str], dict[str, Any]] = {}
    for row in results["comparisons"]:
        if row["split"] == split:
            pairs.setdefault((row["a"], row["b"]), {})[row["metric"]] = row
    return pairs


def format_table(results: Mapping[str, Any], split: str, width: int = 160) -> str:
    """Both tables as plain text; columns that don't fit into `width` go to a further block."""
    title = f"{one_line(split)}: mean and 95 % interval over questions"
    parts = [title, aligned(table(results, split), 2, width)]
    paired = difference_table(results, split)
    if paired:
        parts += ["", f"paired differences: {LEGEND}", aligned(paired, 1, width)]
    adjusted = leakage_rows(results, split)
    if adjusted:
        parts += ["", "simulatability, adjusted for leaks", aligned(adjusted, 1, width)]
    return "\n".join(parts)


def leakage_rows(results: Mapping[str, Any], split: str) -> list[list[str]]:
    """Methods by the groups of leakage-adjusted simulatability, the header first; none without."""
    rows = [["", "not naming the answer", "naming it", "mean of both"]]
    for method, cell in cells_of(results, split).items():
        if found := cell.get("leakage_adjusted"):
            rows.append([one_line(method), *(shown(found[g]) for g in GROUPS)])
    return rows if len(rows) > 1 else []


def _difference(row: Mapping[str, Any], fact: Mapping[str, Any]) -> str:
    star = "*" if is_significant(row) else ""
    tested = f"{show_p(row['p'])}/{show_p(row['p_holm'])}"
    return f"{show_interval(row, fact, sign=True)} {tested}{star}"


def cells_of(results: Mapping[str, Any], split: str) -> dict[str, Mapping[str, Any]]:
    """What each method reached on a split."""
    methods = results["methods"].items()
    return {name: entry["splits"][split] for name, entry in methods if split in entry["splits"]}


def aligned(rows: Sequence[Sequence[str]], fixed: int, width: int) -> str:
    """Columns padded; the first `fixed` are repeated in every block."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lead = sum(widths[:fixed]) + 2 * fixed
    blocks: list[list[int]] = [[]]
    for i in range(fixed, len(widths)):
        used = lead + sum(widths[j] + 2 for j in blocks[-1])
        if blocks[-1] and used + widths[i] > width:
            blocks.append([])
        blocks[-1].append(i)
    texts = []
    for block in blocks:
        columns = [*range(fixed), *block]
        lines = []
        for row in rows:
            cells = [
                row[i].ljust(widths[i]) if i == 0 else row[i].rjust(widths[i]) for i in columns
            ]
            lines.append("  ".join(cells).rstrip())
        lines.insert(1, "-" * max(map(len, lines)))
        texts.append("\n".join(lines))
    return "\n\n".join(texts)
