"""Results as rows of text, for the terminal and the report."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from rationalize.evaluation.differences import is_significant
from rationalize.evaluation.leakage import GROUPS, shown
from rationalize.text import one_line

NONE = "–"
LEGEND = "95 % interval, p/Holm's p[/over seeds] (* without 0, Holm's p < .05)"
"""Legend of the cells of `difference_table`."""


def splits_of(results: Mapping[str, Any]) -> list[str]:
    """Every split of any method: test first, then unseen, development and the rest."""
    splits = {split for entry in results["methods"].values() for split in entry["splits"]}
    order = {"test": 0, "unseen": 1, "dev": 2}
    return sorted(splits, key=lambda s: (order.get(s, 3), s))


def metrics_of_split(results: Mapping[str, Any], split: str) -> list[str]:
    """The metrics that any method has on a split, in the order of `results["metrics"]`."""
    measured = {m for cell in cells_of(results, split).values() for m in cell["metrics"]}
    return [name for name in results["metrics"] if name in measured]


def show(value: float | None, fact: Mapping[str, Any], *, sign: bool = False) -> str:
    """A number with the decimals of its metric: one in per cent, else as `decimals` says."""
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
    """Decimals of a metric: 1 without an upper bound up to 20, 2 without a lower bound, else 3."""
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
    """Comparisons as rows and the metrics that any has as columns; `LEGEND` explains a cell. Empty
    without any comparison.
    """
    facts, pairs = results["metrics"], differences(results, split)
    names = [m for m in metrics_of_split(results, split) if any(m in of for of in pairs.values())]
    rows = [["", *(heading(m, facts[m]) for m in names)]]
    for (a, b), of in pairs.items():
        cells = [_difference(of[m], facts[m]) if m in of else NONE for m in names]
        rows.append([one_line(f"{a} − {b}"), *cells])
    return rows if len(rows) > 1 else []


def leaderboard_tables(results: Mapping[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Accuracy by set, and every metric over the sets, as captions and rows; best accuracy first.

    Methods are ordered by how many sets they have, then by accuracy; a missing set shows as `NONE`.
    """
    facts, splits = results["metrics"], splits_of(results)
    over: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in results["leaderboard"]:
        over.setdefault(row["method"], {})[row["metric"]] = row

    def rank(method: str) -> tuple[float, float]:
        accuracy = over[method]["accuracy"]
        return -accuracy["sets"], -accuracy["mean"]

    order = sorted(over, key=rank)
    # accuracy by set, in both readings where they differ
    cells = {split: cells_of(results, split) for split in splits}

    def by_set(metric: str) -> list[list[str]]:
        rows = [["", "sets", "n", "all sets", *map(one_line, splits)]]
        for method in order:
            mean = over[method][metric]
            numbers = [
                show_interval(cells[s][method]["metrics"][metric], facts[metric])
                if method in cells[s] else NONE
                for s in splits
            ]  # fmt: skip
            lead = [one_line(method), str(mean["sets"]), str(mean["n"])]
            rows.append([*lead, show_interval(mean, facts[metric]), *numbers])
        return rows

    strict = by_set("accuracy")
    stated = by_set("stated_accuracy") if "stated_accuracy" in facts else strict
    # every metric over the sets
    names = [m for m in facts if any(m in rows for rows in over.values())]
    by_metric = [["", "sets", "n", *(heading(m, facts[m]) for m in names)]]
    for method in order:
        rows = over[method]
        by_metric.append([
            one_line(method), str(rows["accuracy"]["sets"]), str(rows["accuracy"]["n"]),
            *(show_interval(rows[m], facts[m]) if m in rows else NONE for m in names),
        ])  # fmt: skip
    return [
        ("accuracy % by set", strict),
        *([("stated accuracy % by set", stated)] if stated != strict else []),
        ("every metric, mean of the sets' means", by_metric),
    ]


def format_leaderboard(results: Mapping[str, Any], width: int | None = None) -> str:
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


def format_table(results: Mapping[str, Any], split: str, width: int | None = None) -> str:
    """All tables of a split as plain text; columns beyond `width` go to a further block."""
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
    """Methods by the groups of leakage-adjusted simulatability, the header first; empty without."""
    rows = [["", "not naming the answer", "naming it", "mean of both"]]
    for method, cell in cells_of(results, split).items():
        if adjusted := cell.get("leakage_adjusted"):
            rows.append([one_line(method), *(shown(adjusted[g]) for g in GROUPS)])
    return rows if len(rows) > 1 else []


def _difference(row: Mapping[str, Any], fact: Mapping[str, Any]) -> str:
    star = "*" if is_significant(row) else ""
    tested = f"{show_p(row['p'])}/{show_p(row['p_holm'])}"
    if row.get("p_seeds") is not None:
        tested += f"/{show_p(row['p_seeds'])}"
    return f"{show_interval(row, fact, sign=True)} {tested}{star}"


def cells_of(results: Mapping[str, Any], split: str) -> dict[str, Mapping[str, Any]]:
    """The entry of each method on a split."""
    methods = results["methods"].items()
    return {name: entry["splits"][split] for name, entry in methods if split in entry["splits"]}


def aligned(rows: Sequence[Sequence[str]], fixed: int, width: int | None = None) -> str:
    """Rows as text with padded columns, in blocks of at most `width` characters (None: the
    terminal's, 160 without one); the first `fixed` columns are repeated in every block.
    """
    if width is None:
        width = shutil.get_terminal_size((160, 24)).columns
    # which columns go to which block
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lead = sum(widths[:fixed]) + 2 * fixed
    blocks: list[list[int]] = [[]]
    for i in range(fixed, len(widths)):
        used = lead + sum(widths[j] + 2 for j in blocks[-1])
        if blocks[-1] and used + widths[i] > width:
            blocks.append([])
        blocks[-1].append(i)
    # the text of each block, with a line below its header
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
