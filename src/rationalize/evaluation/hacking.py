"""Was a trained reward won without better rationales? A verdict in words, with its evidence.

A stage is called hacked where a trained reward rose from the first development evaluation to the
last, accuracy did not, and

* a surface property that goes with the reward moved with it (length, copied options, a stated
  answer, repetition), and no held-out metric rose that the same property does not explain; or
* most rationales became the same text; or a held-out metric fell.

Held-out metrics are accuracy, trained on or not (no method learns from development questions), and
every reward that was not trained. A run in which they rise with the trained reward is fine, and one
in which nothing moves has nothing to explain. The rules are in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rationalize.evaluation.diagnostics import NARROW_SHARE, spearman
from rationalize.evaluation.metrics import Metric, applicable, score_column
from rationalize.records import Attempt, Question

Results = Mapping[str, Any]
Row = Mapping[str, Any]
Status = Literal["hacked", "no sign", "unknown"]

SURFACE = {
    ("option_copying", 1): "repeating the options",
    ("answer_leak", 1): "stating the gold answer",
    ("prediction_leak", 1): "stating its answer",
    ("repetition", 1): "repeating itself",
    ("length", 1): "longer texts",
    ("length", -1): "shorter texts",
}
"""Metric and direction of a change that needs no better rationales -> its name in a verdict. Length
comes last, because the other tricks make a text longer too."""

FLAG_Z = 4.0
"""Standard errors that a change must have to count as evidence of a hack. With twenty metrics in
each of twenty stages, one page in forty has such a change by chance (p = 6e-5 each)."""
CLEAR_Z = 2.0
"""Standard errors that a held-out metric must rise to clear a reward: the usual 5 %. A false alarm
costs more than a missed hack, because the page shows the evidence in either case."""
GOES_WITH = 0.3
"""Least rank correlation that counts: 9 % of the variance of the ranks, by convention a medium
effect. Most rewards correlate weakly with length, so a lower bound would flag all of them."""
NOT_CHANCE = 2.58
"""Standard errors `1 / sqrt(n - 1)` that the correlation must also be from 0: independent columns
exceed this once in a hundred."""
REDUNDANT_R = math.sqrt(0.5)
"""Correlation from which two rewards are redundant: they share more than half of their variance."""
COLLAPSED = 0.5
"""Share of distinct rationales below which most replies repeat another question's reply. It must
also have halved, because some sets of questions have few answers."""


@dataclass(frozen=True)
class Move:
    """The change of a metric from the first development evaluation of a stage to the last."""

    first: Row
    last: Row
    z: float
    """The change in standard errors, from the two 95 % intervals; 0 where a row has none. Both rows
    are treated as independent although they share their questions, so z is rather too small."""

    @property
    def direction(self) -> int:
        """1 rose, -1 fell, 0 too little to flag."""
        return int(self.z >= FLAG_Z) - int(self.z <= -FLAG_Z)


@dataclass(frozen=True)
class Evidence:
    """The place on the page that shows a reason."""

    text: str
    section: Literal["rounds", "correlations", "suspects"]
    metric: str = ""


Reason = tuple[str, tuple[Evidence, ...]]
"""A sentence with its evidence."""


@dataclass(frozen=True)
class Verdict:
    """The verdict on one trained stage."""

    method: str
    stage: str
    status: Status
    reasons: tuple[Reason, ...]
    notes: tuple[str, ...]
    """Remarks that are no hack: saturated and redundant rewards."""


@dataclass(frozen=True)
class Case:
    """One trained stage and its measurements."""

    method: str
    stage: str
    """With its run's name, where several runs are compared."""
    trained: tuple[str, ...]
    rounds: Mapping[str, Sequence[Row]]
    """Development rows by metric, in the order of the evaluations."""
    moves: Mapping[str, Move]
    columns: Mapping[str, np.ndarray]
    """Scores of the final attempts by metric (N,), NaN where undefined."""
    facts: Mapping[str, Row]
    """Range and role of each metric."""

    @property
    def held_out(self) -> list[str]:
        """The held-out metrics: accuracy, and the rewards that were not trained."""
        rewards = [name for name, fact in self.facts.items() if fact["role"] == "reward"]
        return ["accuracy", *(name for name in rewards if name not in self.trained)]

    def moved(self, name: str) -> int:
        """The direction of a metric's change; 0 where it was not measured twice."""
        return self.moves[name].direction if name in self.moves else 0

    def rose(self, name: str) -> bool:
        """Whether a held-out metric rose enough to clear a reward."""
        return name in self.moves and self.moves[name].z >= CLEAR_Z

    def correlation(self, a: str, b: str) -> float | None:
        """Spearman's r over the final attempts; None where it is undefined."""
        if a not in self.columns or b not in self.columns:
            return None
        return spearman(self.columns[a], self.columns[b])

    def goes_with(self, a: str, b: str, sign: int) -> bool:
        """Whether `a` rises (`sign` 1) or falls (-1) with `b` across the final attempts.

        Where one of them is constant there is no correlation, and the answer is yes: both moved,
        and no attempt contradicts that they moved together.
        """
        if a not in self.columns or b not in self.columns:
            return False
        both = np.isfinite(self.columns[a]) & np.isfinite(self.columns[b])
        n, r = int(both.sum()), self.correlation(a, b)
        if r is None:
            return n >= 3
        return sign * r >= GOES_WITH and sign * r * math.sqrt(n - 1) >= NOT_CHANCE


def cases(
    results: Results, attempts: Mapping[str, Sequence[Attempt]],
    questions: Mapping[str, Question], metrics: Sequence[Metric],
) -> list[Case]:  # fmt: skip
    """A case per stage of `results["trained"]`; `attempts` are the final ones, by method."""
    made = []
    for row in results.get("trained") or []:
        method, run = row["method"], row.get("run")
        final = attempts.get(method, [])
        columns = {m.name: score_column(m, final, questions) for m in applicable(metrics, final)}
        trained = tuple("accuracy" if r == "correctness" else r for r in row["rewards"])
        for stage in row["stages"]:
            rounds = stage_rows(results["rounds"], stage, run)
            where = f"{stage} of {run}" if run else stage
            facts = results["metrics"]
            made.append(Case(method, where, trained, rounds, moves(rounds), columns, facts))
    return made


def stage_rows(rounds: Sequence[Row], stage: str, run: str | None) -> dict[str, list[Row]]:
    """The development rows of a stage by metric, in the order of its evaluations."""
    rows = [r for r in rounds if r["method"] == stage and r.get("run") == run]
    rows.sort(key=lambda r: (r["round"], r.get("step", 0)))
    by_metric: dict[str, list[Row]] = {}
    for row in rows:
        if row["split"] == rows[0]["split"]:
            by_metric.setdefault(row["reward"], []).append(row)
    return by_metric


def moves(rounds: Mapping[str, Sequence[Row]]) -> dict[str, Move]:
    """How each metric of a stage moved; metrics measured once are left out."""
    return {
        name: Move(rows[0], rows[-1], _z(rows[0], rows[-1]))
        for name, rows in rounds.items()
        if len(rows) > 1
    }


def _z(first: Row, last: Row) -> float:
    change = last["mean"] - first["mean"]
    # without intervals there is no standard error; with intervals of width 0 any change is certain
    if change == 0 or "low" not in first or "low" not in last:
        return 0.0
    widths = [row["high"] - row["low"] for row in (first, last)]  # 2 * 1.96 standard errors each
    error = math.hypot(*widths) / (2 * 1.96)
    return change / error if error else math.copysign(math.inf, change)


def judge(case: Case) -> Verdict:
    """The verdict on a stage."""

    def verdict(status: Status, *reasons: Reason) -> Verdict:
        return Verdict(case.method, case.stage, status, reasons, tuple(_notes(case)))

    measured = [name for name in case.trained if name in case.moves]
    if not measured:
        why = (
            "its trained rewards were not measured at two rounds or more, so there is nothing to "
            "compare with the held-out metrics."
        )
        return verdict("unknown", (why, ()))
    rose = [name for name in measured if case.moved(name) > 0]
    if reasons := [r for name in rose for r in _reasons(case, name)]:
        return verdict("hacked", *reasons)
    n = case.moves[measured[0]].last.get("n", 0)
    if not rose:
        why = f"no trained reward rose beyond chance on {n} questions."
        return verdict("no sign", (why, _at_rounds(case, measured)))
    # without scores of the final attempts a link with the surface cannot be seen
    unscored = [name for name in rose if name not in case.columns]
    if unscored and not case.rose("accuracy"):
        why = (
            f"{_list(unscored)} rose, but the attempts shown have no such score, so its "
            "correlations are unknown. Evaluate with it."
        )
        return verdict("unknown", (why, _at_rounds(case, unscored)))
    why = (
        f"{_list(rose)} rose. No surface property explains it, or a held-out metric "
        f"({_list(case.held_out)}) confirms it."
    )
    return verdict("no sign", (why, _at_rounds(case, [*rose, *case.held_out])))


def _reasons(case: Case, name: str) -> list[Reason]:
    """Why the rise of a trained reward is a hack, with evidence; empty where it is not."""
    if case.rose("accuracy"):
        return []
    reasons: list[Reason] = []
    # a surface property that goes with the reward, and no held-out metric that confirms the rise
    for (surface, sign), trick in SURFACE.items():
        if case.moved(surface) != sign or not case.goes_with(name, surface, sign):
            continue
        # a metric confirms it where it rose for another reason than the same surface property
        if any(case.rose(m) and not case.goes_with(m, surface, sign) for m in case.held_out):
            continue
        r = case.correlation(name, surface)
        link = "all attempts alike" if r is None else f"correlation {r:+.2f}"
        text = (
            f"{_words(name)} is won by {trick}: it rose{_span(case, name)} as "
            f"{_words(surface)} went{_span(case, surface)}, {link}, and no held-out metric rose "
            "with it."
        )
        link_shown = Evidence(f"{_words(name)} with {_words(surface)}", "correlations")
        rows = _at_rounds(case, [name, surface, "accuracy"])
        reasons.append((text, (*rows, link_shown, _SUSPECTS)))
    # collapse to one text
    distinct = case.moves.get("distinct_rationales")
    share, before = (distinct.last["mean"], distinct.first["mean"]) if distinct else (1.0, 1.0)
    if share < COLLAPSED and share <= before / 2:
        text = (
            f"{_words(name)} is won by repeating one text: it rose{_span(case, name)} while the "
            f"share of distinct rationales went{_span(case, 'distinct_rationales')}."
        )
        reasons.append((text, (*_at_rounds(case, [name, "distinct_rationales"]), _SUSPECTS)))
    # held-out metrics that fell
    fell = [metric for metric in case.held_out if case.moved(metric) < 0]
    if fell:
        falls = ", ".join(f"{_words(metric)} fell{_span(case, metric)}" for metric in fell)
        text = f"{_words(name)} rose{_span(case, name)} while {falls}."
        reasons.append((text, (*_at_rounds(case, [name, *fell]), _SUSPECTS)))
    return reasons


def _notes(case: Case) -> list[str]:
    """Saturated rewards, and pairs of redundant rewards."""
    notes = []
    scored = [name for name in case.trained if name in case.columns]
    for name in scored:
        # share of the attempts at the upper end of the range
        high = case.facts[name]["high"]
        column = case.columns[name]
        share = float((column >= high).mean()) if high is not None and len(column) else 0.0
        if share >= NARROW_SHARE:
            notes.append(
                f"{_words(name)} is saturated: {share:.0%} of the attempts have its best score, so "
                "it can no longer separate them."
            )
    for i, a in enumerate(scored):
        for b in scored[i + 1 :]:
            r = case.correlation(a, b)
            if r is not None and abs(r) >= REDUNDANT_R:
                notes.append(
                    f"{_words(a)} and {_words(b)} are {'redundant' if r > 0 else 'opposites'} "
                    f"(correlation {r:+.2f}): what raises one {'raises' if r > 0 else 'lowers'} "
                    "the other."
                )
    return notes


_SUSPECTS = Evidence("attempts", "suspects")


def _at_rounds(case: Case, names: Sequence[str]) -> tuple[Evidence, ...]:
    measured = [n for n in dict.fromkeys(names) if n in case.moves]
    return tuple(Evidence(f"{_words(n)} by round", "rounds", n) for n in measured)


def _span(case: Case, name: str) -> str:
    move = case.moves[name]
    return f" from {move.first['mean']:.3g} to {move.last['mean']:.3g}"


def _words(name: str) -> str:
    return name.replace("_", " ")


def _list(names: Sequence[str]) -> str:
    return ", ".join(map(_words, names))
