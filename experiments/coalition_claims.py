"""COALITION's five claims, decided from a finished run and its grid of ablations.

    rationalize demo --method coalition --config experiments/coalition_kinds.yaml --out runs/kinds
    rationalize train coalition-grid --full runs/kinds --arms from-base no-filter --out runs/grid
    python experiments/coalition_claims.py runs/kinds --grid runs/grid --store coalition_kinds

Tables of experiments/results/NAME.json, without texts, all of the factorial table of the test
questions (every writer's draws, each as it is and refined by everybody): `claims` (paired
differences by question, which are decided where the interval lacks 0), `cells` (who writes and who
refines, by the kind of the question), `repairs` (what refining does to rationales that lead to a
wrong answer, and to a right one) and `picked` (whom the controller chooses, by kind).
`--arm from-base`: the same of an arm of the grid.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

from tables import write_tables

from rationalize.config import from_dict
from rationalize.environment import environment
from rationalize.evaluation.intervals import bootstrap_mean, paired_difference
from rationalize.evaluation.metrics import ACCURACY, per_question, reward_metric
from rationalize.methods.base import final_stage
from rationalize.methods.coalition.ablations import ARMS
from rationalize.methods.coalition.algorithm import keep_apart
from rationalize.methods.coalition.config import CoalitionConfig
from rationalize.methods.coalition.evaluate import COALITION, SELF_CONSISTENCY
from rationalize.methods.coalition.table import (
    ALONE,
    CROSS,
    ORACLE,
    OTHERS,
    RANDOM,
    SELF,
    UNREFINED,
)
from rationalize.methods.coalition.tuning import parts_of
from rationalize.models.controller import KEEP
from rationalize.questions import load_splits
from rationalize.records import Attempt, Question
from rationalize.runs import Run

SPLIT = "test"
CLAIMS = {
    "another's refinement beats one's own": (CROSS, SELF),
    "another's refinement beats none": (CROSS, UNREFINED),
    "the controller beats random choices": (COALITION, RANDOM),
    "an oracle would beat random choices": (ORACLE, RANDOM),
    "the variants beat M_IFT": (UNREFINED, ALONE),
    "the whole beats M_IFT": (COALITION, ALONE),
    "the whole beats votes at equal tokens": (COALITION, SELF_CONSISTENCY),
}
"""What a row of a run must stand above; the filter is an arm of the grid."""


class Spec(NamedTuple):
    name: str
    range: tuple[float, float]


METRICS = (reward_metric(Spec("utility", (0.0, 1.0))), ACCURACY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--grid", type=Path)
    parser.add_argument("--arm", default="", help="an arm of the grid, in the run's place")
    parser.add_argument("--store", metavar="NAME", required=True)
    args = parser.parse_args()
    run = Run.read(args.run)
    arms = arms_of(args.grid) if args.grid else {}
    whole = arms.pop(args.arm) if args.arm else run
    seed = run.config["seed"]
    questions = {q.id: q for q in load_splits(run.config["questions"])[SPLIT]}
    rows = {**rows_of(run, seed), **rows_of(whole, seed)}  # M_IFT and the votes are the run's
    others = {} if args.arm else {name: rows_of(arm, seed) for name, arm in arms.items()}
    table = cells_of(whole, seed)
    tables = {
        "claims": [
            *claims(rows, questions),
            *against_arms(rows, others, questions),
            *of_who_knows(table, known_kinds(run), questions),
        ],
        "cells": list(cells(table, questions)),
        "repairs": list(repairs(table, questions)),
        "picked": list(picked(table, questions)),
    }
    print(write_tables(args.store, {**environment(), "seeds": [seed]}, tables))


def arms_of(grid: Path) -> dict[str, Run]:
    run = Run.read(grid)
    return {name: run.nested(f"arm-{name}") for name in run.config["arms"]}


def rows_of(run: Run, seed: int) -> dict[str, list[Attempt]]:
    """The rows of a run's or an arm's factorial table, and the votes, where they are stored."""
    found = {
        row: final_stage(run, row).stored(f"{SPLIT}-{seed}")
        for row in (COALITION, SELF_CONSISTENCY, *OTHERS)
    }
    return {row: attempts for row, attempts in found.items() if attempts is not None}


def claims(
    rows: Mapping[str, Sequence[Attempt]], questions: Mapping[str, Question]
) -> Iterator[dict[str, Any]]:
    for claim, (ours, other) in CLAIMS.items():
        if ours in rows and other in rows:
            yield {"claim": claim, **gaps(rows[ours], rows[other], questions)}


def against_arms(
    rows: Mapping[str, Sequence[Attempt]], arms: Mapping[str, Mapping[str, Sequence[Attempt]]],
    questions: Mapping[str, Question],
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The run against each arm of the grid, both with random picks: what its preferences are worth
    does not hang on a controller.
    """
    for name, arm in arms.items():
        yield {"claim": f"beats {ARMS[name][0]}", **gaps(rows[RANDOM], arm[RANDOM], questions)}


def known_kinds(run: Run) -> dict[str, set[str]]:
    """The kinds of questions that each variant was tuned on, where they are its own."""
    config = from_dict(
        CoalitionConfig,
        {f.name: run.config[f.name] for f in fields(CoalitionConfig) if f.name in run.config},
    )
    if config.parts != "kinds":
        return {}
    train, seed = load_splits(run.config["questions"])["train"], run.config["seed"]
    parts = parts_of(keep_apart(train, config, seed)[0], config, seed)
    return {
        name: {str(q.kind) for q in part} for name, part in zip(config.names, parts, strict=True)
    }


def of_who_knows(
    table: Sequence[Cell], kinds: Mapping[str, set[str]], questions: Mapping[str, Question]
) -> Iterator[dict[str, Any]]:
    """Variants tuned on a question's kind against the others, as writers and as refiners."""

    def knows(name: str, cell: Cell) -> bool:
        return questions[cell.attempt.question_id].kind in kinds[name]

    written = [c for c in table if c.refiner == KEEP and c.writer in kinds]
    refined = [c for c in table if c.refiner in kinds and c.writer in kinds]
    for does, found, who in (("writes", written, "writer"), ("refines", refined, "refiner")):
        if kinds:
            ours, other = (
                [c.attempt for c in found if knows(getattr(c, who), c) == told]
                for told in (True, False)
            )
            claim = f"who was tuned on the kind {does} better"
            yield {"claim": claim, **gaps(ours, other, questions)}


def gaps(
    ours: Sequence[Attempt], other: Sequence[Attempt], questions: Mapping[str, Question]
) -> dict[str, Any]:
    """Paired differences by question in every metric that both have."""
    cells: dict[str, Any] = {"n": len(questions)}
    for metric in METRICS:
        if all(metric.name in rows[0].rewards for rows in (ours, other)) or metric is ACCURACY:
            a, b = (per_question(rows, questions, metric) for rows in (ours, other))
            cells[metric.name] = as_cell(paired_difference(a, b, bounds=metric.bounds))
    return cells


class Cell(NamedTuple):
    writer: str
    refiner: str
    draw: int
    picked: bool
    attempt: Attempt


def cells_of(run: Run, seed: int) -> list[Cell]:
    facts = run.read_json(f"chains/table-{SPLIT}.json")
    attempts = run.read_shard(f"table-{SPLIT}-{seed}")
    return [
        Cell(f["writer"], f["asked"], f["draw"], f["picked"], a)
        for f, a in zip(facts, attempts, strict=True)
    ]


def cells(table: Sequence[Cell], questions: Mapping[str, Question]) -> Iterator[dict[str, Any]]:
    """Utility of every writer and refiner, by kind, and accuracy over all kinds."""
    utility, accuracy = METRICS
    for writer, refiner in dict.fromkeys((c.writer, c.refiner) for c in table):
        own = [c.attempt for c in table if (c.writer, c.refiner) == (writer, refiner)]
        row: dict[str, Any] = {"writer": writer, "refiner": refiner}
        for metric in (accuracy, utility):
            values = per_question(own, questions, metric)
            row[metric.name] = as_cell(bootstrap_mean(list(values.values()), bounds=metric.bounds))
        of_kind: dict[str, list[float]] = {}
        for id, value in values.items():
            of_kind.setdefault(str(questions[id].kind), []).append(value)
        yield row | {kind: sum(v) / len(v) for kind, v in sorted(of_kind.items())}


def repairs(table: Sequence[Cell], questions: Mapping[str, Question]) -> Iterator[dict[str, Any]]:
    """Of rationales that led to a wrong answer, the share that leads to the right one once it is
    refined by its writer or by another; and of those that led to the right one, the share that no
    longer does.
    """

    def right(cell: Cell) -> bool:
        return bool(ACCURACY.value(cell.attempt, questions[cell.attempt.question_id]))

    written = {(c.writer, c.draw, c.attempt.question_id): c for c in table if c.refiner == KEEP}
    refined = [c for c in table if c.refiner != KEEP]
    for who in ("its writer", "another"):
        own = [c for c in refined if (c.refiner == c.writer) == (who == "its writer")]
        pairs = [(right(written[c.writer, c.draw, c.attempt.question_id]), c) for c in own]
        row: dict[str, Any] = {"refined by": who}
        for before, name in ((False, "repaired"), (True, "spoilt")):
            changed: dict[str, list[float]] = {}
            for was, cell in pairs:
                if was == before:
                    of = changed.setdefault(cell.attempt.question_id, [])
                    of.append(float(right(cell) != was))
            shares = [sum(v) / len(v) for v in changed.values()]
            row |= {
                f"{'right' if before else 'wrong'} before": sum(map(len, changed.values())),
                name: as_cell(bootstrap_mean(shares, bounds=ACCURACY.bounds)),
            }
        same = [c.attempt.rationale == written[c.writer, c.draw, c.attempt.question_id]
                .attempt.rationale for c in own]  # fmt: skip
        yield row | {"same text": sum(same) / len(same)}


def picked(table: Sequence[Cell], questions: Mapping[str, Question]) -> Iterator[dict[str, Any]]:
    """By kind, how often the controller has each variant write, and refine, or keeps."""
    chosen = [c for c in table if c.picked]
    refiners = sorted({c.refiner for c in chosen} - {KEEP})
    for kind in sorted({str(questions[c.attempt.question_id].kind) for c in chosen}):
        own = [c for c in chosen if questions[c.attempt.question_id].kind == kind]
        row: dict[str, Any] = {"kind": kind, "n": len({c.attempt.question_id for c in own})}
        for name in refiners:
            row[f"{name} refines"] = sum(c.refiner == name for c in own) / len(own)
        for name in sorted({c.writer for c in chosen}):
            row[f"{name} writes"] = sum(c.writer == name for c in own) / len(own)
        yield row | {"kept": sum(c.refiner == KEEP for c in own) / len(own)}


def as_cell(found: Any) -> dict[str, float]:
    return {name: round(getattr(found, name), 4) for name in ("mean", "low", "high")}


if __name__ == "__main__":
    main()
