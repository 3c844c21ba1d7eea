"""`score`: rewards on the rationales of any file. Trains nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import tee
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional, arg

from rationalize.commands.on_ray import (
    ExecutorSettings,
    Make,
    check_executor,
    pool_of,
)
from rationalize.commands.output_file import OutputFile
from rationalize.commands.rationale_file import Rationale, RationaleFile
from rationalize.commands.resolve import ScorerFolders, known_names, rewards_of
from rationalize.commands.resumable_file import SHARDS, begin, end, work_folder
from rationalize.commands.scored_file import (
    ScoredRows,
    copied,
    file_digest,
    leak_line,
    means_table,
    questions_digest,
    source_digest,
)
from rationalize.errors import UsageError, UserError
from rationalize.processes import alone, by_first, launched, world
from rationalize.progress import progress_bar, say
from rationalize.records import Question
from rationalize.runs.shards import deal, kept_in
from rationalize.text import one_line

if TYPE_CHECKING:
    from rationalize.rewards import Reward, RewardSuite

_BATCH = 256
"""Rows scored together: enough to fill a forward pass, few enough that any file streams."""
_CHARACTERS = 1 << 22
"""A batch also ends when its texts exceed this length: a single row may hold a megabyte."""


@dataclass(frozen=True)
class ScoreConfig(ScorerFolders, ExecutorSettings):
    """Score anybody's rationales."""

    file: Annotated[Path, Positional, arg(metavar="FILE")]
    """JSONL, JSONL.gz, CSV, TSV or parquet, or `-` for standard input. Rows have a `completion`, or
    a `rationale` and a `prediction`, or `rationales`; and `question`, `choices`, `answer` unless
    `questions` has them.
    """
    out: Path = Path("scored.jsonl")
    """Where the rows go, each with its `rewards` added: .jsonl or .jsonl.gz. A second start resumes
    a call that was stopped.
    """
    rewards: tuple[str, ...] = ("correctness", "diversity")
    """Rewards by name, or `module:function`."""
    questions: str | None = None
    """Where the questions are, if not in the file; rows name theirs by `question_id` or `id`."""
    split: str = "test"
    """Split of `questions`."""
    columns: dict[str, str] = field(default_factory=dict)
    """Column mapping for rows of another shape: our field -> theirs."""
    model: str = "default"
    """Model that `fluency` asks."""
    cache: Path | None = None
    """Folder that stores scores for later calls; none: they are not stored."""
    skip_bad_rows: str | None = None
    """Go on without rows that cannot be read, and write them to this file."""

    def __post_init__(self) -> None:
        check_executor(self)
        if self.cache is not None and (self.executor == "ray" or not launched().alone):
            raise UsageError(
                "--cache is a file that one process writes; leave it out with --executor ray, and "
                "where several processes are launched"
            )


def score(config: ScoreConfig, *, overwrite: bool = False) -> dict[str, Any]:
    """Rows in, the same rows out with their scores; a table of means at the end, also returned."""
    check_asked(config)
    by_first(OutputFile(config.out, "score", {}, overwrite).claim)
    with work_folder(config.out) as folder:
        if config.file == Path("-"):
            file = by_first(lambda: copied(sys.stdin.buffer, folder / "input"))
            return _score(config, folder, file, "standard input", overwrite)
        if read_once(config.file):
            file = by_first(partial(_copied, config.file, folder / "input"))
            return _score(config, folder, file, str(config.file), overwrite)
        return _score(config, folder, config.file, str(config.file), overwrite)


def check_asked(config: ScoreConfig) -> None:
    """Raises `UsageError` for a file that cannot be written, and without rewards; `UserError` where
    the rows are missing.
    """
    if config.out.suffix == ".parquet" or config.out.is_dir():
        raise UsageError(
            f"--out: found {str(config.out)!r}, expected a name ending in .jsonl or .gz"
        )
    if not config.rewards:
        raise UsageError("--rewards: found none; expected at least one reward to score by")
    if not read_once(config.file) and not config.file.exists():
        raise UserError(f"{config.file}: no such file; expected rows to score, or - for a pipe")


def read_once(file: Path) -> bool:
    """Whether a file can be read once only: standard input, or a pipe."""
    return file == Path("-") or file.is_fifo() or file.is_char_device()


def score_rows(
    rows: Iterable[Mapping[str, Any]],
    rewards: Sequence[str | Reward],
    columns: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Rows as `rationalize score` reads them, each with its scores under `rewards`.

    `rewards` are names, `module:function`, or `Reward`s; those that ask a model or a trained scorer
    are given as `Reward`s (`load_rewards`). Raises `UserError` for a row that cannot be read.

    >>> row = {"question": "Which sinks?", "choices": ["brick", "cork"], "answer": "brick"}
    >>> row |= {"rationale": "A brick is denser than water.", "prediction": "brick"}
    >>> score_rows([row], ["correctness"])[0]["rewards"]
    {'correctness': 1.0}
    """
    from rationalize.rewards import RewardSuite, load_rewards

    loaded = [load_rewards([r])[0] if isinstance(r, str) else r for r in rewards]
    readers = [r.name for r in loaded if r.reads_prediction]
    rationales = RationaleFile(list(rows), columns or {}, readers=readers)
    rationales.check(None)
    suite, column = RewardSuite(loaded), rationales.rewards_column
    return [
        row
        for batch in batches(rationales)
        for row in _with_scores(batch, _scores(suite, batch), column)
    ]


def _score(
    config: ScoreConfig, folder: Path, file: Path, name: str, overwrite: bool
) -> dict[str, Any]:
    from rationalize.rewards import RewardSuite

    readers = prediction_readers(config)  # what is wrong with rewards, before rows are read
    questions = questions_by_id(config)
    rationales = RationaleFile(file, config.columns, questions, name, readers)
    # before any model is loaded
    total = by_first(partial(rationales.check, config.skip_bad_rows))
    rewards = rewards_of(config.rewards, config, model=config.model)
    suite = RewardSuite(rewards, cache=config.cache)
    settings = {
        "rows": file_digest(file),
        "questions": questions and [questions_digest(questions.values()), config.split],
        "columns": config.columns,
        "rewards": [[r.name, r.version, r.scorer_hash, source_digest(r)] for r in suite.rewards],
    }
    out = OutputFile(config.out, "score", settings, overwrite)
    by_first(out.check)
    begin(folder, settings, overwrite=overwrite)
    names = [r.name for r in suite.rewards]
    scored = by_first(partial(ScoredRows, folder, names, rationales.rewards_column))
    if scored.count:
        say(one_line(f"{config.out}: resuming after {scored.count} of {total} rows"))
    _score_all(config, folder, rationales, suite, scored, total)
    by_first(partial(scored.become, config.out))
    by_first(out.sign)
    end(folder)
    print(means_table(scored.means))
    if adjusted := leak_line(scored.by_leak):
        print(adjusted)
    print(one_line(f"{config.out}: {scored.count} rows"))
    rewards_means = {
        name: {"mean": mean.total / mean.defined if mean.defined else None,
               "defined": mean.defined, "undefined": mean.undefined}
        for name, mean in scored.means.items()
    }  # fmt: skip
    return {"out": config.out, "rows": scored.count, "rewards": rewards_means}


def _copied(source: Path, file: Path) -> Path:
    with open(source, "rb") as rows:
        return copied(rows, file)


def _score_all(
    config: ScoreConfig, folder: Path, rationales: RationaleFile, suite: RewardSuite,
    scored: ScoredRows, total: int,
) -> None:  # fmt: skip
    """Add the scores of all rows that have none yet, in the order of the rows."""
    known, settings = scored.count, [r.name for r in suite.rewards]
    score, shards = partial(_scores, suite), folder / SHARDS
    shared = config.executor == "ray" or not world().alone
    with progress_bar("score", "rows") as progress:
        if shared:  # in any order, into a file for each batch
            there = known
            with pool_of(config, partial(_batch_scorer, config)) as pool, kept_in(shards):
                for _, scores in deal(
                    _lacking(rationales, known), score, settings=settings,
                    elsewhere=partial(pool, None) if pool else None,
                ):  # fmt: skip
                    there += len(scores)
                    progress(min(there, total), total, 0)
        if not world().first:
            return
        with alone(), kept_in(shards) if shared else nullcontext():
            lacking, again = tee(_lacking(rationales, known))
            made = deal(again, score, settings=settings)
            for (at, batch), (_, scores) in zip(lacking, made, strict=True):
                rows = _with_scores(batch, scores, rationales.rewards_column)
                scored.add(rows[max(0, known - at) :])
                progress(scored.count, total, 0)


def _lacking(rationales: RationaleFile, known: int) -> Iterator[tuple[int, list[Rationale]]]:
    """The batches of which not all rows are among the first `known`, with the number of their first
    row. A batch is scored as a whole, since scores may depend on it in their last digits.
    """
    at = 0
    for batch in batches(rationales):
        if at + len(batch) > known:
            yield at, batch
        at += len(batch)


def _batch_scorer(config: ScoreConfig) -> Make:
    """What scores batches in an actor."""
    from rationalize.rewards import RewardSuite

    suite = RewardSuite(rewards_of(config.rewards, config, model=config.model))
    return lambda _, batch: _scores(suite, batch)


def _scores(suite: RewardSuite, batch: Sequence[Rationale]) -> list[dict[str, float | None]]:
    questions = {r.question.id: r.question for r in batch}
    attempts = suite.score([r.attempt for r in batch], questions, columns=[r.row for r in batch])
    return [{r.name: a.rewards[r.name] for r in suite.rewards} for a in attempts]


def _with_scores(
    batch: Sequence[Rationale], scores: Sequence[Mapping[str, float | None]], column: str
) -> list[dict[str, Any]]:
    """The rows of a batch, with their scores added under `column`."""
    return [
        {**r.row, column: {**r.row[column], **of_row}}
        for r, of_row in zip(batch, scores, strict=True)
    ]


def prediction_readers(config: ScoreConfig) -> list[str]:
    """The rewards that read predictions. Raises what is known to be wrong with the rewards."""
    from rationalize.rewards.known import known_rewards

    return [
        r.name for r in known_rewards(known_names(config.rewards, config)) if r.reads_prediction
    ]


def questions_by_id(config: ScoreConfig) -> dict[str, Question] | None:
    """The questions that rows name by id; None where rows hold them."""
    if config.questions is None:
        return None
    from rationalize.questions import load_questions

    skip = config.skip_bad_rows
    found = load_questions(config.questions, config.split, skip_bad_rows=skip)
    return {q.id: q for q in found}


def batches(rationales: Iterable[Rationale]) -> Iterator[list[Rationale]]:
    """Rows to score together, in order. Equal files give equal batches."""
    batch: list[Rationale] = []
    characters = 0
    for rationale in rationales:
        batch.append(rationale)
        characters += sum(len(v) for v in rationale.row.values() if isinstance(v, str))
        if len(batch) == _BATCH or characters > _CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
