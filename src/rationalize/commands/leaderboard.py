"""`leaderboard`: reference rationales and those of our runs side by side, set by set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rationalize.commands.resolve import ScorerFolders, known_names, rewards_of, split_commas
from rationalize.commands.score_methods import same_inputs, score_methods
from rationalize.config import to_dict
from rationalize.errors import UserError
from rationalize.records import Attempt, Question
from rationalize.runs import slug
from rationalize.text import one_line

if TYPE_CHECKING:
    from rationalize.evaluation.compare import Methods
    from rationalize.evaluation.leaderboard import ReferenceSet
    from rationalize.evaluation.results import Results
    from rationalize.rewards import RewardSuite
    from rationalize.runs import Run


@dataclass(frozen=True)
class LeaderboardConfig(ScorerFolders):
    """Whose rationales are best, on the test questions of several sets."""

    data: Path
    """Folder with a folder per set: `test.jsonl(.gz)`, `reference_rationales.jsonl(.gz)`, and a
    train file for the majority answer.
    """
    sets: tuple[str, ...] = ()
    """Names of sets; none: all that have reference rationales."""
    models: tuple[str, ...] = (
        "gpt3", "flan-t5-large", "flan-t5-xl", "flan-t5-xxl", "llama-7b", "llama-65b",
    )  # fmt: skip
    """Models whose rationales are expected; a note names each that is missing. Other models are
    shown too.
    """
    runs: tuple[str, ...] = ()
    """Folders of runs evaluated on test questions of these sets."""
    rewards: tuple[str, ...] = (
        "diversity", "length", "option_copying", "answer_leak", "repetition",
    )  # fmt: skip
    """Rewards and diagnostics by name, or `module:function`."""
    fluency_model: str = "default"
    """Model that `fluency` asks."""
    skip_bad_rows: str | None = None
    """Go on without rows that cannot be read, and write them to this file."""
    out: Path = Path("runs/leaderboard")
    """Folder for results.json, report.html and the scored attempts; a second start resumes it."""


def stored_settings(config: LeaderboardConfig) -> dict[str, Any]:
    """What the run stores of its settings: all but its folder."""
    settings = {k: v for k, v in to_dict(config).items() if k != "out"}
    return {"method": "leaderboard", **settings}


def leaderboard(config: LeaderboardConfig, *, overwrite: bool = False) -> Results:
    """Read the sets and the runs, score all with the same rewards, print tables, write the page;
    returns what `results.json` holds.
    """
    from rationalize.evaluation.leaderboard import pairs_on_equal_questions
    from rationalize.rewards import RewardSuite
    from rationalize.runs import Run, check_resumable

    settings = stored_settings(config)
    check_resumable(config.out, settings, overwrite=overwrite)
    known_names(config.rewards, config)
    sets, questions, references, ours, notes = ranked(config)
    methods = references | ours
    notes = [note for one in sets for note in one.notes] + notes
    rewards = rewards_of(config.rewards, config, model=config.fluency_model)
    with Run.open(config.out, settings, overwrite=overwrite) as run:
        suite = RewardSuite(rewards, cache=run.folder("scores"))
        same_inputs(run, questions, methods, suite)
        scored = score_methods(run, suite, methods, questions)
        baseline, without = _majority_answers(run, sets)
        # each of our runs against each model that answered the same questions
        pairs, uncompared = pairs_on_equal_questions(list(ours), list(references), scored)
        notes = [*notes, *without, *uncompared]
        return _report(run, suite, sets, questions, {**baseline, **scored}, pairs, notes)


class Ranked(NamedTuple):
    """What a leaderboard is of."""

    sets: list[ReferenceSet]
    questions: Mapping[str, Question]
    references: Methods
    ours: Methods
    notes: list[str]
    """On our runs."""


def ranked(config: LeaderboardConfig) -> Ranked:
    """The sets and our runs' methods. Raises what is wrong with the files."""
    from rationalize.evaluation.compare import read_run
    from rationalize.evaluation.leaderboard import join_sets, read_set, run_attempts, sets_in

    names = split_commas(config.sets) or sets_in(config.data)
    models = split_commas(config.models)
    sets = [
        read_set(config.data / name, models, skip_bad_rows=config.skip_bad_rows)
        for name in dict.fromkeys(names)
    ]
    questions, references = join_sets(sets)
    ours, notes = run_attempts([read_run(run) for run in split_commas(config.runs)], sets)
    if not references and not ours:
        raise UserError(
            f"{config.data}: found no rationales for {', '.join(names)}; expected "
            "reference_rationales.jsonl in a set's folder, or --runs"
        )
    return Ranked(sets, questions, references, ours, notes)


def _report(
    run: Run, suite: RewardSuite, sets: Sequence[ReferenceSet], questions: Mapping[str, Question],
    methods: Methods, pairs: Sequence[tuple[str, str]], notes: list[str],
) -> Results:  # fmt: skip
    """Write results.json, the questions and the page; print the tables and the notes."""
    from rationalize.evaluation.compare import flat
    from rationalize.evaluation.leaderboard import over_sets
    from rationalize.evaluation.metrics import metrics_of
    from rationalize.evaluation.results import save_questions, summarise_metrics
    from rationalize.evaluation.tables import format_leaderboard, format_table
    from rationalize.evaluation.terminal import format_warnings
    from rationalize.report import write_report

    metrics = metrics_of(suite.trainable, suite.diagnostics)
    meta = {
        "sets": [f"{s.name} ({len(s.questions)} test questions)" for s in sets],
        "coverage": [dict(row) for s in sets for row in s.coverage], "config": run.config,
        "environment": run.read_json("env.json"),
    }  # fmt: skip
    results = summarise_metrics(
        methods, questions, metrics, pairs=pairs, meta=meta,
        seedless={model for one in sets for model in one.attempts},
    )  # fmt: skip
    results |= {"notes": notes, "leaderboard": over_sets(methods, questions, metrics)}
    run.write_json("results.json", results)
    save_questions(run, questions.values())
    write_report(results, flat(methods), questions, run.path / "report.html")
    for one in sets:
        print(format_table(results, one.name), end="\n\n")
    print(format_leaderboard(results), end="\n\n")
    if told := format_warnings({**results, "notes": []}):
        print(told)
    print("\n".join(f"note: {one_line(note)}" for note in notes) or "nothing is missing")
    print(f"report: {run.path / 'report.html'}")
    return results


def _majority_answers(run: Run, sets: Sequence[ReferenceSet]) -> tuple[Methods, list[str]]:
    """The majority answer of each set's train file, and notes on the sets without one."""
    from rationalize.evaluation.baselines import MAJORITY, majority_attempts
    from rationalize.questions import load_questions
    from rationalize.questions.files import has_split

    data, skip = Path(run.config["data"]), run.config["skip_bad_rows"]
    splits: dict[str, dict[int, list[Attempt]]] = {}
    notes = []
    for one in sets:
        if not has_split(data / one.name, "train"):
            notes.append(f"{one.name}: no train file, so no majority answer.")
            continue
        train = load_questions(data / one.name, "train", skip_bad_rows=skip)
        attempts = majority_attempts(train, list(one.questions.values()), split=one.name)
        run.append(attempts, f"floor-{slug(one.name)}")
        splits[one.name] = {0: attempts}
    return ({MAJORITY: splits} if splits else {}), notes
