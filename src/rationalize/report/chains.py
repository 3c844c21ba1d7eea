"""A coalition's answers chain by chain: writer, refiner, what changed, p(gold) before and after."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rationalize.text import clipped

SHOWN = 100
"""Chains on the page: those whose refinement changed p(gold) most, in either direction."""


def chains(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The section's data from `results["chains"]`; None without chains."""
    if not rows:
        return None
    methods = list(dict.fromkeys(row["method"] for row in rows))
    return {
        "summary": [_summary(m, [r for r in rows if r["method"] == m]) for m in methods],
        "rows": [_shown(row) for row in sorted(rows, key=_moved, reverse=True)[:SHOWN]],
        "left_out": max(0, len(rows) - SHOWN),
    }


def changes(before: str, after: str) -> list[tuple[str, str]]:
    """Word differences in order, as (`same`, `gone` or `come`, words).

    >>> changes("Oil is heavy.", "Oil is light.")
    [('same', 'Oil is'), ('gone', 'heavy.'), ('come', 'light.')]
    """
    old, new = before.split(), after.split()
    parts = []
    # autojunk would ignore words that are frequent in long texts
    for kind, i, j, k, m in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            parts.append(("same", " ".join(old[i:j])))
            continue
        if j > i:
            parts.append(("gone", " ".join(old[i:j])))
        if m > k:
            parts.append(("come", " ".join(new[k:m])))
    return parts


def _summary(method: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    picked = Counter((row["writer"], row["refiner"]) for row in rows)
    measured = [r for r in rows if r["after"] is not None and r["before"] is not None]
    return {
        "method": method, "n": len(rows),
        "tokens": f"{np.mean([row['tokens'] for row in rows]):.0f}",
        "picked": [(w, r, n) for (w, r), n in picked.most_common()],
        **{k: f"{np.mean([r[k] for r in measured]):.3f}" if measured else "–" for k in _VIEWS},
    }  # fmt: skip


_VIEWS = ("alone", "before", "after")


def _moved(row: Mapping[str, Any]) -> float:
    if row["after"] is None or row["before"] is None:
        return 0.0
    return abs(row["after"] - row["before"])


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    views = {key: "–" if row[key] is None else f"{row[key]:.2f}" for key in _VIEWS}
    texts = {key: clipped(row[key]) for key in ("question", "gold")}
    changed = changes(clipped(row["written"]), clipped(row["refined"]))
    return {**row, **views, **texts, "changes": changed}
