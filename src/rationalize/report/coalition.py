"""Tables on a coalition itself: can its judge read, are its variants clones, what is refinement
worth, does its controller know whom to pick.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rationalize.evaluation.tables import NONE, show, show_interval, show_p

Rows = Sequence[Mapping[str, Any]]
Table = dict[str, Any]

_FACT: Mapping[str, Any] = {}  # shares and utilities: three decimals
_MEANS = ("mean_a", "mean_b")
_PICKED_BY = ("controller", "majority", "random", "oracle")


def coalition(results: Mapping[str, Any]) -> list[Table]:
    """Title, note, column names and rows of text of every table that results hold rows for."""
    tables: Mapping[str, Callable[[Rows], Table]] = {
        "reading": _reading, "variants": _variants, "refining": _refining,
        "controller": _controller,
    }  # fmt: skip
    return [table(rows) for name, table in tables.items() if (rows := results.get(name))]


def _reading(rows: Rows) -> Table:
    return {
        "title": "Can the judge read?",
        "note": "Share of held-out questions that the judge of utilities answers right, given the "
        "question alone and given a teacher's rationale that led to the gold answer. Where "
        "rationales do not help it, utilities are noise.",
        "columns": ["questions", "alone", "with a rationale", "difference"],
        "rows": [
            [row["n"], f"{row['alone']:.1%}", f"{row['with_rationale']:.1%}",
             show_interval(row["gain"], _FACT, sign=True)] for row in rows
        ],
    }  # fmt: skip


def _variants(rows: Rows) -> Table:
    def shown(row: Mapping[str, Any]) -> list[Any]:
        differ = NONE if row["disagreement"] is None else f"{row['disagreement']:.1%}"
        kl = " / ".join(show(x, _FACT) for x in row["kl"])
        pair = " and ".join(row["variants"])
        return [f"{row['when']}: {pair}", row["n"], f"{row['bleu']:.1f}",
                f"{row['identical']:.1%}", differ, kl]  # fmt: skip

    return {
        "title": "Are the variants clones?",
        "note": "Over rationales that both wrote for the same development questions: BLEU of one's "
        "texts against the other's (100: the same words), the share of identical texts, the share "
        "of questions that their rationales answer differently, and KL divergence per token, each "
        "on its own texts.",
        "columns": ["variants", "questions", "BLEU", "identical", "answers differ", "KL"],
        "rows": [shown(row) for row in rows],
    }


def _refining(rows: Rows) -> Table:
    return {
        "title": "What is refinement worth?",
        "note": "Mean utility, by the judge that pairs were chosen by, on the controller's "
        "questions, which no variant learned from: no rationale, as written, refined by its own "
        "writer, refined by another variant. Differences are paired by question, with 95 % "
        "intervals.",
        "columns": ["compared", "questions", "first", "second", "difference", "p"],
        "rows": [
            [f"{row['a']} − {row['b']}", row["n"], *(show(row[k], _FACT) for k in _MEANS),
             show_interval(row, _FACT, sign=True), show_p(row["p"])] for row in rows
        ],
    }  # fmt: skip


def _controller(rows: Rows) -> Table:
    def shown(row: Mapping[str, Any]) -> list[Any]:
        picks = [f"{row[f'{name}_accuracy']:.3f} / {row[f'{name}_utility']:.3f}"
                 for name in _PICKED_BY]  # fmt: skip
        return [f"who {row['choice']}s", row["n"], *picks, f"{row['tokens_read']:.0f}"]

    return {
        "title": "Does the controller know whom to pick?",
        "note": "On questions that it has not learned from: share of choices that are the best "
        "one, and the utility that they lead to, beside always the most frequent label, chance, "
        "and the best choice itself. It reads that many tokens for each.",
        "columns": ["choice", "choices", *_PICKED_BY, "tokens read"],
        "rows": [shown(row) for row in rows],
    }
