"""Tables on a coalition: do its variants differ, does its judge use rationales, what does
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
PAIRS = "held_out_pair_accuracy"
_LENGTHS = ("chosen_words", "rejected_words")


def coalition(results: Mapping[str, Any]) -> list[Table]:
    """Title, note, column names and rows of each table that results have rows for."""
    tables: Mapping[str, Callable[[Rows], Table]] = {
        "variance": variance, "reading": _reading, "variants": variants, "preference_pairs": _pairs,
        "leak": _leak, "preference_rounds": _preference_rounds, "refining": refining,
        "controller": _controller,
    }  # fmt: skip
    return [table(rows) for name, table in tables.items() if (rows := results.get(name))]


def as_text(table: Table, width: int | None = None) -> str:
    """A table's columns and rows for the terminal."""
    return aligned([table["columns"], *(list(map(str, row)) for row in table["rows"])], 1, width)


def variance(rows: Rows) -> Table:
    def shown(row: Mapping[str, Any]) -> list[Any]:
        ratio = NONE
        if row["ratio"] is not None:
            ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"
        return [row["when"], row["n"], f"{row['variants']:.4f}", f"{row['draws']:.4f}", ratio]

    return {
        "title": "Do variants differ more than draws do?",
        "note": "Variance of the utility for the same question: the component of who writes, and "
        "that of several draws of one writer. The ratio is 1 where variants differ no more than "
        "draws do; with an interval that holds 1 there is nothing for a controller to know, and "
        "refinement by another is another draw.",
        "columns": ["when", "questions", "variants", "draws", "ratio"],
        "rows": [shown(row) for row in rows],
    }


def _pairs(rows: Rows) -> Table:
    def shown(row: Mapping[str, Any]) -> list[Any]:
        held = row.get("held_out") or {}
        in_order = NONE
        if PAIRS in held:
            means = (f"{held[key]:.1%}" for key in (PAIRS, f"{PAIRS}_low", f"{PAIRS}_high"))
            in_order = "{} [{}, {}]".format(*means)
        lengths = [NONE if row[key] is None else f"{row[key]:.1f}" for key in _LENGTHS]
        return [
            f"{row['when']}: {row['variant']}", sum(row["pairs"].values()),
            sum(row["dropped"].values()), row["chosen_from_others"], " / ".join(lengths),
            held.get("held_out_pairs", 0), in_order,
        ]  # fmt: skip

    return {
        "title": "What preferences say, and whether they are learned",
        "note": "Pairs of a variant in a round, candidates and pairs that were dropped, chosen "
        "texts that another variant wrote, and mean words of chosen and rejected texts. Of pairs "
        "of questions that were not learned from: how many, and the share whose chosen text has "
        "gained on the rejected one (50 %: nothing was learned).",
        "columns": ["variant", "pairs", "dropped", "from others", "words", "kept aside",
                    "in order"],
        "rows": [shown(row) for row in rows],
    }  # fmt: skip


def _leak(rows: Rows) -> Table:
    def shown(row: Mapping[str, Any]) -> list[Any]:
        pairs = row["pairs"]
        touched = [f"{row[kind]['touched']} of {row[kind]['n']}" for kind in ("written", "refined")]
        return [f"{row['when']}: {row['control']}", *touched, pairs["n"], pairs["without"],
                pairs["same"]]  # fmt: skip

    return {
        "title": "What does the leak control change?",
        "note": "Candidates that the judge read otherwise than they were written; pairs with the "
        "control, pairs without it, and how many are the same two texts in the same order.",
        "columns": ["control", "written", "refined", "pairs", "without", "the same"],
        "rows": [shown(row) for row in rows],
    }


def _preference_rounds(rows: Rows) -> Table:
    def mean(row: Mapping[str, Any], name: str) -> str:
        return show_interval(row[name], _FACT) if row.get(name) else NONE

    return {
        "title": "What is a round of preference learning worth? (A9)",
        "note": "Development questions, writers and refiners by chance: accuracy and utility "
        "before the first round (tuned) and after each. The round that is kept is marked.",
        "columns": ["after", "questions", "accuracy", "utility", ""],
        "rows": [
            [row["when"], row.get("n", 0), mean(row, "accuracy"), mean(row, "utility"),
             "kept" if row["kept"] else ""] for row in rows
        ],
    }  # fmt: skip


def _reading(rows: Rows) -> Table:
    return {
        "title": "Does the judge use rationales?",
        "note": "Share of held-out questions that the judge of utilities answers right, given the "
        "question alone and given a teacher's rationale that led to the gold answer, as the leak "
        "control leaves it; without choices, the likelihood of the gold answer. If rationales do "
        "not help the judge, utilities are noise. The last control is the run's.",
        "columns": ["control", "questions", "alone", "with a rationale", "difference"],
        "rows": [
            [row.get("control", NONE), row["n"], f"{row['alone']:.1%}",
             f"{row['with_rationale']:.1%}", show_interval(row["gain"], _FACT, sign=True)]
            for row in rows
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
        "note": "On questions that it did not learn from, over two draws of the texts: share of "
        "choices that are the best one, and the utility that they lead to, compared with always "
        "the most frequent label, a random choice, and the best choice on one draw, scored on the "
        "other. The last column is the number of tokens that it reads per choice.",
        "columns": ["choice", "choices", *_PICKED_BY, "tokens read"],
        "rows": [shown(row) for row in rows],
    }
