"""`report.html`: one file that needs no network, is readable without scripts, and shows any text
safely.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rationalize.evaluation.diagnostics import warnings
from rationalize.evaluation.metrics import metrics_from_facts, settle_worst
from rationalize.evaluation.tables import leaderboard_tables, splits_of
from rationalize.files import write_text
from rationalize.records import Attempt, Question
from rationalize.report import attempts as attempts_page
from rationalize.report import sections
from rationalize.report.browser import browser_data
from rationalize.report.chains import chains
from rationalize.report.coalition import coalition
from rationalize.report.hacking import hacking
from rationalize.report.study import study_section
from rationalize.report.text import HOME, json_for_script, style, template


def write_report(
    results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]],
    questions: Mapping[str, Question], path: Path | str,
) -> Path:  # fmt: skip
    """Write the page for `results` (the structure of results.json) atomically and return its path.

    `attempts` are those behind the results, by method; `questions` are those they answer, by id.
    A section without data (rounds, obedience, bins, training) is replaced by a line that says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(results, attempts, questions))
    return path


def render(
    results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]],
    questions: Mapping[str, Question],
) -> str:  # fmt: skip
    """The page as HTML. Correlations, scatter charts and suspects are of the first split."""
    facts = results["metrics"]
    everything = [a for of_method in attempts.values() for a in of_method]
    metrics = settle_worst(metrics_from_facts(facts), everything, questions)
    splits = splits_of(results)
    first = splits[0]
    on_first = {m: [a for a in of_method if a.split == first] for m, of_method in attempts.items()}
    of_first = {m: of_method for m, of_method in on_first.items() if of_method}
    browser = browser_data(attempts, questions, metrics, _pair(results, attempts))
    # the page's policy allows this one script, by its hash
    script = Markup((HOME / "page.js").read_text(encoding="utf-8"))
    return template("page.html.j2").render(
        title=_title(results),
        style=style(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        first=first,
        summary=sections.summary(results, first),
        warnings=warnings(results),
        leaderboard=leaderboard_tables(results) if results.get("leaderboard") else [],
        headlines=[sections.headline(results, split) for split in splits],
        hacking=hacking(results, of_first, questions, metrics, browser),
        rounds=sections.rounds(results["rounds"], facts),
        obedience=sections.obedience(results["obedience"], facts),
        token_auc=sections.token_auc(results.get("token_auc") or [], facts),
        drawn=sections.drawn(results.get("drawn") or []),
        chains=chains(results.get("chains") or []),
        coalition=coalition(results),
        occupancy=sections.occupancy(results["bins"], facts),
        training=sections.training(results["training"]),
        coverage=attempts_page.coverage(results.get("coverage") or []),
        rollouts=attempts_page.rollouts(results.get("rollouts") or []),
        votes=attempts_page.votes(results.get("votes") or []),
        correlations=sections.correlations(of_first, questions, metrics),
        scatter=sections.against_length(of_first, questions, metrics, browser["pair"]),
        study=study_section(results["study"]) if results.get("study") else None,
        browser=browser,
        browser_json=json_for_script(browser),
        splits=splits,
        kinds=sorted({q["kind"] for q in browser["questions"] if q["kind"]}),
        meta=_meta(results["meta"]),
    )


def _pair(results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]]) -> list[str]:
    """The two methods compared when the page opens: of the first comparison, else the last two."""
    with_rationales = [m for m in attempts if any(a.mode != "answer" for a in attempts[m])]
    for row in results["comparisons"]:
        if {row["a"], row["b"]} <= set(with_rationales):
            return [row["a"], row["b"]]
    return [*reversed(with_rationales[-2:])]


def _title(results: Mapping[str, Any]) -> str:
    meta = results["meta"]
    model = meta.get("model") or (meta.get("config") or {}).get("model")
    return f"Rationales: {model}" if model else "Rationales: " + ", ".join(results["methods"])


def _meta(meta: Mapping[str, Any]) -> list[tuple[str, str, bool]]:
    """Name, text, and whether the text is a block: the JSON of a dictionary or a long list."""
    rows = []
    for name, value in meta.items():
        block = isinstance(value, dict) or (isinstance(value, list | tuple) and len(value) > 8)
        if block:
            text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        rows.append((name, text, block))
    return rows
