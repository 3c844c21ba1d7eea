"""`report.html` of `check-rewards --people`: do rewards rank rationales as people do?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.evaluation.human_agreement import agreement_tables
from rationalize.files import write_text
from rationalize.report.text import hash_of, script, style, template
from rationalize.text import clipped


def write_agreement(
    results: Mapping[str, Any], disagreements: Mapping[str, Sequence[Mapping[str, Any]]], path: Path
) -> None:
    """Write the page for `results` (agreement.json) and the `disagreements` of each set."""
    sections = [
        {"title": title, "tables": agreement_tables(results[key]), "about": about}
        for key, title, about in (
            ("people", "People's votes", _PEOPLE),
            ("references", "Right and wrong, one model over another", _REFERENCES),
        )
        if results[key]
    ]
    code = script("tables.js")
    page = template("agreement.html.j2").render(
        style=style(),
        script=code,
        script_hash=hash_of(code),
        sections=sections,
        notes=results["notes"],
        disagreements={
            name: [
                {
                    **pair,
                    "sides": [{**s, "rationale": clipped(s["rationale"])} for s in pair["sides"]],
                }
                for pair in pairs
            ]
            for name, pairs in disagreements.items()
            if pairs
        },
    )
    write_text(path, page)


_PEOPLE = (
    "The judged rationales were written for the gold answer. Single votes: each vote is a label to "
    "predict. Same question: only pairs of rationales of the same question count. Other people's "
    "votes: the AUROC of the remaining votes when one is left out. Their own votes: the ceiling, "
    "which no score of a text can exceed."
)
_REFERENCES = (
    "Right: rationales of right predictions against those of wrong ones, of one model, or of all "
    "models on the same question. One model over another: the share of questions on which its "
    "rationale scores higher; a tie counts half."
)
