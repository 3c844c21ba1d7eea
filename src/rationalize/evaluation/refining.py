"""What refinement is worth: the utility of a rationale that its own writer, or another variant, has
refined, beside the rationale that was refined and beside none at all.

Read off stored candidates, so that it costs no writing: the claim that another variant's second
opinion beats one's own is a paired difference over questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rationalize.evaluation.intervals import over_seeds, paired_difference
from rationalize.evaluation.results import difference_row
from rationalize.records import Attempt

Utilities = dict[str, dict[str, float]]
"""`none`, `written`, `self`, `cross` -> question id -> mean utility."""

COMPARED = (("written", "none"), ("self", "written"), ("cross", "written"), ("cross", "self"))


def refining_utilities(reference: Mapping[str, float], attempts: Sequence[Attempt]) -> Utilities:
    """Means within each question, of rationales that were refined and of what became of them.

    `reference` is the utility of no rationale, by question; attempts carry theirs as a reward.
    """
    by_id = {a.id: a for a in attempts}
    found: dict[str, dict[str, list[float]]] = {who: {} for who in ("written", "self", "cross")}

    def add(who: str, attempt: Attempt) -> None:
        found[who].setdefault(attempt.question_id, []).append(attempt.rewards["utility"] or 0.0)

    for source in dict.fromkeys(a.refines for a in attempts if a.refines):
        add("written", by_id[source])
    for attempt in attempts:
        if attempt.refines:
            own = attempt.writer == by_id[attempt.refines].writer
            add("self" if own else "cross", attempt)
    means = {who: {q: float(np.mean(u)) for q, u in own.items()} for who, own in found.items()}
    return {"none": {q: reference[q] for q in means["written"]}, **means}


def refining_rows(utilities_S: Sequence[Utilities]) -> list[dict[str, Any]]:
    """Paired differences of utility over questions, averaged over the seeds that asked them."""
    rows = []
    for a, b in COMPARED:
        of_a, of_b = (
            over_seeds([{q: own[who][q] for q in own[a] if q in own[b]} for own in utilities_S])
            for who in (a, b)
        )
        if of_a:
            means = {
                "mean_a": float(np.mean([*of_a.values()])),
                "mean_b": float(np.mean([*of_b.values()])),
            }
            rows.append({"a": a, "b": b, **means, **difference_row(paired_difference(of_a, of_b))})
    return rows


def format_refining(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as plain text."""
    lines = ["utility            mean - mean   difference [95 % interval], p (n questions)"]
    for row in rows:
        pair = f"{row['a']} - {row['b']}"
        lines.append(
            f"{pair:<18} {row['mean_a']:.3f} - {row['mean_b']:.3f} {row['mean']:+.3f} "
            f"[{row['low']:+.3f}, {row['high']:+.3f}], {row['p']:.3f} ({row['n']})"
        )
    return "\n".join(lines)
