"""`check-rewards` with people: judged and reference rationales are scored into a run and compared
with their votes and verdicts.
"""

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
"""Method name of judged rationales in a run."""


def read_people(
    sources: Sequence[str], split: str, limit: int | None
) -> dict[str, list[JudgedQuestion]]:
    """The judged questions of each file or folder, by the set's name."""
    from rationalize.questions.judged import load_judged_questions, set_name

    sets: dict[str, list[JudgedQuestion]] = {}
    for source in sources:
        name = set_name(Path(source))
        if name in sets:
            raise UsageError(f"--people: two sets are called {name!r}; rename one, or run twice")
        sets[name] = load_judged_questions(source, split, limit=limit)
    return sets


def read_references(
    folders: Sequence[str], models: Sequence[str], limit: int | None
) -> list[ReferenceSet]:
    """The reference rationales of each set for its first `limit` test questions: those of `models`,
    or of all models where none is named.
    """
    from rationalize.evaluation.leaderboard import read_set, some_of

    sets = []
    for folder in folders:
        references = read_set(Path(folder), models)
        if missing := [m for m in models if m not in references.attempts]:
            known = ", ".join(references.attempts) or "nobody"
            raise UserError(
                f"{folder}: no reference rationale by {missing[0]!r}; expected models out of "
                f"{known}"
            )
        references = some_of(references, list(references.questions)[:limit], models)
        if not any(references.attempts.values()):
            raise UserError(
                f"{folder}: found no reference rationale for its {len(references.questions)} test "
                "questions; expected reference_rationales.jsonl beside the test file"
            )
        sets.append(references)
    return sets


def measure_agreement(
    run: Run, suite: RewardSuite, people: Mapping[str, Sequence[JudgedQuestion]],
    references: Sequence[ReferenceSet], prefer: tuple[str, str],
) -> dict[str, Any]:  # fmt: skip
    """Score all rationales, and write `agreement.json` and `report.html` into the run. A second
    start resumes the scoring. The suite must hold the baselines `length` and `fluency`.
    """
    from rationalize.evaluation.agreement import agreement_rows
    from rationalize.evaluation.human_agreement import (
        RIGHT_WITHIN,
        WITHIN,
        disagreements,
        judged_attempts,
        judged_set,
        reference_set,
    )
    from rationalize.report.agreement import write_agreement

    # score: judged rationales are one method, each reference model is another
    questions = _questions(people, references)
    methods: dict[str, dict[str, dict[int, list[Attempt]]]] = {}
    for name, judged in people.items():
        methods.setdefault(JUDGED, {})[name] = {0: judged_attempts(judged, name)}
    for one in references:
        for model, attempts in one.attempts.items():
            methods.setdefault(model, {})[one.name] = {0: list(attempts)}
    same_inputs(run, questions, methods, suite)
    scored = score_methods(run, suite, methods, questions)

    # compare: each reward with votes and verdicts, set by set
    names = [r.name for r in suite.rewards]
    judged_by_set = {name: scored[JUDGED][name][0] for name in people}
    people_sets = {n: judged_set(attempts, names) for n, attempts in judged_by_set.items()}
    referred_by_set = {
        one.name: [a for model in one.attempts for a in scored[model][one.name][0]]
        for one in references
    }
    reference_sets = {
        n: reference_set(attempts, names, prefer) for n, attempts in referred_by_set.items()
    }
    results = {
        "people": agreement_rows(people_sets),
        "references": agreement_rows(reference_sets),
        "notes": [note for one in references for note in one.notes],
        "meta": {"config": run.config, "environment": run.read_json("env.json")},
    }
    run.write_json("agreement.json", results)
    shown = {
        **{n: disagreements(judged_by_set[n], questions, one, WITHIN)
           for n, one in people_sets.items()},
        **{f"{n}, references": disagreements(referred_by_set[n], questions, one, RIGHT_WITHIN)
           for n, one in reference_sets.items()},
    }  # fmt: skip
    write_agreement(results, shown, run.path / "report.html")
    return results


def show_agreement(results: Mapping[str, Any]) -> str:
    """The tables of `agreement.json` as plain text, and the notes."""
    from rationalize.evaluation.human_agreement import format_agreement

    parts = [format_agreement(results[key]) for key in ("people", "references") if results[key]]
    return "\n\n".join([*parts, *(f"note: {one_line(note)}" for note in results["notes"])])


def _questions(
    people: Mapping[str, Sequence[JudgedQuestion]], references: Sequence[ReferenceSet]
) -> dict[str, Question]:
    """All questions by id. Raises `UserError` where two sets share one."""
    by_id: dict[str, Question] = {}
    sets = [(name, [j.question for j in judged]) for name, judged in people.items()]
    for name, questions in [*sets, *((one.name, one.questions.values()) for one in references)]:
        for question in questions:
            if question.id in by_id:
                raise UserError(
                    f"{name}: the question id {question.id!r} is in another set too; expected "
                    "different ids. Name the sets in separate runs"
                )
            by_id[question.id] = question
    return by_id
