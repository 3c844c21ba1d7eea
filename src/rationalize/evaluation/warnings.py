"""What a reader should know before believing results: in sentences, grouped, worst first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rationalize.answers import MARKER
from rationalize.evaluation.baselines import (
    BETTER_READING,
    MAJORITY,
    is_base,
    reads_base_better,
)
from rationalize.evaluation.diagnostics import NARROW_SHARE, TOO_NARROW

KINDS = {
    "one choice": "Answers do not follow the rationales",
    "unread": "Answers could not be read",
    "out of range": "A reward leaves its range",
    "repeated": "Most rationales are the same text",
    "few": "Few questions",
    "truncated": "Replies were cut",
    "undefined": "Scores are undefined",
    "short": "Rationales are very short",
    "not obeyed": "Control tokens are not obeyed",
    "narrow": "Rewards are too narrow for control tokens",
    "empty bins": "Control tokens of empty bins",
    "reading": "How untrained models are read",
    "baseline": "Baselines",
    "note": "Notes",
}
"""Kinds of warnings, worst first, with the heading of their group."""


@dataclass(frozen=True)
class Warned:
    """A warning of one of the `KINDS`."""

    kind: str
    text: str


def warned(results: Mapping[str, Any]) -> list[Warned]:
    """Every warning, worst first; those on baselines, whom nobody trained, come late."""
    found = [
        Warned("baseline" if method == MAJORITY or is_base(method) else kind, f"{place}: {text}")
        for method, entry in results["methods"].items()
        for split, cell in entry["splits"].items()
        for place in [f"{method} on {split}"]
        for kind, text in _cell_warnings(cell, results["metrics"])
    ]
    if reads_base_better(results["comparisons"]):
        found.append(Warned("reading", BETTER_READING))
    found += _bin_warnings(results["bins"])
    found += _obedience_warnings(results["obedience"])
    fewest: dict[str, int] = {}  # questions of the method with the fewest, by split
    for entry in results["methods"].values():
        for split, cell in entry["splits"].items():
            n = cell["metrics"]["accuracy"]["n"]
            fewest[split] = min(n, fewest.get(split, n))
    found += [
        Warned(
            "few",
            f"{split}: {n} question{'s' * (n != 1)} only; intervals from so few are too narrow.",
        )
        for split, n in fewest.items()
        if n < 50
    ]
    found += [Warned("note", note) for note in results.get("notes") or []]
    order = list(KINDS)
    return sorted(found, key=lambda w: order.index(w.kind))


def warnings(results: Mapping[str, Any]) -> list[str]:
    """The warnings as sentences, worst first. The page and the terminal print the same ones."""
    return [w.text for w in warned(results)]


def grouped(results: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The headings of the warnings' kinds with their sentences, worst kind first."""
    groups: dict[str, list[str]] = {}
    for warning in warned(results):
        groups.setdefault(KINDS[warning.kind], []).append(warning.text)
    return list(groups.items())


def few_parsed(cell: Mapping[str, Any]) -> str:
    """A sentence where few replies have our form of an answer; "" where most have."""
    parsed = cell["metrics"].get("parse_rate", {"mean": 1.0})["mean"]
    stated = cell.get("stated", 0.0)  # absent in results of earlier versions
    if parsed >= 0.9:
        return ""
    share = f"only {parsed:.0%}" if parsed else "none"
    if stated - parsed < 0.1:
        rest = "the rest" if parsed else "they"
        return f"an answer could be read from {share} of the replies; {rest} count as wrong."
    return (
        f"{share} of the replies have the form `{MARKER} ..`, though {stated:.0%} state an answer: "
        "read stated accuracy too."
    )


def _cell_warnings(cell: Mapping[str, Any], facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Kind and text of the warnings on a method's entry on a split."""
    means = {name: row["mean"] for name, row in cell["metrics"].items()}
    if unread := few_parsed(cell):
        yield "unread", unread
    top = cell.get("one_choice")
    if top and top["share"] > 0.9 > top["right"]:
        yield (
            "one choice",
            f"{top['share']:.0%} of the replies answer {top['label']}, which is right "
            f"{top['right']:.0%} of the time: the answer does not follow the rationale.",
        )
    if means.get("truncated", 0.0) > 0.1:
        yield "truncated", f"{means['truncated']:.0%} of the replies were cut at the length limit."
    if means.get("length", 99.0) < 3:
        yield (
            "short",
            f"rationales have {means['length']:.1f} words on average; the diversity of "
            "so short a text is 1 by its formula.",
        )
    distinct = cell.get("distinct_rationales")
    if distinct is not None and distinct < 0.5:
        yield "repeated", f"only {distinct:.0%} of the rationales differ from one another."
    for name, share in cell.get("undefined", {}).items():
        if share > 0.1:
            diagnostic = facts.get(name, {}).get("role") == "diagnostic"
            if diagnostic and share == 1.0:  # no mean to misread, e.g. of free-form questions
                continue
            counted = "left out of its mean" if diagnostic else "worst value counted"
            yield "undefined", f"{name} is undefined on {share:.0%} of the replies ({counted})."
    for name, share in cell.get("out_of_range", {}).items():
        yield (
            "out of range",
            f"{name} leaves its declared range on {share:.1%} of the replies, so NRG is off.",
        )


def _bin_warnings(rows: Sequence[Mapping[str, Any]]) -> list[Warned]:
    """Bins of the last round whose control token learns nothing."""
    found = []
    for (who, reward), row in {(_who(r), r["reward"]): r for r in rows}.items():
        counts = row["counts"]
        empty = [str(b) for b, count in enumerate(counts) if not count]
        if max(counts) > NARROW_SHARE * sum(counts):
            text = (
                f"{who}: {max(counts) / sum(counts):.0%} of the pool share one bin of {reward}; "
                f"its scores are {TOO_NARROW}."
            )
            found.append(Warned("narrow", text))
        elif empty:
            text = (
                f"{who}: ties in {reward} leave bin {', '.join(empty)} of its pool empty (0 is "
                "best); the token of an empty bin is never trained."
            )
            found.append(Warned("empty bins", text))
    return found


def _obedience_warnings(rows: Sequence[Mapping[str, Any]]) -> list[Warned]:
    """Rewards whose best and worst token do not differ in effect, in the last round measured."""
    last = {(_who(r), r["reward"]): r for r in rows if "gap" in r}
    texts = [
        f"{who}: the {reward} token is not obeyed (best minus worst {gap['mean']:+.3f} "
        f"[{gap['low']:+.3f}, {gap['high']:+.3f}] on {row['split']})."
        for (who, reward), row in last.items()
        if (gap := row["gap"])["low"] <= 0 or gap["p"] >= 0.05
    ]
    return [Warned("not obeyed", text) for text in texts]


def _who(row: Mapping[str, Any]) -> str:
    labels = [row.get(k) for k in ("method", "run", "seed")]
    return " ".join(str(label) for label in labels if label is not None) or "policy"
