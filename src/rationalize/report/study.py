"""A study's results in words and tables: a section of the report, a page, and the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rationalize.evaluation.tables import NONE, aligned, show, show_interval
from rationalize.files import write_text
from rationalize.report.text import style, template
from rationalize.study.results import verdict
from rationalize.text import one_line

Rows = Sequence[Mapping[str, Any]]
Table = dict[str, Any]

_SHARE = {"percent": True}
_STRENGTH: Mapping[str, Any] = {"low": None}


def study_section(results: Mapping[str, Any]) -> dict[str, Any]:
    """Sentences, tables and notes of a study (`study.results.study_results`), for the template and
    the terminal.
    """
    asks = results["asks"]
    tables = [
        _preferences(asks), _accepted(asks), _ranking(asks), _agreement(asks),
        *(_judge(judge) for judge in results["judges"]), _annotators(results["annotators"]),
    ]  # fmt: skip
    return {
        "title": results["study"],
        "about": _about(results),
        "sentences": [s for ask in asks for s in _sentences(ask)],
        "tables": [table for table in tables if table["rows"]],
        "notes": results["notes"],
    }


def write_study(results: Mapping[str, Any], path: Path) -> None:
    """Write the study's own page atomically."""
    page = template("study_page.html.j2").render(style=style(), study=study_section(results))
    write_text(path, page)


def study_text(results: Mapping[str, Any], width: int | None = None) -> str:
    """The section for the terminal."""
    section = study_section(results)
    lines = [section["about"], *section["sentences"]]
    parts = ["\n".join(map(one_line, lines))]
    for table in section["tables"]:
        rows = [[one_line(str(cell)) for cell in row] for row in (table["columns"], *table["rows"])]
        parts.append(f"{one_line(table['title'])}\n{aligned(rows, table['fixed'], width)}")
    parts += [f"note: {one_line(note)}" for note in section["notes"]]
    return "\n\n".join(parts)


def _about(results: Mapping[str, Any]) -> str:
    people = sum(row["counted"] for row in results["annotators"])
    return (
        f"{results['votes']} votes of {people} annotators on {results['items']} comparisons of "
        f"{results['questions']} questions."
    )


def _sentences(ask: Mapping[str, Any]) -> list[str]:
    """Per pair of methods what people prefer, or that they cannot be told apart."""
    found = []
    for row in ask["preferences"]:
        says = verdict(row)
        share = f"{show_interval(row, _SHARE)} %"
        counts = f"{row['votes']} votes, {row['n']} questions"
        if says == "neither":
            found.append(
                f"{ask['name']}: {row['a']} and {row['b']} cannot be told apart: {share} for "
                f"{row['a']} ({counts})."
            )
            continue
        first, second = (row["a"], row["b"]) if says == "a" else (row["b"], row["a"])
        found.append(
            f"{ask['name']}: people prefer {first} to {second}: {share} for {row['a']} ({counts})."
        )
    return found


def _preferences(asks: Rows) -> Table:
    return {
        "title": "Which do people prefer?",
        "note": "Share of votes for the first method, a vote for neither counting a half, with "
        "95 % intervals over questions and annotators (both drawn anew). 50 % is no preference.",
        "columns": ["asked", "first − second", "first, %", "votes", "first", "same", "second"],
        "fixed": 2,
        "rows": [
            [ask["name"], f"{row['a']} − {row['b']}", show_interval(row, _SHARE), row["votes"],
             row["for_a"], row["same"], row["for_b"]]
            for ask in asks for row in ask["preferences"]
        ],
    }  # fmt: skip


def _accepted(asks: Rows) -> Table:
    return {
        "title": "What do people accept?",
        "note": "Share of yes to questions that are asked about each text, with 95 % intervals "
        "over questions and annotators.",
        "columns": ["asked", "method", "yes, %", "votes"],
        "fixed": 2,
        "rows": [
            [ask["name"], row["method"], show_interval(row, _SHARE), row["votes"]]
            for ask in asks
            for row in ask["accepted"]
        ],
    }


def _ranking(asks: Rows) -> Table:
    return {
        "title": "Ranking",
        "note": "Bradley-Terry strengths: the difference of two is the logarithm of the odds that "
        "the first is preferred to the second; 0 is the average method. Half a vote for each side "
        "of every compared pair is added. 95 % intervals over questions and annotators.",
        "columns": ["asked", "method", "strength"],
        "fixed": 2,
        "rows": [
            [ask["name"], row["method"], show_interval(row, _STRENGTH, sign=True)]
            for ask in asks
            for row in ask["ranking"]
        ],
    }


def _agreement(asks: Rows) -> Table:
    rows = []
    for ask in asks:
        name = ask["name"]
        alphas = ask["alpha"]
        rows += [
            [name, f"Krippendorff's alpha, {level}", show_interval(row, {}, sign=True), ""]
            for level, row in alphas.items()
            if row
        ]
        shares = [("other people", ask["people"])]
        shares += [(f"the reward {row['reward']}", row) for row in ask["rewards"]]
        shares += [("whatever stood first", ask["first"])]
        rows += [
            [name, f"% for {what}", show_interval(row, _SHARE), row["votes"]]
            for what, row in shares
            if row
        ]
    return {
        "title": "Who agrees with people's votes?",
        "note": "Alpha: 1 is perfect agreement of annotators, 0 chance (95 % interval over "
        "questions). Shares: of the votes that prefer a text, how many other people, or the "
        "higher score of a reward, agree with; neither counts a half, 50 % is chance. Other people "
        "are the mark that a reward can be held against.",
        "columns": ["asked", "compared with", "agreement", "votes"],
        "fixed": 2,
        "rows": rows,
    }


def _judge(judge: Mapping[str, Any]) -> Table:
    rows: list[list[Any]] = []
    for ask in judge["asks"]:
        name = ask["name"]
        for row in ask["preferences"]:
            pair = f"prefers {row['a']} to {row['b']}, %"
            rows.append([name, pair, show_interval(row, _SHARE), row["votes"]])
        for row in ask["ranking"]:
            interval = show_interval(row, _STRENGTH, sign=True)
            rows.append([name, f"strength of {row['method']}", interval, ""])
        if ask["people"]:
            row = ask["people"]
            rows.append([name, "agrees with people, %", show_interval(row, _SHARE), row["votes"]])
        if ask["first"]:
            row = ask["first"]
            rows.append([name, "picks what stands first, %", show_interval(row, _SHARE),
                         row["votes"]])  # fmt: skip
        if ask["consistent"] is not None:
            rows.append([name, "same verdict in both orders, %", show(ask["consistent"], _SHARE),
                         ""])  # fmt: skip
        rows.append([name, "verdicts that cannot be read", str(ask["unreadable"]),
                     ask["verdicts"]])  # fmt: skip
    return {
        "title": f"The judge {judge['judge']}",
        "note": "A model answered the same study, every pair in both orders; it prefers a text "
        "only where it says so in both, and says neither otherwise. 50 % of its picks stand "
        "first where its position decides nothing. Intervals over questions; of the agreement with "
        "people over questions and annotators.",
        "columns": ["asked", "", "value", "n"],
        "fixed": 2,
        "rows": rows,
    }


def _annotators(annotators: Rows) -> Table:
    return {
        "title": "Annotators",
        "note": "Who fails more attention checks than the study allows is left out of all other "
        "tables. Seconds: median from the page to the vote.",
        "columns": ["annotator", "votes", "of", "checks", "failed", "seconds", "counted"],
        "fixed": 1,
        "rows": [
            [row["annotator"], row["votes"], row["of"], row["checks"], row["failed"],
             NONE if row["seconds"] is None else f"{row['seconds']:.0f}",
             "yes" if row["counted"] else "no"]
            for row in annotators
        ],
    }  # fmt: skip
