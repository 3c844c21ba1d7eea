"""`report.html`: one file without a network, readable without scripts, safe with any text in it."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rationalize.evaluation.diagnostics import warnings
from rationalize.evaluation.metrics import metrics_from_facts, settle_worst
from rationalize.evaluation.tables import leaderboard_tables, splits_of
from rationalize.records import Attempt, Question
from rationalize.report import attempts as attempts_page
from rationalize.report import sections
from rationalize.report.browser import browser_data
from rationalize.report.chains import chains
from rationalize.report.coalition import coalition
from rationalize.report.hacking import hacking
from rationalize.report.text import HOME, json_for_script, style, template


def write_report(
    results: Mapping[str, Any],
    attempts: Mapping[str, Sequence[Attempt]],
    questions: Mapping[str, Question],
    path: Path | str,
) -> Path:
    """Write the page for `results` (the structure of results.json) and return its path.

    `attempts` are those behind the results, by method; `questions` are those they answer, by id.
    Sections for which results hold nothing (rounds, obedience, bins, training) are left out with a
    line that says so.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(render(results, attempts, questions), encoding="utf-8", newline="\n")
    os.replace(fresh, path)
    return path


def render(
    results: Mapping[str, Any],
    attempts: Mapping[str, Sequence[Attempt]],
    questions: Mapping[str, Question],
) -> str:
    facts = results["metrics"]
    everything = [a for own in attempts.values() for a in own]
    metrics = settle_worst(metrics_from_facts(facts), everything, questions)
    splits = splits_of(results)
    first = splits[0]
    of_first = {m: own for m in attempts if (own := [a for a in attempts[m] if a.split == first])}
    browser = browser_data(attempts, questions, metrics, _pair(results, attempts))
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
        chains=chains(results.get("chains") or []),
        coalition=coalition(results),
        occupancy=sections.occupancy(results["bins"], facts),
        training=sections.training(results["training"]),
        coverage=attempts_page.coverage(results.get("coverage") or []),
        rollouts=attempts_page.rollouts(results.get("rollouts") or []),
        votes=attempts_page.votes(results.get("votes") or []),
        correlations=sections.correlations(of_first, questions, metrics),
        scatter=sections.against_length(of_first, questions, metrics, browser["pair"]),
        browser=browser,
        browser_json=json_for_script(browser),
        splits=splits,
        kinds=sorted({q["kind"] for q in browser["questions"] if q["kind"]}),
        meta=_meta(results["meta"]),
    )


def _pair(results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]]) -> list[str]:
    """The two methods shown side by side at first: of the first comparison, or the last two."""
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
    """Name, text, and whether the text is a block of its own."""
    rows = []
    for name, value in meta.items():
        block = (isinstance(value, dict | list | tuple) and len(value) > 8) or isinstance(
            value, dict
        )
        if isinstance(value, list | tuple) and not block:
            text = ", ".join(map(str, value))
        else:
            text = (
                json.dumps(value, indent=2, ensure_ascii=False, default=str)
                if block
                else str(value)
            )
        rows.append((name, text, block))
    return rows
