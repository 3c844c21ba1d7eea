"""What refinement adds: the utility of rationales refined by their writer or by another variant,
compared with the rationales before refinement and with no rationale.

Computed from stored candidates, without generating anything. Whether refinement by another variant
is better than by the writer (docs/methods/coalition.md) is a paired difference over questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rationalize.evaluation.differences import difference_row
from rationalize.evaluation.intervals import over_seeds, paired_difference
from rationalize.records import Attempt

Utilities = dict[str, dict[str, float]]
"""`none`, `written`, `self`, `cross` -> question id -> mean utility."""

COMPARED = (("written", "none"), ("self", "written"), ("cross", "written"), ("cross", "self"))


def refining_utilities(reference: Mapping[str, float], attempts: Sequence[Attempt]) -> Utilities:
    """Mean utility per question of rationales before refinement (`written`) and after (`self`,
    `cross`).

    `reference` is the utility without a rationale, by question; attempts hold theirs as the reward
    `utility`, and an undefined one counts as 0.
    """
    by_id = {a.id: a for a in attempts}
    refined = [(a, by_id[a.refines]) for a in attempts if a.refines]
    sources = dict.fromkeys(source.id for _, source in refined)
    of_kind = [("written", by_id[id]) for id in sources]
    of_kind += [("self" if a.writer == source.writer else "cross", a) for a, source in refined]
    kinds: dict[str, dict[str, list[float]]] = {kind: {} for kind in ("written", "self", "cross")}
    for kind, a in of_kind:
        kinds[kind].setdefault(a.question_id, []).append(a.rewards["utility"] or 0.0)
    means = {kind: {q: float(np.mean(u)) for q, u in by_q.items()} for kind, by_q in kinds.items()}
    return {"none": {q: reference[q] for q in means["written"]}, **means}


def refining_rows(utilities_S: Sequence[Utilities]) -> list[dict[str, Any]]:
    """Paired differences over questions of mean utilities over the seeds that have both sides."""
    rows = []
    for a, b in COMPARED:
        of_a, of_b = (
            over_seeds([{q: u[kind][q] for q in u[a] if q in u[b]} for u in utilities_S])
            for kind in (a, b)
        )
        if of_a:
            means = {
                "mean_a": float(np.mean([*of_a.values()])),
                "mean_b": float(np.mean([*of_b.values()])),
            }
            rows.append({"a": a, "b": b, **means, **difference_row(paired_difference(of_a, of_b))})
    return rows
