"""`report.html` of `check-rewards --people`: do rewards rank rationales as people do?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.evaluation.human_agreement import agreement_tables
from rationalize.files import write_text
from rationalize.report.text import style, template
from rationalize.text import clipped


def write_agreement(
    results: Mapping[str, Any], disagreements: Mapping[str, Sequence[Mapping[str, Any]]], path: Path
) -> None:
    """Write the page for `results` (agreement.json); `disagreements` are those of each set."""
    sections = [
        {"title": title, "tables": agreement_tables(results[key]), "about": about}
        for key, title, about in (
            ("people", "People's votes", _PEOPLE),
            ("references", "Right and wrong, one model over another", _REFERENCES),
        )
        if results[key]
    ]
    page = template("agreement.html.j2").render(
        style=style(),
        sections=sections,
        notes=results["notes"],
        disagreements={
            name: [
                {
                    **own,
                    "sides": [{**s, "rationale": clipped(s["rationale"])} for s in own["sides"]],
                }
                for own in found
            ]
            for name, found in disagreements.items()
            if found
        },
    )
    write_text(path, page)


_PEOPLE = (
    "The judged rationales were written for the gold answer. Single votes: every vote is to be "
    "predicted by itself. Same question: only pairs of one question's rationales count. Other "
    "people's votes are what the votes that are left reach when one is left out; above a "
    "rationale's own votes no score can come."
)
_REFERENCES = (
    "Right: a right prediction's rationale against a wrong one's, of one model, or of all models "
    "on one question. One model over another: the share of questions on which its rationale scores "
    "higher, ties half."
)
