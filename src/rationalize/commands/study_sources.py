"""What a study compares: one rationale per method and question, from runs and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rationalize.config import nearest
from rationalize.errors import UsageError, UserError
from rationalize.records import Attempt, Question
from rationalize.templates import ANSWER_ALONE
from rationalize.text import clip

if TYPE_CHECKING:
    from rationalize.evaluation.compare import EvaluatedRun

Texts = dict[str, dict[str, Attempt]]
"""Method -> question id -> the attempt that is shown."""


def read_methods(
    sources: Sequence[str], names: Sequence[str], split: str | None, columns: Mapping[str, str]
) -> tuple[Texts, dict[str, Question]]:
    """The first attempt of each method (its lowest seed) at each question, and the questions that
    at least two methods answered.

    Runs keep their methods' names (with the run's where two differ), a file is one method with its
    name. Methods without rationales are left out. Raises `UserError` for fewer than two methods,
    for unknown `names`, and where one id stands for two questions.
    """
    from rationalize.evaluation.compare import read_run, shown_methods
    from rationalize.questions.files import without_suffix

    paths = [Path(source) for source in sources]
    runs = [read_run(path) for path in paths if path.is_dir()]
    methods: Texts = {}
    questions: dict[str, Question] = {}
    for method, label, run in shown_methods(runs):
        if label not in methods and (found := _of_run(run, method, split)):
            _add(methods, questions, label, found, run.questions, run.name)
    for path in paths:
        if not path.is_dir():
            attempts, asked = _of_file(path, columns)
            _add(methods, questions, without_suffix(path.name), attempts, asked, str(path))
    for name in names:
        if name not in methods:
            raise UsageError(f"--methods: there is no {name!r}{nearest(name, methods)}")
    chosen = {name: methods[name] for name in (names or methods)}
    if len(chosen) < 2:
        where = f" for {split} questions" if split else ""
        raise UserError(
            f"found {', '.join(chosen) or 'no method'} with rationales{where}; expected at least "
            "two methods. Name further runs or files as --sources, or another --split"
        )
    answered = [id for id in questions if sum(id in texts for texts in chosen.values()) > 1]
    return chosen, {id: questions[id] for id in answered}


def _of_run(run: EvaluatedRun, method: str, split: str | None) -> dict[str, Attempt]:
    from rationalize.evaluation.tables import splits_of

    wanted = split or splits_of(run.results)[0]
    seeds = run.attempts[method].get(wanted, {})
    found: dict[str, Attempt] = {}
    for seed in sorted(seeds):
        for attempt in seeds[seed]:
            if attempt.mode not in ANSWER_ALONE:
                found.setdefault(attempt.question_id, attempt)
    return found


def _of_file(
    path: Path, columns: Mapping[str, str]
) -> tuple[dict[str, Attempt], dict[str, Question]]:
    from rationalize.commands.rationale_file import RationaleFile

    if not path.is_file():
        raise UserError(
            f"{path}: no such file or run; expected the folder of a run, or a file of rationales"
        )
    rows = RationaleFile(path, columns)
    rows.check(None)
    attempts: dict[str, Attempt] = {}
    questions: dict[str, Question] = {}
    for one in rows:
        scores = _scores(one.row[rows.rewards_column], one.attempt.id)
        attempts.setdefault(one.question.id, one.attempt.scored(scores))
        questions[one.question.id] = one.question
    return attempts, questions


def _scores(given: Mapping[str, Any], where: str) -> dict[str, float | None]:
    """A row's scores as numbers; raises `UserError` where one is none."""
    for name, score in given.items():
        if not isinstance(score, float | int | None):
            raise UserError(
                f"{where}: found {clip(score)} as the score {clip(name)}; expected a number, true, "
                "false or null. Correct it, or name another column, as --columns rewards=scores"
            )
    return {name: None if score is None else float(score) for name, score in given.items()}


def _add(
    methods: Texts, questions: dict[str, Question], name: str, attempts: Mapping[str, Attempt],
    asked: Mapping[str, Question], source: str,
) -> None:  # fmt: skip
    if name in methods:
        raise UserError(f"{source}: there is a method {name!r} already; rename the file")
    for id in attempts:
        other, q = questions.setdefault(id, asked[id]), asked[id]
        if (other.question, other.choices, other.answer) != (q.question, q.choices, q.answer):
            raise UserError(
                f"{source}: the question {id!r} is another one than in an earlier source; only "
                "rationales for the same questions can be compared"
            )
    methods[name] = dict(attempts)
