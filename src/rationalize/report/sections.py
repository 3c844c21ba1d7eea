"""The data of each section of the page, as plain values for the template.

A section without data is None; the template then says in a line why it is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rationalize.evaluation.diagnostics import reward_correlations
from rationalize.evaluation.differences import is_significant
from rationalize.evaluation.metrics import LENGTH, Metric, applicable, score_column
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
from rationalize.records import Attempt, Question
from rationalize.report.charts import (
    Point,
    Series,
    charts_by_step,
    colours_of,
    line_chart,
    scatter_chart,
    shades,
    stacked_bars,
)
from rationalize.report.hacking import anchor

Rows = Sequence[Mapping[str, Any]]
TRAINING_KEYS = (
    "loss", "nll", "kl", "entropy", "margin", "pair_accuracy", "policy_loss", "value_loss",
    "approx_kl", "clipfrac", "grad_norm", "learning_rate",
)  # fmt: skip
SCATTER_POINTS = 150
"""Most dots of a method in a scatter chart."""


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


def summary(results: Mapping[str, Any], split: str) -> list[str]:
    """The first comparison's accuracy and NRG in a sentence each."""
    sentences = []
    for (a, b), of in list(differences(results, split).items())[:1]:
        for metric in ("accuracy", "nrg"):
            if metric in of:
                row, fact = of[metric], results["metrics"][metric]
                verdict = "significant" if is_significant(row) else "not significant"
                sentences.append(
                    f"{a} − {b} on {row['n']} {split} questions, {heading(metric, fact)}: "
                    f"{show_interval(row, fact, sign=True)}, {_p_text(row)} ({verdict})."
                )
    return sentences


def rounds(rows: Rows, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """A chart per reward: its mean after each round, with a line per method and split."""
    if not rows:
        return None
    lines = _grouped(sorted(rows, key=lambda r: r["round"]), ("method", "split", "seed", "run"))
    colours = colours_of(lines)
    ticks = {float(r["round"]): f"{r['round']:g}" for r in rows}
    charts = []
    for reward in _ordered({r["reward"] for r in rows}, facts):
        points = {
            name: [_point(r, "round") for r in line if r["reward"] == reward]
            for name, line in lines.items()
        }
        series = [Series(n, line, colours[n], band=True) for n, line in points.items() if line]
        svg = line_chart(
            series, label=f"{reward} by round", x_label="round", y_label=_name(reward),
            x_ticks=ticks if len(ticks) <= 12 else None,
        )  # fmt: skip
        charts.append({"title": _name(reward), "svg": svg, "id": anchor("rounds", reward)})
    return {"charts": charts, "legend": colours}


def obedience(rows: Rows, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """A chart per method and reward: the mean under each bin's token, with a line per round."""
    if not rows:
        return None
    every = sorted({r["round"] for r in rows})
    shade = dict(zip(every, shades(len(every)), strict=True))
    charts, gaps = [], []
    groups = _grouped(rows, ("method", "split", "seed", "run"))
    for who, of_policy in groups.items():
        for reward in _ordered({r["reward"] for r in of_policy}, facts):
            of_reward = [r for r in of_policy if r["reward"] == reward]
            title = _title(who, reward, groups)
            charts.append(_obedience_chart(title, reward, of_reward, shade))
            gaps += [_gap_row(who, r, facts) for r in of_reward if "gap" in r]
    return {"charts": charts, "gaps": gaps, "legend": {f"round {r:g}": shade[r] for r in every}}


def token_auc(rows: Rows, facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A table row per policy, round and reward: how well its tokens rank stored attempts."""

    def share(found: Mapping[str, Any] | None) -> str:
        return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else "–"

    groups = _grouped(rows, ("method", "split", "seed", "run"))
    return [
        {
            "who": who, "round": f"{r['round']:g}", "reward": _name(r["reward"]),
            "auc": share(r.get("auc")), "within": share(r.get("within")),
            "n": f"{r['attempts']} at {r['questions']}",
            "told_apart": bool(r.get("auc")) and r["auc"]["low"] > 0.5,
        }
        for who, of_policy in groups.items()
        for reward in _ordered({r["reward"] for r in of_policy}, facts)
        for r in of_policy
        if r["reward"] == reward
    ]  # fmt: skip


def drawn(rows: Rows) -> list[dict[str, str]]:
    """A table row per policy and round: what its steps learned from."""
    groups = _grouped(rows, ("method", "seed", "run"))
    return [
        {
            "who": who, "round": f"{r['round']:g}", "rows": str(r["rows"]),
            "attempts": str(r["attempts"]), "wrong": f"{r['wrong']:.1%}",
            "all_best": f"{r['all_best']:.1%}",
        }
        for who, of_policy in groups.items()
        for r in of_policy
    ]  # fmt: skip


def occupancy(rows: Rows, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """A chart per method and reward: the pool's attempts in each bin, with a bar per round."""
    if not rows:
        return None
    charts = []
    groups = _grouped(rows, ("method", "seed", "run"))
    for who, pools in groups.items():
        for reward in _ordered({r["reward"] for r in pools}, facts):
            bars = [(f"round {r['round']:g}", r["counts"]) for r in pools if r["reward"] == reward]
            chart = stacked_bars(bars[-12:], label=f"{reward}: attempts per bin")
            charts.append({"title": _title(who, reward, groups), "svg": chart})
    return {"charts": charts}


def training(rows: Rows) -> dict[str, Any] | None:
    """A chart per logged quantity, with a line per stage."""
    if not rows:
        return None
    stages = _grouped(rows, ("stage", "seed", "run"))
    return charts_by_step(stages, [(key, key, _name(key)) for key in TRAINING_KEYS], "step")


def correlations(
    attempts: Mapping[str, Sequence[Attempt]], questions: Mapping[str, Question],
    metrics: Sequence[Metric],
) -> list[dict[str, Any]]:  # fmt: skip
    """Per method, the rank correlations between accuracy, the scores and length."""
    tables = []
    for method, of_method in attempts.items():
        matrix = reward_correlations(of_method, questions, metrics)
        if len(matrix.names) > 2:
            rows = [[_shaded(r) for r in row] for row in matrix.r]
            names = [_name(n) for n in matrix.names]
            tables.append({"method": method, "names": names, "rows": rows, "n": matrix.n})
    return tables


def against_length(
    attempts: Mapping[str, Sequence[Attempt]], questions: Mapping[str, Question],
    metrics: Sequence[Metric], pair: Sequence[str],
) -> dict[str, Any] | None:  # fmt: skip
    """A chart per reward: score against length of the attempts of the two methods compared."""
    colours = colours_of(m for m in reversed(pair) if m in attempts)
    charts = []
    for metric in metrics:
        if metric.role != "reward":
            continue
        series = [
            Series(name, _cloud(metric, attempts[name], questions), colours[name])
            for name in colours
            if metric in applicable(metrics, attempts[name])
        ]
        series = [s for s in series if s.points]
        if series:
            name = _name(metric.name)
            label = f"{metric.name} against length"
            chart = scatter_chart(series, label=label, x_label="words", y_label=name)
            charts.append({"title": name, "svg": chart})
    return {"charts": charts, "legend": colours} if charts else None


def _cloud(
    metric: Metric, attempts: Sequence[Attempt], questions: Mapping[str, Question]
) -> list[Point]:
    # every n-th attempt, so that a cloud has at most SCATTER_POINTS dots
    some = attempts[:: max(1, -(-len(attempts) // SCATTER_POINTS))]
    x, y = score_column(LENGTH, some, questions), score_column(metric, some, questions)
    defined = np.isfinite(y)
    return [Point(float(a), float(b)) for a, b in zip(x[defined], y[defined], strict=True)]


def _obedience_chart(
    title: str, reward: str, rows: Rows, shade: Mapping[float, str]
) -> dict[str, Any]:
    last = max(r["round"] for r in rows)
    bins = max(r.get("bins", r["bin"] + 1) for r in rows)
    names = {0.0: "best", float(bins - 1): "worst"}
    ticks = {float(b): names.get(float(b), str(b)) for b in range(bins)}
    series = []
    for round in sorted({r["round"] for r in rows}):
        by_bin = sorted((r for r in rows if r["round"] == round), key=lambda r: r["bin"])
        points = [_point(r, "bin") for r in by_bin]
        if round != last:  # intervals of the last round only: several sets of bars overlap
            points = [Point(p.x, p.y) for p in points]
        series.append(Series(str(round), points, shade[round], faint=round != last))
    chart = line_chart(
        series, label=f"{reward} reached under each token", x_label="token asked for",
        y_label=f"{_name(reward)} reached", x_ticks=ticks,
    )  # fmt: skip
    return {"title": title, "svg": chart}


def _gap_row(who: str, row: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    gap, fact = row["gap"], facts.get(row["reward"], {})
    return {
        "who": who, "round": f"{row['round']:g}", "reward": _name(row["reward"]),
        "gap": show_interval(gap, fact, sign=True), "p": show_p(gap["p"]),
        "obeyed": gap["low"] > 0 and gap["p"] < 0.05,
    }  # fmt: skip


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
        "mean": mean, "interval": interval, "p": _p_text(row), "about": _about(row),
        "marked": marked,
    }  # fmt: skip


def _p_text(row: Mapping[str, Any]) -> str:
    """`p .012, corrected .036`"""
    return f"p {show_p(row['p'])}, corrected {show_p(row['p_holm'])}"


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


def _shaded(r: float | None) -> dict[str, str]:
    """A correlation and its colour: blue for positive, orange for negative."""
    if r is None:
        return {"text": NONE, "colour": "transparent"}
    hue = "0 98 168" if r > 0 else "200 80 10"
    colour = f"rgb({hue} / {min(0.45, abs(r) / 2):.2f})"
    return {"text": f"{r:+.2f}".replace("-", "−"), "colour": colour}


def _point(row: Mapping[str, Any], x: str) -> Point:
    return Point(float(row[x]), row["mean"], row.get("low"), row.get("high"))


def _grouped(rows: Rows, keys: Sequence[str]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by a label such as `MaRio · seed 1`, of the keys that differ, or else of the first."""
    differing = [k for k in keys if len({r.get(k) for r in rows}) > 1] or keys[:1]
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        parts = [
            f"seed {row[k]}" if k == "seed" else str(row[k])
            for k in differing
            if row.get(k) is not None
        ]
        groups.setdefault(" · ".join(parts), []).append(row)
    return groups


def _ordered(names: Iterable[str], facts: Mapping[str, Any]) -> list[str]:
    """Names in the order of the headline table, unknown ones last."""
    order = {name: i for i, name in enumerate(facts)}
    return sorted(names, key=lambda n: (order.get(n, len(order)), n))


def _title(who: str, reward: str, groups: Mapping[str, Any]) -> str:
    return f"{_name(reward)} ({who})" if len(groups) > 1 else _name(reward)


def _name(name: str) -> str:
    return "NRG" if name == "nrg" else name.replace("_", " ")
