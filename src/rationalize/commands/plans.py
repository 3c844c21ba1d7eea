"""What a verb would do (`--dry-run`), in lines; raises what a start would raise before it works.

Nothing is written, and no model is loaded or asked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rationalize.commands.asked import asked_questions, is_part, split_of
from rationalize.commands.chain import coalition_folder
from rationalize.commands.output_file import OutputFile
from rationalize.commands.resolve import known_names, sampling_of, settings_of


def plan_sample(config: Any, overwrite: bool) -> list[str]:
    from rationalize.commands.sample import check_name

    check_name(config)
    OutputFile(config.out, "sample", settings_of(config), overwrite).check()
    return _writing(config)


def plan_ask(config: Any, overwrite: bool) -> list[str]:
    sampling_of(config)
    return [_model(config, None)]


def plan_evaluate(config: Any, overwrite: bool) -> list[str]:
    from rationalize.runs import check_resumable

    settings = {"method": "evaluate", **settings_of(config)}
    check_resumable(config.out, settings, overwrite=overwrite)
    return [*_writing(config), _rewards(config, config.rewards), f"results: in {config.out}"]


def plan_score(config: Any, overwrite: bool) -> list[str]:
    from rationalize.commands.rationale_file import RationaleFile
    from rationalize.commands.score import (
        check_asked,
        prediction_readers,
        questions_by_id,
        read_once,
    )
    from rationalize.questions.hub import on_hub

    check_asked(config)
    OutputFile(config.out, "score", {}, overwrite).check()
    lines = [_rewards(config, config.rewards)]
    hub = config.questions is not None and on_hub(config.questions)
    if hub or read_once(config.file):  # left to the start
        return [f"rows: {config.file}", *lines]
    rows = RationaleFile(
        config.file, config.columns, questions_by_id(config), str(config.file),
        prediction_readers(config),
    )  # fmt: skip
    return [f"rows: {rows.check(config.skip_bad_rows)} of {config.file}", *lines]


def plan_check_rewards(config: Any, overwrite: bool) -> list[str]:
    from rationalize.commands import check
    from rationalize.questions.hub import on_hub
    from rationalize.runs import check_resumable

    known = known_names(config.rewards, config)
    lines = [f"rewards: {', '.join(known)}"] if known else []
    if config.people or config.references:
        people, references = check.judged_and_references(config)
        out, settings = check.agreement_place(config)
        check_resumable(out, settings, overwrite=overwrite)
        sets = [*people, *(one.name for one in references)]
        return [*lines, f"compared with: {', '.join(sets)}", f"results: in {out}"]
    check.output_of(config, overwrite)
    if on_hub(config.questions):
        return [*lines, f"questions: {config.questions}, from the hub (not read in a dry run)"]
    return [*lines, f"attacked: {len(check.attacked(config))} rationales"]


def plan_compare(config: Any, overwrite: bool) -> list[str]:
    from rationalize.commands.evaluate import compared
    from rationalize.evaluation.compare import read_run

    _, (results, _, _) = compared(config, overwrite)
    rows = [f"{r.name} ({', '.join(r.results['methods'])})" for r in map(read_run, config.runs)]
    pairs = dict.fromkeys(f"{row['a']} - {row['b']}" for row in results["comparisons"])
    return [f"runs: {'; '.join(rows)}", *([f"pairs: {', '.join(pairs)}"] if pairs else [])]


def plan_view(config: Any, overwrite: bool) -> list[str]:
    from rationalize.report.view import watched

    return [f"runs: {', '.join(run.name for run in watched(config.runs))}"]


def plan_export(config: Any, overwrite: bool) -> list[str]:
    from rationalize.commands.export import output_of, rows_of

    output_of(config, overwrite)
    rows = rows_of(config)
    return [f"rows: {len(rows)} of {rows.of} attempts; left out: {rows.why}"]


def plan_leaderboard(config: Any, overwrite: bool) -> list[str]:
    from rationalize.commands.leaderboard import ranked, stored_settings
    from rationalize.runs import check_resumable

    check_resumable(config.out, stored_settings(config), overwrite=overwrite)
    lines = [_rewards(config, config.rewards), f"results: in {config.out}"]
    found = ranked(config)
    asked = [f"{one.name} ({len(one.questions)} test questions)" for one in found.sets]
    runs = [f"runs: {', '.join(found.ours)}"] if found.ours else []
    return [f"sets: {', '.join(asked)}", *runs, *lines]


def _writing(config: Any) -> list[str]:
    """The model and the questions that it would write to."""
    from rationalize.questions.hub import on_hub

    line = _model(config, config.server)
    sampling = sampling_of(config)
    if on_hub(config.questions):
        return [line, f"questions: {config.questions}, from the hub (not read in a dry run)"]
    questions = asked_questions(config)
    whole = Path(config.questions).is_file() and not is_part(config)
    named = "of the whole file" if whole else split_of(config)
    replies = f"{sampling.n} {'reply' if sampling.n == 1 else 'replies'} each"
    asked = f"questions: {len(questions)} {named}, {replies}"
    return [line, asked]


def _model(config: Any, server: str | None) -> str:
    from rationalize.models.folders import check_model

    if server is None and coalition_folder(config.model) is None:
        check_model(config.model)
    return f"model: {config.model}" + (f" at {server}" if server else "")


def _rewards(config: Any, names: Any) -> str:
    return f"rewards: {', '.join(known_names(names, config))}"
