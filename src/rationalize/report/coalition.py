"""Tables on a coalition: does its judge use rationales, are its variants clones, what does
refinement add, how well does its controller choose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rationalize.evaluation.tables import NONE, aligned, show, show_interval, show_p

Rows = Sequence[Mapping[str, Any]]
Table = dict[str, Any]

_FACT: Mapping[str, Any] = {}  # shares and utilities: three decimals
_MEANS = ("mean_a", "mean_b")
_PICKED_BY = ("controller", "majority", "random", "oracle")


def coalition(results: Mapping[str, Any]) -> list[Table]:
    """Title, note, column names and rows of each table that results have rows for."""
    tables: Mapping[str, Callable[[Rows], Table]] = {
        "reading": _reading, "variants": variants, "refining": refining,
        "controller": _controller,
    }  # fmt: skip
    return [table(rows) for name, table in tables.items() if (rows := results.get(name))]


def as_text(table: Table, width: int | None = None) -> str:
    """A table's columns and rows for the terminal."""
    return aligned([table["columns"], *(list(map(str, row)) for row in table["rows"])], 1, width)


def _reading(rows: Rows) -> Table:
    return {
        "title": "Does the judge use rationales?",
        "note": "Share of held-out questions that the judge of utilities answers right, given the "
        "question alone and given a teacher's rationale that led to the gold answer. If "
        "rationales do not help the judge, utilities are noise.",
        "columns": ["questions", "alone", "with a rationale", "difference"],
        "rows": [
            [row["n"], f"{row['alone']:.1%}", f"{row['with_rationale']:.1%}",
             show_interval(row["gain"], _FACT, sign=True)] for row in rows
        ],
    }  # fmt: skip


def variants(rows: Rows) -> Table:
    def shown(row: Mapping[str, Any]) -> list[Any]:
        differ = NONE if row["disagreement"] is None else f"{row['disagreement']:.1%}"
        kl = " / ".join(show(x, _FACT) for x in row["kl"])
        pair = " and ".join(row["variants"])
        return [f"{row['when']}: {pair}", row["n"], f"{row['bleu']:.1f}",
                f"{row['identical']:.1%}", differ, kl]  # fmt: skip

    return {
        "title": "Are the variants clones?",
        "note": "Over rationales of both variants for the same development questions: BLEU between "
        "their texts (100: the same words), the share of identical texts, the share of questions "
        "on which their rationales lead to different answers, and KL divergence per token in both "
        "directions, each on texts of the first.",
        "columns": ["variants", "questions", "BLEU", "identical", "answers differ", "KL"],
        "rows": [shown(row) for row in rows],
    }


def refining(rows: Rows) -> Table:
    return {
        "title": "What does refinement add?",
        "note": "Mean utility, by the judge that chose the preference pairs, on the controller's "
        "questions, which no variant learned from: without a rationale (none), before refinement "
        "(written), refined by the writer (self) or by another variant (cross). Differences are "
        "paired by question, with 95 % intervals.",
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
        "note": "On questions that it did not learn from: share of choices that are the best one, "
        "and the utility that they lead to, compared with always the most frequent label, a random "
        "choice, and the best choice. The last column is the number of tokens that it reads per "
        "choice.",
        "columns": ["choice", "choices", *_PICKED_BY, "tokens read"],
        "rows": [shown(row) for row in rows],
    }
