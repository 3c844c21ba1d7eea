"""Sections on what was learned: round by round, by control token, by bin, by optimiser step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from rationalize.evaluation.tables import heading, show_interval, show_p
from rationalize.report.charts import (
    Point,
    Scale,
    Series,
    charts_by_step,
    colours_of,
    line_chart,
    scale_of,
    shades,
    stacked_bars,
)
from rationalize.report.hacking import anchor

Rows = Sequence[Mapping[str, Any]]
TRAINING_KEYS = (
    "loss", "nll", "kl", "entropy", "margin", "pair_accuracy", "policy_loss", "value_loss",
    "approx_kl", "clipfrac", "grad_norm", "learning_rate",
)  # fmt: skip
_POSITIVE = Scale(low=0.0)
TRAINING_SCALES = {
    **dict.fromkeys(("pair_accuracy", "clipfrac"), Scale(0.0, 1.0, percent=True)),
    **dict.fromkeys(("nll", "kl", "entropy", "value_loss", "grad_norm"), _POSITIVE),
    "learning_rate": _POSITIVE,
}


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
        fact = facts.get(reward, {})
        svg = line_chart(
            series, label=f"{reward} by round", x_label="round", scale=scale_of(fact),
            x_ticks=ticks if len(ticks) <= 12 else None,
        )  # fmt: skip
        title = heading(reward, fact)
        charts.append({"title": title, "svg": svg, "id": anchor("rounds", reward)})
    return {"charts": charts, "legend": colours}


def tokens(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What control tokens do: obedience by bin, and how well they rank stored attempts."""
    facts = results["metrics"]
    obeyed = obedience(results["obedience"], facts) or {"charts": [], "gaps": [], "legend": {}}
    ranked = token_auc(results.get("token_auc") or [], facts)
    return {**obeyed, "token_auc": ranked} if obeyed["charts"] or ranked else None


def bins(results: Mapping[str, Any]) -> dict[str, Any] | None:
    """How full the pool's bins are, and what the steps drew from them."""
    filled, rows = occupancy(results["bins"], results["metrics"]), drawn(results.get("drawn") or [])
    return {"charts": (filled or {}).get("charts"), "drawn": rows} if filled or rows else None


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
            chart = _obedience_chart(reward, of_reward, shade, scale_of(facts.get(reward, {})))
            charts.append({"title": _title(who, reward, groups), "svg": chart})
            gaps += [_gap_row(who, r, facts) for r in of_reward if "gap" in r]
    return {"charts": charts, "gaps": gaps, "legend": {f"round {r:g}": shade[r] for r in every}}


def token_auc(rows: Rows, facts: Mapping[str, Any]) -> list[list[str]]:
    """A table row per policy, round and reward: how well its tokens rank stored attempts."""

    def share(found: Mapping[str, Any] | None) -> str:
        return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else "–"

    groups = _grouped(rows, ("method", "split", "seed", "run"))
    return [
        [
            who, f"{r['round']:g}", heading(r["reward"], {}), share(r.get("auc")),
            share(r.get("within")), f"{r['attempts']} at {r['questions']}",
            "yes" if r.get("auc") and r["auc"]["low"] > 0.5 else "not shown",
        ]
        for who, of_policy in groups.items()
        for reward in _ordered({r["reward"] for r in of_policy}, facts)
        for r in of_policy
        if r["reward"] == reward
    ]  # fmt: skip


def drawn(rows: Rows) -> list[list[str]]:
    """A table row per policy and round: what its steps learned from."""
    groups = _grouped(rows, ("method", "seed", "run"))
    return [
        [
            who, f"{r['round']:g}", str(r["rows"]), str(r["attempts"]), f"{r['wrong']:.1%}",
            f"{r['all_best']:.1%}",
        ]
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
    quantities = [(key, key, heading(key, {})) for key in TRAINING_KEYS]
    return charts_by_step(stages, quantities, "step", TRAINING_SCALES)


def _obedience_chart(
    reward: str, rows: Rows, shade: Mapping[float, str], scale: Scale
) -> Markup:  # fmt: skip
    last = max(r["round"] for r in rows)
    # `bins` of earlier versions counted the filled bins only
    bins = max(max(r["bin"] + 1, r.get("bins", 0)) for r in rows)
    names = {0.0: "best", float(bins - 1): "worst"}
    ticks = {float(b): names.get(float(b), str(b)) for b in range(bins)}
    series = []
    for round in sorted({r["round"] for r in rows}):
        by_bin = sorted((r for r in rows if r["round"] == round), key=lambda r: r["bin"])
        points = [_point(r, "bin") for r in by_bin]
        if round != last:  # intervals of the last round only: several sets of bars overlap
            points = [Point(p.x, p.y) for p in points]
        series.append(Series(str(round), points, shade[round], faint=round != last))
    return line_chart(
        series, label=f"{reward} reached under each token", x_label="token asked for",
        y_label="reached", x_ticks=ticks, scale=scale,
    )  # fmt: skip


def _gap_row(who: str, row: Mapping[str, Any], facts: Mapping[str, Any]) -> list[str]:
    gap, fact = row["gap"], facts.get(row["reward"], {})
    obeyed = gap["low"] > 0 and gap["p"] < 0.05
    return [
        who, f"{row['round']:g}", heading(row["reward"], {}), show_interval(gap, fact, sign=True),
        show_p(gap["p"]), "yes" if obeyed else "not shown",
    ]  # fmt: skip


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
    return f"{heading(reward, {})} ({who})" if len(groups) > 1 else heading(reward, {})
