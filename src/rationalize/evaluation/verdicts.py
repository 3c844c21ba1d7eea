"""What the paired differences of a split come to, in sentences. The page and the terminal print the
same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rationalize.evaluation.baselines import SEEDLESS, is_base
from rationalize.evaluation.differences import is_significant
from rationalize.evaluation.tables import cells_of, show, show_interval, show_p
from rationalize.text import one_line

Status = Literal["above", "below", "level"]
Row = Mapping[str, Any]

CLAIMED = ("accuracy", "nrg")
"""Metrics that each comparison makes a claim in; the single rewards share one sentence."""


MANY = 4
"""Comparisons of a method that share one sentence, where they come to the same."""


@dataclass(frozen=True)
class Verdict:
    """A claim in words."""

    status: Status
    text: str


def status_of(row: Row) -> Status:
    """Whether a comparison shows its first method above or below the second, or neither."""
    if not is_significant(row):
        return "level"
    return "above" if row["mean"] > 0 else "below"


def verdicts(results: Mapping[str, Any], split: str) -> list[Verdict]:
    """A sentence per claim: the comparisons in accuracy, in NRG, then those in single rewards.

    A method that has the same verdict against every baseline gets one sentence for them, with the
    smallest difference. So do `MANY` other comparisons of a method that come to the same; where
    none shows a difference, the sentence has the largest one. Without comparisons there is a
    sentence per method's accuracy.
    """
    rows = [row for row in results["comparisons"] if row["split"] == split]
    facts = results["metrics"]
    if not rows:
        return _means(results, split)
    claims = [
        verdict
        for metric in CLAIMED
        for verdict in _of_metric([r for r in rows if r["metric"] == metric], facts.get(metric, {}))
    ]
    return claims + _of_single_rewards(rows, facts)


def _means(results: Mapping[str, Any], split: str) -> list[Verdict]:
    said = []
    for method, cell in cells_of(results, split).items():
        row = cell["metrics"]["accuracy"]
        mean, low, high = (f"{100 * row[key]:.1f}" for key in ("mean", "low", "high"))
        text = f"{one_line(method)} answers {mean} % of {row['n']} {split} questions right"
        said.append(Verdict("level", f"{text} ({low} to {high})."))
    return said


def _of_metric(rows: Sequence[Row], fact: Row) -> list[Verdict]:
    said, done = [], set()
    for row in rows:
        a, b = row["a"], row["b"]
        if (a, b) in done:
            continue
        of_method = [r for r in rows if r["a"] == a]
        floor = [r for r in of_method if _is_baseline(r["b"])]
        if len(floor) < 2 or len({status_of(r) for r in floor}) > 1:
            floor = []
        if row in floor:
            alike = floor
            closest = min(floor, key=lambda r: abs(r["mean"]))
            said.append(_claim(closest, fact, [r["b"] for r in floor]))
        else:
            alike = [r for r in of_method if status_of(r) == status_of(row) and r not in floor]
            if len(alike) < MANY:
                alike = [row]
            said.append(_claim(row, fact) if len(alike) == 1 else _joint_claim(alike, fact))
        done |= {(a, r["b"]) for r in alike}
    return said


def _is_baseline(method: str) -> bool:
    return method in SEEDLESS or is_base(method)


def _claim(row: Row, fact: Row, baselines: Sequence[str] = ()) -> Verdict:
    """The sentence of a comparison, or of that with the closest of several `baselines`."""
    status, metric = status_of(row), _words(row["metric"])
    a, b = one_line(row["a"]), one_line(row["b"])
    others = f"every baseline ({'; '.join(map(one_line, baselines))})" if baselines else b
    if status == "level":
        apart = f"{a} and {others} cannot be told apart in {metric}"
        if _lost_by_correction(row):
            apart += f" once corrected for {row['tests']} tests"
    else:
        apart = f"{a} is {status} {others} in {metric}"
    closest = f"the closest is {b}, " if baselines else ""
    return Verdict(status, f"{apart}: {closest}{_difference(row, fact)}.")


def _joint_claim(rows: Sequence[Row], fact: Row) -> Verdict:
    """The sentence of several comparisons of one method that come to the same."""
    status, metric = status_of(rows[0]), _words(rows[0]["metric"])
    a, others = one_line(rows[0]["a"]), "; ".join(one_line(r["b"]) for r in rows)
    if status != "level":
        row = min(rows, key=lambda r: abs(r["mean"]))
        apart, which = f"{a} is {status} {others} in {metric}", "closest"
    else:
        row = max(rows, key=lambda r: abs(r["mean"]))
        apart, which = f"{a} cannot be told apart in {metric} from {others}", "farthest"
        if corrected := [one_line(r["b"]) for r in rows if _lost_by_correction(r)]:
            tests = f"once corrected for {row['tests']} tests"
            apart += f" ({tests}: {'; '.join(corrected)})"
    text = f"{apart}: the {which} is {one_line(row['b'])}, {_difference(row, fact)}."
    return Verdict(status, text)


def _lost_by_correction(row: Row) -> bool:
    return (row["low"] > 0 or row["high"] < 0) and row["tests"] > 1 and status_of(row) == "level"


def _difference(row: Row, fact: Row) -> str:
    mean, low, high = (show(row[key], fact, sign=True) for key in ("mean", "low", "high"))
    unit = " points" if fact.get("percent") or row["metric"] == "nrg" else ""
    words = f"difference {mean}{unit}, {low} to {high}, n = {row['n']}, Holm's p "
    words += show_p(row["p_holm"])
    if row.get("p_seeds") is not None:
        words += f", p over {len(row['by_seed'])} seeds {show_p(row['p_seeds'])}"
    if "readings" in row:
        words += "; of a model that was not trained here, any stated answer counts"
    return words


def _of_single_rewards(rows: Sequence[Row], facts: Mapping[str, Row]) -> list[Verdict]:
    """One sentence on the single rewards of a pair, or of several pairs of a method that show no
    difference; none without rewards.
    """
    pairs: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if facts[row["metric"]]["role"] == "reward":
            pairs.setdefault((row["a"], row["b"]), []).append(row)
    groups: dict[tuple[str, str], list[str]] = {}  # a method, and what all its pairs here share
    for (a, b), of_pair in pairs.items():
        level = all(status_of(r) == "level" for r in of_pair)
        names = ", ".join(_words(r["metric"]) for r in of_pair)
        groups.setdefault((a, f"level: {names}" if level else f"told apart: {b}"), []).append(b)
    said = []
    for (a, shared), others in groups.items():
        kind, _, names = shared.partition(": ")
        if kind == "level":
            said += _level_rewards(a, names, others)
        else:
            said.append(_of_rewards(a, others[0], pairs[a, others[0]], facts))
    return said


def _level_rewards(a: str, names: str, others: Sequence[str]) -> list[Verdict]:
    """The sentences on comparisons of one method that no single reward tells apart."""
    rewards = f"in any single reward ({names})"
    if len(others) < MANY:
        pairs = [f"{one_line(a)} and {one_line(b)} cannot be told apart" for b in others]
        return [Verdict("level", f"{pair} {rewards}.") for pair in pairs]
    listed = "; ".join(map(one_line, others))
    return [Verdict("level", f"{one_line(a)} cannot be told apart {rewards} from {listed}.")]


def _of_rewards(a: str, b: str, rows: Sequence[Row], facts: Mapping[str, Row]) -> Verdict:
    """The sentence on the single rewards of a pair that some of them tell apart."""
    by_status: dict[str, list[str]] = {"above": [], "below": [], "level": []}
    for row in rows:
        name, status = _words(row["metric"]), status_of(row)
        interval = show_interval(row, facts[row["metric"]], sign=True)
        by_status[status].append(name if status == "level" else f"{name} ({interval})")
    parts = [
        f"{status} in {', '.join(names)}"
        for status in ("above", "below")
        if (names := by_status[status])
    ]
    if by_status["level"]:
        parts.append(f"not told apart in {', '.join(by_status['level'])}")
    overall: Status = "level"
    if bool(by_status["above"]) != bool(by_status["below"]):
        overall = "above" if by_status["above"] else "below"
    text = f"In single rewards {one_line(a)}, compared with {one_line(b)}, is {'; '.join(parts)}."
    return Verdict(overall, text)


def _words(metric: str) -> str:
    return "NRG" if metric == "nrg" else one_line(metric).replace("_", " ")
