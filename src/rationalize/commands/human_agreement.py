"""Judged and reference rationales, scored into a run and set against their votes and verdicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rationalize.commands.score_methods import same_inputs, score_methods
from rationalize.errors import UsageError, UserError
from rationalize.records import Attempt, Question
from rationalize.text import one_line

if TYPE_CHECKING:
    from rationalize.evaluation.leaderboard import ReferenceSet
    from rationalize.questions.judged import JudgedQuestion
    from rationalize.rewards import RewardSuite
    from rationalize.runs import Run

JUDGED = "judged"
"""What the writer of judged rationales is called."""


def read_people(
    sources: Sequence[str], split: str, limit: int | None
) -> dict[str, list[JudgedQuestion]]:
    """The judged questions of each file or folder, by its name."""
    from rationalize.questions.judged import load_judged_questions, set_name

    found: dict[str, list[JudgedQuestion]] = {}
    for source in sources:
        name = set_name(Path(source))
        if name in found:
            raise UsageError(f"--people: two sets are called {name!r}; rename one, or ask twice")
        found[name] = load_judged_questions(source, split, limit=limit)
    return found


def read_references(
    folders: Sequence[str], models: Sequence[str], limit: int | None
) -> list[ReferenceSet]:
    """The reference rationales of each set for its first `limit` test questions; of `models`, or of
    all where none is named.
    """
    from rationalize.evaluation.leaderboard import read_set, some_of

    found = []
    for folder in folders:
        own = read_set(Path(folder), models)
        if missing := [m for m in models if m not in own.attempts]:
            there = ", ".join(own.attempts) or "nobody"
            raise UserError(
                f"{folder}: no reference rationale by {missing[0]!r}; expected models out of "
                f"{there}"
            )
        own = some_of(own, list(own.questions)[:limit], models)
        if not any(own.attempts.values()):
            raise UserError(
                f"{folder}: found no reference rationale for its {len(own.questions)} test "
                "questions; expected reference_rationales.jsonl beside the test file"
            )
        found.append(own)
    return found


def measure_agreement(
    run: Run,
    suite: RewardSuite,
    people: Mapping[str, Sequence[JudgedQuestion]],
    references: Sequence[ReferenceSet],
    prefer: tuple[str, str],
) -> dict[str, Any]:
    """Score all rationales, which a second start goes on with, and write `agreement.json` and
    `report.html` into the run. The suite must hold `length` and `fluency`, the floor.
    """
    from rationalize.evaluation.agreement import agreement_rows
    from rationalize.evaluation.people import (
        RIGHT_WITHIN,
        WITHIN,
        disagreements,
        judged_attempts,
        judged_set,
        reference_set,
    )
    from rationalize.report.agreement import write_agreement

    questions = _questions(people, references)
    methods: dict[str, dict[str, dict[int, list[Attempt]]]] = {}
    for name, judged in people.items():
        methods.setdefault(JUDGED, {})[name] = {0: judged_attempts(judged, name)}
    for one in references:
        for model, attempts in one.attempts.items():
            methods.setdefault(model, {})[one.name] = {0: list(attempts)}
    same_inputs(run, questions, methods, suite)
    scored = score_methods(run, suite, methods, questions)

    names = [r.name for r in suite.rewards]
    judged_attempts_of = {name: scored[JUDGED][name][0] for name in people}
    of_people = {n: judged_set(own, names) for n, own in judged_attempts_of.items()}
    answered = {
        one.name: [a for model in one.attempts for a in scored[model][one.name][0]]
        for one in references
    }
    of_references = {n: reference_set(own, names, prefer) for n, own in answered.items()}
    results = {
        "people": agreement_rows(of_people),
        "references": agreement_rows(of_references),
        "notes": [note for one in references for note in one.notes],
        "meta": {"config": run.config, "environment": run.read_json("env.json")},
    }
    run.write_json("agreement.json", results)
    odd = {
        **{n: disagreements(judged_attempts_of[n], questions, of_people[n], WITHIN)
           for n in of_people},
        **{f"{n}, references": disagreements(answered[n], questions, own, RIGHT_WITHIN)
           for n, own in of_references.items()},
    }  # fmt: skip
    write_agreement(results, odd, run.path / "report.html")
    return results


def show_agreement(results: Mapping[str, Any]) -> str:
    """The tables of `agreement.json` as plain text, and the notes."""
    from rationalize.evaluation.people import format_agreement

    parts = [format_agreement(results[key]) for key in ("people", "references") if results[key]]
    return "\n\n".join([*parts, *(f"note: {one_line(note)}" for note in results["notes"])])


def _questions(
    people: Mapping[str, Sequence[JudgedQuestion]], references: Sequence[ReferenceSet]
) -> dict[str, Question]:
    """All questions by id; two sets must not share one."""
    found: dict[str, Question] = {}
    sets = [(name, [own.question for own in judged]) for name, judged in people.items()]
    for name, questions in [*sets, *((one.name, one.questions.values()) for one in references)]:
        for question in questions:
            if question.id in found:
                raise UserError(
                    f"{name}: the question id {question.id!r} is another set's too; expected ids "
                    "of its own. Ask for the sets apart"
                )
            found[question.id] = question
    return found
