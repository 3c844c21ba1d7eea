"""The page's sections in their order: what each is called, and its data for `parts/ID.html.j2`.

A section without data is left out. A new one is an entry of `sections` and a template of its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rationalize.evaluation.tables import cells_of, leaderboard_tables, splits_of
from rationalize.evaluation.verdicts import verdicts
from rationalize.evaluation.warnings import grouped
from rationalize.report import attempts as attempts_page
from rationalize.report import learning, scores, tables
from rationalize.report.bars import bars, forest
from rationalize.report.chains import chains
from rationalize.report.coalition import coalition
from rationalize.report.hacking import hacking
from rationalize.report.material import Material
from rationalize.report.study import study_section
from rationalize.report.text import json_for_script


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    id: str
    """Its anchor, and its template: `parts/ID.html.j2`."""
    name: str
    """In the navigation."""
    title: str
    data: Any
    """What the template shows; nothing where the section is left out."""

    @property
    def template(self) -> str:
        return f"parts/{self.id}.html.j2"


def sections(material: Material) -> list[Section]:
    """Every section, those without data too."""
    results, facts = material.results, material.results["metrics"]
    found = hacking(material)
    return [
        Section("answers", "In short", "In short", _answers(results)),
        Section("warnings", "Warnings", "Read this before you believe it", _warned(results, found)),
        Section("leaderboard", "Leaderboard", "Leaderboard",
                leaderboard_tables(results) if results.get("leaderboard") else None),
        Section("results", "Tables", "Results in full",
                [tables.headline(results, split) for split in splits_of(results)]),
        Section("chains", "Chains", "Chains", chains(results.get("chains") or [])),
        Section("coalition", "Coalition", "The coalition itself", coalition(results)),
        Section("hacking", "Hacking", "Were the rewards hacked?", found),
        Section("rounds", "Rounds", "Round by round", learning.rounds(results["rounds"], facts)),
        Section("obedience", "Obedience", "Obedience", learning.tokens(results)),
        Section("bins", "Bins", "Bin occupancy", learning.bins(results)),
        Section("coverage", "Attempts", "Own attempts",
                attempts_page.coverage(results.get("coverage") or [])),
        Section("rollouts", "Updates", "Reinforcement learning, update by update",
                attempts_page.rollouts(results.get("rollouts") or [])),
        Section("votes", "Votes", "Choosing among attempts",
                attempts_page.votes(results.get("votes") or [])),
        Section("training", "Training", "Training", learning.training(results["training"])),
        Section("correlations", "Correlations", "Correlations", scores.correlations(material)),
        Section("length", "Length", "Reward against length", scores.against_length(material)),
        Section("study", "Study", "What people preferred",
                study_section(results["study"]) if results.get("study") else None),
        Section("browser", "Questions", "Questions", _browser(material)),
    ]  # fmt: skip


def _answers(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Per split: the verdicts in words, the differences, and the bars of the headline metrics."""
    return [
        {
            "name": split, "verdicts": verdicts(results, split),
            "n": max(c["metrics"]["accuracy"]["n"] for c in cells_of(results, split).values()),
            "forest": forest(results, split), "bars": (drawn := bars(results, split)),
            "stated": any("<circle" in chart["svg"] for chart in drawn),
        }
        for split in splits_of(results)
    ]  # fmt: skip


def _warned(results: Mapping[str, Any], found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The groups of warnings, worst first; a reward that looks hacked is worse than all of them."""
    hacked = [stage for stage in (found or {}).get("stages", []) if stage["hacked"]]
    groups = [
        {"title": f"{stage['name']} looks hacked", "href": f"#{stage['id']}",
         "texts": [stage["reasons"][0]["text"]]}
        for stage in hacked
    ]  # fmt: skip
    groups += [{"title": title, "href": "", "texts": texts} for title, texts in grouped(results)]
    return [{**group, "count": len(group["texts"])} for group in groups]


def _browser(material: Material) -> dict[str, Any] | None:
    data = material.browser
    if not data["questions"]:
        return None
    kinds: Sequence[str] = sorted({q["kind"] for q in data["questions"] if q["kind"]})
    splits = splits_of(material.results)
    return {**data, "kinds": kinds, "splits": splits, "json": json_for_script(data)}
