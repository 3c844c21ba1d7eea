"""`report.html`: one file that needs no network, is readable without scripts, and shows any text
safely.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.files import write_text
from rationalize.records import Attempt, Question
from rationalize.report.material import Material
from rationalize.report.sections import sections
from rationalize.report.text import hash_of, script, style, template


def write_report(
    results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]],
    questions: Mapping[str, Question], path: Path | str, *, state: str = "",
) -> Path:  # fmt: skip
    """Write the page for `results` (the structure of results.json) atomically and return its path.

    `attempts` are those behind the results, by method; `questions` are those they answer, by id.
    A section without data (rounds, obedience, bins, training) is left out. `state` says above all
    else that a run goes on.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, render(results, attempts, questions, state=state))
    return path


def render(
    results: Mapping[str, Any], attempts: Mapping[str, Sequence[Attempt]],
    questions: Mapping[str, Question], *, state: str = "",
) -> str:  # fmt: skip
    """The page as HTML. Correlations, scatter charts and suspects are of the first split."""
    every = sections(Material(results, attempts, questions))
    # the page's policy allows this one script, by its hash
    code = script("tables.js", "words.js", "browser.js")
    return template("page.html.j2").render(
        title=_title(results), style=style(), script=code, script_hash=hash_of(code),
        state=state, sections=[s for s in every if s.data],
        left_out=[s.name.lower() for s in every if not s.data], meta=_meta(results["meta"]),
    )  # fmt: skip


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
