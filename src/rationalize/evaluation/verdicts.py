"""What the paired differences of a split come to, in sentences. The page and the terminal print the
same ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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
    floors = {a: _floor([r for r in rows if r["a"] == a]) for a in {r["a"] for r in rows}}
    said: list[Verdict] = []
    left = list(rows)
    while left:
        row = left[0]
        floor = floors[row["a"]]
        if row in floor:
            joined = floor
            closest = min(floor, key=lambda r: abs(r["mean"]))
            said.append(_claim(closest, fact, [r["b"] for r in floor]))
        else:
            alike = [r for r in left if status_of(r) == status_of(row)]
            side, joined = _sharing(row, [r for r in alike if r not in floors[r["a"]]])
            said.append(_joint_claim(side, joined, fact) if side else _claim(row, fact))
        left = [r for r in left if r not in joined]
    return said


def _floor(rows: Sequence[Row]) -> list[Row]:
    """A method's comparisons with baselines, where there are several with one verdict."""
    floor = [r for r in rows if _is_baseline(r["b"])]
    return floor if len(floor) > 1 and len({status_of(r) for r in floor}) == 1 else []


def _sharing(row: Row, alike: Sequence[Row]) -> tuple[str, list[Row]]:
    """The comparisons among `alike` that have the row's first (`a`) or else its second method
    (`b`), and which; "" and the row alone where they are not `MANY`.
    """
    for side in ("a", "b"):
        group = [r for r in alike if r[side] == row[side]]
        if len(group) >= MANY:
            return side, group
    return "", [row]


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


def _joint_claim(side: str, rows: Sequence[Row], fact: Row) -> Verdict:
    """The sentence of several comparisons that come to the same, and share the method of a side."""
    status, metric = status_of(rows[0]), _words(rows[0]["metric"])
    other = "b" if side == "a" else "a"
    shared, listed = one_line(rows[0][side]), _listed(r[other] for r in rows)
    if status == "level":
        row, which = max(rows, key=lambda r: abs(r["mean"])), "farthest"
        apart = _level(side, shared, listed, f"in {metric}")
        if corrected := [r[other] for r in rows if _lost_by_correction(r)]:
            apart += f" (once corrected for {row['tests']} tests: {_listed(corrected)})"
    else:
        row, which = min(rows, key=lambda r: abs(r["mean"])), "closest"
        first, second = (shared, listed) if side == "a" else (listed, shared)
        verb = "is" if side == "a" else "are"
        apart = f"{first} {verb} {status} {second} in {metric}"
    return Verdict(
        status, f"{apart}: the {which} is {one_line(row[other])}, {_difference(row, fact)}."
    )


def _level(side: str, shared: str, listed: str, where: str) -> str:
    if side == "a":
        return f"{shared} cannot be told apart {where} from {listed}"
    return f"None of {listed} can be told apart {where} from {shared}"


def _listed(methods: Iterable[str]) -> str:
    return "; ".join(map(one_line, methods))


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
    """One sentence on the single rewards of a pair, or of several that share a method and show no
    difference; none without rewards.
    """
    of_pair: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if facts[row["metric"]]["role"] == "reward":
            of_pair.setdefault((row["a"], row["b"]), []).append(row)
    left: list[Row] = [
        {"a": a, "b": b, "level": all(status_of(r) == "level" for r in found),
         "names": ", ".join(_words(r["metric"]) for r in found)}
        for (a, b), found in of_pair.items()
    ]  # fmt: skip
    said = []
    while left:
        pair, joined = left[0], left[:1]
        a, b = one_line(pair["a"]), one_line(pair["b"])
        where = f"in any single reward ({pair['names']})"
        if pair["level"]:
            alike = [p for p in left if p["level"] and p["names"] == pair["names"]]
            side, joined = _sharing(pair, alike)
            text = f"{a} and {b} cannot be told apart {where}"
            if side:
                shared, other = (a, "b") if side == "a" else (b, "a")
                text = _level(side, shared, _listed(p[other] for p in joined), where)
            said.append(Verdict("level", f"{text}."))
        else:
            said.append(_of_rewards(a, b, of_pair[pair["a"], pair["b"]], facts))
        left = [p for p in left if p not in joined]
    return said


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
    text = f"In single rewards {a}, compared with {b}, is {'; '.join(parts)}."
    return Verdict(overall, text)


def _words(metric: str) -> str:
    return "NRG" if metric == "nrg" else one_line(metric).replace("_", " ")
